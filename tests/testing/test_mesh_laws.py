"""Laws about compiled programs: memory on one device, the rest on eight, in a process of its own."""

import json
import os
import subprocess
import sys

import pytest

from jaxopt_lite.testing import mesh_laws, transformation_laws
from jaxopt_lite.testing.report import run_laws
from tests.testing import exports, mutants, right
from tests.testing.mutation import breaks_exactly, named_in, unbroken


@pytest.mark.parametrize("name", named_in(mesh_laws))
def test_mutant(name):
    breaks_exactly(name)


@pytest.fixture(scope="module")
def verdicts():
    """What one process with eight devices says of mutants, right items and exports."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.testing.mesh_mutants"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_mutants_that_are_wrong_on_eight_devices_only(verdicts):
    for name, broken, expected, report in verdicts["items"]:
        assert broken == expected, f"{name}\n{report}"
    assert {law for _, broken, _, _ in verdicts["items"] for law in broken} == unbroken(mesh_laws)


def test_exports_keep_the_laws_on_eight_devices(verdicts):
    assert [name for name, *_ in verdicts["exports"]] == exports.checked()
    for name, broken, held, report in verdicts["exports"]:
        assert not broken, f"{name}\n{report}"
        assert held == 2 + bool(exports.ROWS.get(name, exports.row())["claims"] & {"elementwise"}), report


def test_the_laws_say_that_they_did_not_run_on_one_device():
    laws = {name: transformation_laws[name] for name in mutants.MESH}
    report = run_laws(right.TRANSFORMATIONS["sgd"](), laws)
    assert [r.detail for r in report.not_run] == ["needs 8 devices, this process has 1"] * 3
    assert not report.passed
    assert not report.failures
