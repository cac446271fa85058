"""Adam-mini: one second moment per output neuron or tensor, as in the paper and its code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_lite import optimizers
from tests.oracles import optimizers as oracle
from tests.oracles.optimizers_check import DECAY, against_golden, check, schedule

ROWS = [{}, {"b1": 0.5, "b2": 0.9, "eps": 1e-3}, DECAY]


@pytest.mark.parametrize("options", ROWS, ids=["default", "betas", "decay"])
def test_adam_mini_is_the_papers(options):
    check(optimizers.adam_mini, oracle.adam_mini, options, learning_rate=schedule)


def test_adam_mini_is_the_code_of_a_peer():
    against_golden(optimizers.adam_mini(0.01), "optimizers_more.json", "adam_mini")


def test_blocks_name_the_axes_that_have_their_own():
    p = jnp.zeros((2, 3, 4))
    for axes, shape in (((1,), (1, 3, 1)), ((0, -1), (2, 1, 4)), ((), (1, 1, 1))):
        tx = optimizers.scale_by_adam_mini(blocks=lambda leaf, axes=axes: axes)
        assert tx.init(p).nu.shape == shape
    assert optimizers.scale_by_adam_mini().init(p).nu.shape == (1, 1, 1)
    assert optimizers.scale_by_adam_mini().init(p[0]).nu.shape == (1, 4)


@pytest.mark.parametrize("size", [1e-12, 1e20])
def test_gradients_of_any_magnitude_move_by_the_learning_rate(size):
    tx = optimizers.adam_mini(0.1, eps=0.0)
    p, g = jnp.zeros((2, 2)), size * jnp.array([[3.0, 0.0], [4.0, 1.0]])
    u, state = tx.update(g, tx.init(p), p)
    root = np.sqrt([12.5, 0.5])
    np.testing.assert_allclose(u, -0.1 * np.array([[3.0, 0.0], [4.0, 1.0]]) / root, rtol=1e-5)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(state))
