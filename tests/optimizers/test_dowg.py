"""DoWG: the paper's formula, optax's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_lite import optimizers
from tests.oracles import optimizers_more as oracle
from tests.oracles.optimizers_check import against_optax, as_one_array, mask, same_signature

ROWS = [{}, {"init_estim_sq_dist": 1e-2, "eps": 1e-6, "weight_decay": 0.1}]


@pytest.mark.parametrize("options", ROWS, ids=["default", "options"])
def test_dowg_is_the_papers_and_optaxs(options):
    tx = optimizers.dowg(**options)
    as_one_array(tx, oracle.dowg(**options), roundings=64)
    against_optax(tx, optax.contrib.dowg(**options))


def test_weight_decay_where_the_mask_is_true():
    p = {"bias": jnp.ones(2), "kernel": jnp.ones((2, 2))}
    tx = optimizers.dowg(weight_decay=0.5, mask=mask)
    u, _ = tx.update(jax.tree.map(jnp.zeros_like, p), tx.init(p), p)
    assert not u["bias"].any()
    assert (u["kernel"] < 0).all()


@pytest.mark.parametrize("size", [1e-12, 1e18])
def test_gradients_of_any_magnitude_have_a_finite_step(size):
    tx = optimizers.dowg(eps=0.0, init_estim_sq_dist=0.01)
    p, g = jnp.zeros(2), size * jnp.array([3.0, 4.0])
    u, state = tx.update(g, tx.init(p), p)
    np.testing.assert_allclose(u, [-0.06, -0.08], rtol=1e-5)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(state))


def test_signature():
    same_signature(optimizers.dowg, optax.contrib.dowg)
