"""Reports side by side: text, `rich` tables, JSON, HTML."""

import json

import pytest

from jaxopt_lite.testing import matrix
from jaxopt_lite.testing.report import FAILED, PASSED, Report, Result

GOOD = Report("good", (Result("odd", PASSED), Result("descends", PASSED)))
BAD = Report("<bad>", (Result("descends", FAILED, 'rose "fast" & <far>'), Result("convex", PASSED)))


def test_laws_are_rows_and_items_columns():
    rows = dict(matrix.marks([GOOD, BAD]))
    assert list(rows) == ["odd", "descends", "convex"]
    assert [mark for mark, _ in rows["descends"]] == ["ok", "FAIL"]
    assert rows["odd"][1] == ("", "")


def test_plain_text_is_aligned_and_many_items_are_split():
    text = matrix.as_text([GOOD, BAD])
    assert "descends  ok    FAIL" in text
    assert "good: 2 passed, 0 failed" in text
    assert matrix.as_text([GOOD] * (matrix.COLUMNS + 1)).count("law  ") == 2


def test_rich_tables_hold_the_same():
    pytest.importorskip("rich")
    (table,) = matrix.as_tables([GOOD, BAD])
    assert (table.row_count, len(table.columns)) == (3, 3)


def test_json_and_html_keep_every_verdict_and_escape():
    assert json.loads(matrix.as_json([GOOD, BAD]))[1]["results"][0]["status"] == "failed"
    page = matrix.as_html([GOOD, BAD])
    assert "&lt;bad&gt;" in page
    assert 'class="FAIL" title="rose &quot;fast&quot; &amp; &lt;far&gt;"' in page
    assert "<far>" not in page
