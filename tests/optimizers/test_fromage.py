"""Fromage: the paper's formula, optax's numbers, small learning rates without cancellation."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_lite import optimizers
from tests.oracles import optimizers_more as oracle
from tests.oracles.optimizers_check import check, same_signature, schedule


@pytest.mark.parametrize("options", [{}, {"min_norm": 5.0}], ids=str)
def test_fromage_is_the_papers_and_optaxs(options):
    check(optimizers.fromage, oracle.fromage, options, peer=optax.fromage)


def test_with_a_schedule():
    # Of the update's two parts, of opposite signs, only the sum is counted as the way: more roundings.
    check(optimizers.fromage, oracle.fromage, {}, learning_rate=schedule, roundings=64)


def test_signature():
    same_signature(optimizers.fromage, optax.fromage)


def test_the_shrinkage_of_a_small_learning_rate_keeps_its_digits():
    tx = optimizers.fromage(1e-4)
    u, _ = tx.update(jnp.zeros(1), tx.init(jnp.ones(1)), jnp.ones(1))
    np.testing.assert_allclose(u, -0.5e-8, rtol=1e-6)
