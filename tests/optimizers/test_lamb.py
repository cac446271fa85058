"""LAMB: the paper's formula, optax's numbers, degenerate layers."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_lite import optimizers
from tests.oracles import optimizers_more as oracle
from tests.oracles.optimizers_check import DECAY, check, same_signature, schedule

ROWS = [{}, {"b1": 0.5, "b2": 0.9, "eps_root": 1e-4}, DECAY]


@pytest.mark.parametrize("options", ROWS, ids=["default", "betas", "decay"])
def test_lamb_is_the_papers_and_optaxs(options):
    check(optimizers.lamb, oracle.lamb, options, learning_rate=schedule, peer=optax.lamb)


def test_signature():
    same_signature(optimizers.lamb, optax.lamb)


@pytest.mark.parametrize("size", [1e-4, 1e20])
def test_every_layer_turns_by_the_learning_rate(size):
    tx = optimizers.lamb(0.1, eps=0.0)
    p = jnp.array([3.0, 4.0])
    u, _ = tx.update(size * jnp.ones(2), tx.init(p), p)
    np.testing.assert_allclose(u, -0.1 * 5 / np.sqrt(2), rtol=1e-6)


def test_a_layer_of_zeros_takes_adams_step():
    tx = optimizers.lamb(0.1, eps=0.0)
    u, _ = tx.update(jnp.array([2.0, 0.0]), tx.init(jnp.zeros(2)), jnp.zeros(2))
    np.testing.assert_allclose(u, [-0.1, 0], rtol=1e-6)
