"""`check_loss` on right losses, on which no law may fire, and how it is called."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxopt_lite.testing import ConformanceError, LossCase, check_loss, loss_laws
from tests.testing import loss_mutants, right_losses
from tests.testing.right_losses import squares, squares_oracle


@pytest.mark.parametrize("name", right_losses.LOSSES)
def test_nothing_fires_on_a_right_loss(name):
    check_loss(right_losses.LOSSES[name]())


def test_there_are_enough_laws_and_mutants():
    assert len(loss_laws) >= 25
    assert len(loss_mutants.MUTANTS) >= 30


def test_inputs_may_come_from_a_key():
    make = lambda key: (jax.random.normal(key, (6, 2)), jnp.zeros((6, 2)))
    report = check_loss(squares, inputs=make, oracle=squares_oracle, laws=["matches_oracle"])
    assert len(report.passed) == 1
    with pytest.raises(ConformanceError, match="ordinary inputs"):
        check_loss(squares, inputs=make, oracle=lambda p, t: p - t, laws=["matches_oracle"])


def test_options_go_in_by_partial():
    report = check_loss(partial(optax.huber_loss, delta=2.0), claims={"convex"}, laws=["convex"])
    assert (report.item, len(report.passed)) == ("huber_loss", 1)


def test_a_case_keeps_its_own_facts():
    with pytest.raises(TypeError, match="already has its oracle"):
        check_loss(LossCase(squares), oracle=squares_oracle)
