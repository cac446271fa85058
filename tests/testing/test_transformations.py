"""`check_transformation` on right items, on which no law may fire, and how it is called."""

import pytest

from jaxopt_lite.testing import (
    ConformanceError,
    TransformationCase,
    check_transformation,
    transformation_laws,
)
from tests.testing import mutants, right
from tests.testing.right import descend, stateless


@pytest.mark.parametrize("name", right.TRANSFORMATIONS)
def test_nothing_fires_on_a_right_item(name):
    check_transformation(right.TRANSFORMATIONS[name]())


def test_there_are_enough_laws_and_mutants():
    assert len(transformation_laws) >= 40
    assert len(mutants.MUTANTS) >= 40


def test_ones_own_parameters_reach_the_laws():
    import jax.numpy as jnp

    seen = []
    check_transformation(
        stateless(descend), params={"w": jnp.ones(2)}, laws=[lambda case: seen.append(case.params["w"].shape)]
    )
    assert seen == [(2,)]


def test_a_case_keeps_its_own_facts():
    case = TransformationCase(stateless(lambda g, p: g), expected_failures={"descends": "it climbs"})
    assert check_transformation(case, laws=["descends"]).declared
    with pytest.raises(TypeError, match="already has its claims"):
        check_transformation(case, claims={"odd"})


def test_budgets_are_claims():
    report = check_transformation(
        stateless(descend), claims={"temporaries <= 1"}, laws=["temporaries_within_budget"]
    )
    assert report.passed
    with pytest.raises(ConformanceError, match="too much temporary memory"):
        check_transformation(
            right.with_slot(right.momentum),
            claims={"temporaries <= -1"},
            laws=["temporaries_within_budget"],
        )
