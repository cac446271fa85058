"""Several reports as one matrix: text, `rich` table, JSON, HTML."""

import html
import json
from collections.abc import Sequence
from typing import Any

from jaxopt_lite.testing.report import MARKS, Report

COLUMNS = 6
COLOURS = {"ok": "green", "FAIL": "bold red", "declared": "yellow", "-": "dim"}
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Conformance</title>
<style>body{{font:14px sans-serif}}td,th{{padding:2px 8px;border-bottom:1px solid #ddd;text-align:left}}
.ok{{color:#080}}.FAIL{{color:#c00;font-weight:bold}}.declared{{color:#a60}}</style>
<table><thead><tr><th>law</th>{head}</tr></thead><tbody>
{body}
</tbody></table></html>"""


def marks(reports: Sequence[Report]) -> list[tuple[str, list[tuple[str, str]]]]:
    """For every law its (mark, detail) in each report; empty where a report has no such law."""
    laws = list(dict.fromkeys(r.law for report in reports for r in report.results))
    tables = [{r.law: (MARKS[r.status], r.detail) for r in report.results} for report in reports]
    return [(law, [table.get(law, ("", "")) for table in tables]) for law in laws]


def as_text(reports: Sequence[Report]) -> str:
    """Plain text, a few items side by side."""
    blocks = []
    for start in range(0, len(reports), COLUMNS):
        some = reports[start : start + COLUMNS]
        rows = [("law", *(r.item for r in some))]
        rows += [(law, *(mark for mark, _ in cells)) for law, cells in marks(some)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(x.ljust(w) for x, w in zip(row, widths, strict=True)).rstrip() for row in rows)
        blocks.append("\n".join(lines))
    return "\n\n".join([*blocks, "\n".join(r.summary() for r in reports)])


def as_tables(reports: Sequence[Report]) -> list[Any]:
    """`rich` tables, a few items side by side."""
    from rich.table import Table

    tables = []
    for start in range(0, len(reports), COLUMNS):
        some = reports[start : start + COLUMNS]
        table = Table("law", *(r.item for r in some))
        for law, cells in marks(some):
            table.add_row(law, *(f"[{COLOURS.get(m, 'none')}]{m}[/]" for m, _ in cells))
        tables.append(table)
    return tables


def as_json(reports: Sequence[Report]) -> str:
    """A list of items, each with its laws, verdicts and details."""
    return json.dumps([r.to_dict() for r in reports], indent=1, ensure_ascii=False)


def as_html(reports: Sequence[Report]) -> str:
    """One page; the detail of a verdict shows when the mouse rests on it."""
    head = "".join(f"<th>{html.escape(r.item)}</th>" for r in reports)
    cell = lambda m, d: f'<td class="{m}" title="{html.escape(d)}">{m}</td>'
    rows = (
        f"<tr><td>{html.escape(law)}</td>{''.join(cell(*c) for c in cells)}</tr>"
        for law, cells in marks(reports)
    )
    return PAGE.format(head=head, body="\n".join(rows))
