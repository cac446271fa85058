"""Prodigy: the formula of its authors' code, optax's numbers, donation, hostile gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_lite import optimizers
from tests.oracles import optimizers_more as oracle
from tests.oracles.optimizers_check import against_golden, against_optax, as_one_array, mask, same_signature

ROWS = [
    {},
    {"betas": (0.8, 0.99), "beta3": 0.9, "estim_lr0": 1e-4, "estim_lr_coef": 0.5, "weight_decay": 0.1},
    {"safeguard_warmup": True, "eps": 1e-4},
]


@pytest.mark.parametrize("options", ROWS, ids=["default", "options", "warm-up"])
def test_prodigy_is_the_papers_and_optaxs(options):
    tx = optimizers.prodigy(**options)
    # The sums over all entries are rounded, and d, which multiplies every step, grows by products of them.
    as_one_array(tx, oracle.prodigy(**options), roundings=64)
    against_optax(tx, optax.contrib.prodigy(**options), rtol=1e-4)


def test_prodigy_is_the_code_of_its_authors():
    against_golden(optimizers.prodigy(estim_lr0=1e-3), "optimizers_more.json", "prodigy", rtol=1e-10)


def test_weight_decay_where_the_mask_is_true():
    p = {"bias": jnp.ones(2), "kernel": jnp.ones((2, 2))}
    tx = optimizers.prodigy(estim_lr0=0.1, weight_decay=0.5, mask=mask)
    u, _ = tx.update(jax.tree.map(jnp.zeros_like, p), tx.init(p), p)
    rate = 0.1 * np.sqrt(0.001) / 0.1
    np.testing.assert_allclose(u["kernel"], -0.5 * rate, rtol=1e-5)
    assert not u["bias"].any()


def test_without_a_gradient_the_estimate_stays():
    tx = optimizers.prodigy()
    p = jnp.ones(2)
    u, state = tx.update(jnp.zeros(2), tx.init(p), p)
    assert u.tolist() == [0, 0]
    assert state.estim_lr == np.float32(1e-6)


def test_signature():
    same_signature(optimizers.prodigy, optax.contrib.prodigy)
