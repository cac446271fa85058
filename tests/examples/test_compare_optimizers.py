"""The comparison in small: every figure is there, and the picture."""

import importlib
import pathlib

import numpy as np
import pytest

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
SMALL = {"width": 32, "depth": 1, "length": 32, "batch": 16, "steps": 60}


@pytest.mark.slow
def test_every_optimizer_learns_and_stands_in_the_table(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    example = importlib.import_module("compare_optimizers")
    assert len(example.OPTIMIZERS) == 8
    rows = example.main(only=("adamw", "schedule_free"), **SMALL)  # asserts the unigram entropy
    printed = capsys.readouterr().out
    assert all(name in printed for name in rows)
    assert list(rows) == sorted(rows, key=lambda name: rows[name]["bits"])
    for row in rows.values():
        assert row["losses"].shape == (SMALL["steps"],)
        assert row["losses"][-1] < row["losses"][0] - 2
        assert row["seconds"] > 0
        assert np.isfinite(row["bits"])
    assert (tmp_path / "out" / "compare_optimizers.png").read_bytes().startswith(b"\x89PNG")
