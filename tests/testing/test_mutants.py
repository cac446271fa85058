"""Every wrong item breaks exactly the laws it is said to break; every right one breaks none."""

import json
import os
import subprocess
import sys

import pytest

from jaxopt_lite.testing import loss_laws, transformation_laws
from jaxopt_lite.testing.report import run_laws
from tests.testing import loss_mutants, mutants, right, right_losses

RIGHT = [(make, transformation_laws) for make in right.TRANSFORMATIONS.values()]
RIGHT += [(make, loss_laws) for make in right_losses.LOSSES.values()]
NAMES = [*right.TRANSFORMATIONS, *right_losses.LOSSES]
WRONG = [(*entry, transformation_laws) for entry in mutants.MUTANTS.values()]
WRONG += [(*entry, loss_laws) for entry in loss_mutants.MUTANTS.values()]
WRONG_NAMES = [*mutants.MUTANTS, *(f"loss {name}" for name in loss_mutants.MUTANTS)]


@pytest.mark.parametrize(("make", "laws"), RIGHT, ids=NAMES)
def test_nothing_fires_on_a_right_item(make, laws):
    run_laws(make(), laws).raise_for_failures()


@pytest.mark.parametrize(("make", "broken", "laws"), WRONG, ids=WRONG_NAMES)
def test_a_wrong_item_breaks_its_laws_and_no_other(make, broken, laws):
    report = run_laws(make(), laws)
    assert {r.law for r in report.failures} == broken, report


def test_there_are_enough_mutants_and_most_laws_are_named_by_one():
    assert len(mutants.MUTANTS) + len(loss_mutants.MUTANTS) >= 40
    named = {law for _, broken in mutants.MUTANTS.values() for law in broken}
    assert set(transformation_laws) - named <= set(mutants.MESH)
    assert set(loss_laws) == {law for _, broken in loss_mutants.MUTANTS.values() for law in broken}


def test_mesh_laws_catch_what_goes_wrong_on_eight_devices_only():
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.testing.mesh_mutants"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    for name, broken, expected, report in json.loads(done.stdout):
        assert broken == expected, f"{name}\n{report}"


def test_mesh_laws_say_that_they_did_not_run_on_one_device():
    laws = {name: transformation_laws[name] for name in mutants.MESH}
    report = run_laws(right.TRANSFORMATIONS["sgd"](), laws)
    assert [r.detail for r in report.not_run] == ["needs 8 devices, this process has 1"] * 3
    assert not report.passed
    assert not report.failures
