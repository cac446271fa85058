"""SM3: the paper's covers, optax's numbers, memory."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_lite import optimizers
from jaxopt_lite.optimizers.moments import K
from tests.oracles import optimizers_more as oracle
from tests.oracles.optimizers_check import DECAY, check, same_signature, schedule


@pytest.mark.parametrize("options", [{}, {"momentum": 0.0}], ids=str)
def test_sm3_is_the_papers_and_optaxs(options):
    check(optimizers.sm3, oracle.sm3, options, peer=optax.sm3)


def test_with_weight_decay_and_schedule():
    check(optimizers.sm3, oracle.sm3, DECAY, learning_rate=schedule)


def test_signatures():
    same_signature(optimizers.sm3, optax.sm3)
    same_signature(optimizers.scale_by_sm3, optax.scale_by_sm3)


def test_three_axes_have_three_accumulators():
    tx, g = optimizers.scale_by_sm3(b1=0.0, eps=0.0), jnp.arange(1.0, 25.0).reshape(2, 3, 4)
    state = tx.init(g)
    assert [a.shape for a in state.mu] == [(2,), (3,), (4,)]
    u, state = jax.jit(tx.update)(g, state)
    np.testing.assert_allclose(u, 1, rtol=1e-6)
    for i, others in enumerate([(1, 2), (0, 2), (0, 1)]):
        np.testing.assert_allclose(state.mu[i] / K**2, np.max(np.square(g), axis=others), rtol=1e-6)


def test_huge_gradients_stay_in_range():
    tx = optimizers.sm3(0.1, momentum=0.0)
    state, g = tx.init(jnp.zeros((2, 2))), jnp.array([[1e20, 1.0], [2.0, 0.0]])
    for size in (1, 2):
        u, state = tx.update(g, state, g)
        assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(state))
        np.testing.assert_allclose(u[0, 0], -0.1 / np.sqrt(size), rtol=1e-6)
