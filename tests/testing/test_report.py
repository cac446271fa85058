"""Reports, errors, expected failures, the choice of laws, and what a law must look like."""

import inspect
import subprocess
import sys

import jax.numpy as jnp
import pytest

import jaxopt_lite.testing as kit
from jaxopt_lite.testing import ConformanceError, NotRun, check_loss, check_transformation
from tests.testing.right import descend, stateless
from tests.testing.right_losses import squares

TABLES = [kit.transformation_laws, kit.loss_laws, kit.schedule_laws, kit.codec_laws]
LAWS = [
    pytest.param(law, id=f"{law.__module__.split('.')[-1]}-{name}") for t in TABLES for name, law in t.items()
]


def sgd():
    return stateless(descend)


def ascends():
    return stateless(lambda g, p: 0.01 * g)


def test_failures_are_collected_and_say_input_got_and_expected():
    with pytest.raises(ConformanceError) as caught:
        check_transformation(ascends(), claims={"scale_invariant"}, name="uphill")
    message, report = str(caught.value), caught.value.report
    assert isinstance(caught.value, AssertionError)
    assert {r.law for r in report.failures} == {"descends", "scale_invariant"}
    assert message.startswith("uphill breaks 2 of")
    assert "input: ½‖p − t‖²" in message
    assert "got: " in message
    assert "expected: lower" in message


def test_what_an_item_raises_is_a_failure_of_the_law():
    def loss(predictions, targets):
        raise OverflowError("too much")

    with pytest.raises(ConformanceError, match="raised OverflowError: too much"):
        check_loss(loss, inputs=(jnp.ones((2, 3)), jnp.ones((2, 3))), laws=["jit_equals_eager"])


def test_what_a_law_raises_is_a_failure_and_not_run_is_neither_passed_nor_failed():
    def breaks_down(case):
        raise KeyError("x")

    def waits(case):
        raise NotRun("needs patience")

    with pytest.raises(ConformanceError) as caught:
        check_transformation(sgd(), laws={"breaks_down": breaks_down, "waits": waits})
    report = caught.value.report
    assert [r.law for r in report.failures] == ["breaks_down"]
    assert [r.detail for r in report.not_run] == ["needs patience"]


def test_expected_failures_are_strict_both_ways():
    declared = {"descends": "it climbs"}
    report = check_transformation(ascends(), expected_failures=declared)
    assert [r.law for r in report.declared] == ["descends"]
    assert "it climbs" in report.declared[0].detail
    with pytest.raises(ConformanceError, match="declared to fail"):
        check_transformation(sgd(), expected_failures=declared, laws=["descends"])


@pytest.mark.parametrize("argument", ["laws", "expected_failures"])
def test_unknown_laws_are_refused(argument):
    names = {"desends": "typo"}
    with pytest.raises(ValueError, match="desends"):
        check_transformation(sgd(), **{argument: list(names) if argument == "laws" else names})


def test_own_laws_run_beside_the_named_ones():
    seen = []
    report = check_loss(squares, laws=["convex", lambda case: seen.append(case.name)], claims={"convex"})
    assert seen == ["squares"]
    assert len(report.passed) == 2


def test_a_report_prints_as_a_table_with_and_without_rich():
    report = check_loss(squares, laws=["convex", "jit_equals_eager"])
    assert "convex            -         needs the claim convex" in str(report)
    assert report.__rich__().row_count == 2
    assert report.to_dict()["results"][1]["status"] == "passed"


@pytest.mark.parametrize("law", LAWS)
def test_a_law_is_short_and_says_what_it_means(law):
    lines = inspect.getsource(law).rstrip().splitlines()
    assert len(lines) <= 15
    assert len(inspect.getdoc(law)) > 40


def test_all_is_sorted_and_true():
    names = kit.__all__
    assert names == sorted(names)
    assert all(hasattr(kit, name) for name in names)


def test_neither_the_library_nor_the_checks_import_hypothesis_pytest_or_rich():
    code = "import sys, jaxopt_lite, jaxopt_lite.testing as t; t.check_schedule(lambda s: s * 0.5 + 0.5, steps=3, "
    code += "laws=['finite_at_every_step']); print({'hypothesis', 'pytest', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
