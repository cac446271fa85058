"""MARS: the paper's formula, the code of a peer, hostile gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_lite import optimizers
from tests.oracles import optimizers as oracle
from tests.oracles.optimizers_check import DECAY, against_golden, check, schedule

ROWS = [{}, {"b1": 0.8, "b2": 0.9, "gamma": 0.5, "eps": 1e-3}, DECAY]


@pytest.mark.parametrize("options", ROWS, ids=["default", "gamma", "decay"])
def test_mars_is_the_papers(options):
    check(optimizers.mars, oracle.mars, options, learning_rate=schedule)


def test_mars_is_the_code_of_a_peer():
    # The peer adds 1e-15 to v.
    against_golden(optimizers.mars(0.01, eps=0.0), "optimizers_more.json", "mars", rtol=1e-9)


def test_gradients_of_any_magnitude_move_by_the_learning_rate():
    tx = optimizers.mars(0.1, eps=0.0)
    for size in (1e-12, 1.0, 1e20):
        g = size * jnp.array([3.0, -4.0])
        u, state = tx.update(g, tx.init(jnp.zeros(2)), jnp.zeros(2))
        np.testing.assert_allclose(u, [-0.1, 0.1], rtol=1e-5)
        assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(state))


def test_the_first_difference_is_0():
    """The first steps do not depend on γ when the gradient stays."""
    g = jnp.array([0.3, -0.2])
    paths = []
    for gamma in (0.0, 1.0):
        tx = optimizers.mars(0.1, gamma=gamma)
        state = tx.init(g)
        for _ in range(2):
            u, state = tx.update(g, state, g)
        paths.append(u.tolist())
    assert paths[0] == paths[1]


def test_negative_gamma_is_named():
    with pytest.raises(ValueError, match="gamma is -1"):
        optimizers.mars(0.1, gamma=-1)
