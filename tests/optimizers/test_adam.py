"""Adam and AdamW: the papers' formulas, optax's numbers, hostile gradients and dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_lite as jol
from jaxopt_lite import optimizers
from jaxopt_lite.optimizers import moments
from tests.oracles import optimizers as oracle
from tests.oracles.optimizers_check import DECAY, against_golden, check, same_signature, schedule

ROWS = [{}, {"nesterov": True}, {"b1": 0.5, "b2": 0.9, "eps": 1e-3, "eps_root": 1e-4}]


@pytest.mark.parametrize("options", ROWS, ids=str)
def test_adam_is_the_papers_and_optaxs(options):
    check(optimizers.adam, oracle.adam, options, peer=optax.adam)


@pytest.mark.parametrize("options", [DECAY, DECAY | {"nesterov": True}], ids=["adamw", "nesterov"])
def test_adamw_is_the_papers_and_optaxs(options):
    check(optimizers.adamw, oracle.adam, options, learning_rate=schedule, peer=optax.adamw)


def test_adam_and_adamw_are_pytorchs():
    against_golden(jol.adam(0.01), "optimizers_torch.json", "adam")
    against_golden(jol.adamw(0.01, b1=0.8, b2=0.99, weight_decay=0.1), "optimizers_torch.json", "adamw")


def test_signatures():
    same_signature(optimizers.adam, optax.adam, without=("mu_dtype",))
    same_signature(
        optimizers.adamw, optax.adamw, without=("mu_dtype",), keyword_only=("weight_decay", "mask")
    )
    same_signature(optimizers.scale_by_adam, optax.scale_by_adam)


def steps(tx, params, *grads):
    """The update for each gradient in turn, and the last state; the parameters stay."""
    state, update, updates = tx.init(params), jax.jit(tx.update), []
    for g in grads:
        u, state = update(g, state, params)
        updates.append(u)
    return updates, state


def test_gradients_of_any_magnitude_move_by_the_learning_rate():
    g = jnp.array([1e20, -1e20, 1e-7, -1e22, 1.0, 0.0])
    (first, second), state = steps(jol.adam(0.1, eps=0.0), jnp.zeros(6), g, g)
    for u in (first, second):
        np.testing.assert_allclose(u, [-0.1, 0.1, -0.1, 0.1, -0.1, 0.0], rtol=1e-6)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(state))


def test_after_a_huge_gradient_the_average_decays_as_in_the_formula():
    path = [1e20] + [1.0] * 5
    got, _ = steps(jol.adam(0.1, b2=0.5), jnp.zeros(()), *map(jnp.float32, path))
    expected = np.diff(oracle.trajectory(oracle.adam(0.1, b2=0.5), 0.0, path))
    np.testing.assert_allclose(np.array(got), expected, rtol=2e-6)


def test_tiny_gradients_are_below_eps_and_not_lost():
    (u,), _ = steps(jol.adam(1e6), jnp.zeros(2), jnp.array([1e-30, -1e-12]))
    np.testing.assert_allclose(u, [-1e-16, 1e6 * 1e-12 / (1e-12 + 1e-8)], rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_a_zero_entry_in_16_bits_gets_a_zero_update(dtype):
    g = jnp.array([0.0, 1.0], dtype)
    (u,), state = steps(jol.adam(0.5), jnp.ones(2, dtype), g)
    assert u.tolist() == [0.0, -0.5]
    assert u.dtype == dtype
    assert {x.dtype for x in jax.tree.leaves(state[0][1:])} == {jnp.dtype(jnp.float32)}


def test_float32_gradients_of_bfloat16_parameters_keep_every_dtype():
    params, g = jnp.ones(3, jnp.bfloat16), jnp.array([1.0, -2.0, 0.5])
    tx = jol.adamw(jnp.float32(0.1), weight_decay=0.1)
    (u, _), state = steps(tx, params, g, g)
    assert u.dtype == jnp.float32
    dtypes = lambda state: [x.dtype for x in jax.tree.leaves(state)]
    assert dtypes(state) == dtypes(tx.init(params))


def test_the_second_moment_of_bfloat16_parameters_decays():
    params = jnp.ones(1, jnp.bfloat16)
    tx = optimizers.scale_by_adam()
    state = tx.init(params)
    _, state = tx.update(params, state)
    step = lambda s, _: (tx.update(jnp.zeros(1, jnp.bfloat16), s)[1], None)
    nu = jax.lax.scan(step, state, length=2000)[0].nu
    np.testing.assert_allclose(nu / moments.K**2, 0.001 * 0.999**2000, rtol=1e-3)


@pytest.mark.parametrize("b2", [1 - 1e-7, 1 - 1e-5, 0.9999])
def test_decays_are_exact_floats(b2):
    got, _ = steps(jol.adam(0.1, b2=b2, eps=0.0), jnp.zeros(()), *map(jnp.float32, [1.0, 3.0, 0.5]))
    expected = np.diff(oracle.trajectory(oracle.adam(0.1, b2=b2, eps=0.0), 0.0, [1.0, 3.0, 0.5]))
    np.testing.assert_allclose(np.array(got), expected, rtol=1e-6)


def test_bad_rates_are_named():
    with pytest.raises(ValueError, match=r"scale_by_adam: b2 is 1.0, expected a number in \[0, 1\)"):
        jol.adam(0.1, b2=1.0)
    with pytest.raises(ValueError, match="adam: eps is -1"):
        jol.adamw(0.1, eps=-1)
