"""AdaGrad: the paper's formula, optax's numbers, huge gradients."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_lite import optimizers
from tests.oracles import optimizers_more as oracle
from tests.oracles.optimizers_check import DECAY, against_golden, check, same_signature, schedule

ROWS = [{}, {"initial_accumulator_value": 0.0, "eps": 0.0}]


@pytest.mark.parametrize("options", ROWS, ids=str)
def test_adagrad_is_the_papers_and_optaxs(options):
    check(optimizers.adagrad, oracle.adagrad, options, peer=optax.adagrad)


def test_with_weight_decay_and_schedule():
    check(optimizers.adagrad, oracle.adagrad, DECAY, learning_rate=schedule)


def test_adagrad_is_pytorchs():
    against_golden(optimizers.adagrad(0.01, eps=0.0), "optimizers_torch.json", "adagrad")


def test_signatures():
    same_signature(optimizers.adagrad, optax.adagrad)
    same_signature(optimizers.scale_by_rss, optax.scale_by_rss)


def test_sums_of_huge_squares_are_finite():
    tx = optimizers.adagrad(0.1)
    state = tx.init(jnp.zeros(1))
    for _ in range(4):
        u, state = tx.update(jnp.array([1e20]), state, jnp.zeros(1))
    np.testing.assert_allclose(u, -0.05, rtol=1e-6)
    assert jnp.isfinite(state[0].sum_of_squares).all()
