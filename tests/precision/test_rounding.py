"""Stochastic rounding: right in the mean, to neighbours only, the same for the same seed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_lite as jol
from jaxopt_lite.precision.rounding import dither, nearest, round_to, spacing

DTYPES = ["bfloat16", "float16"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [1.001, -3.3, 0.01234, 30_001.7, 1e-6, -6e-8])
def test_unbiased_over_100_000_draws_and_only_to_neighbours(dtype, value):
    x = jnp.full(100_000, value, jnp.float32)
    got = np.asarray(round_to(dtype, x, jax.random.key(3)), np.float64)
    exact = float(np.float32(value))
    gap = float(spacing(jnp.dtype(dtype), x[:1])[0])
    assert np.abs(got - exact).max() < gap
    assert abs(got.mean() - exact) < 4.5 * gap / 2 / np.sqrt(x.size) + 1e-7 * abs(exact)


@pytest.mark.parametrize("dtype", DTYPES)
def test_exact_values_and_non_finite_ones_stay(dtype):
    exact = jnp.array([0.0, -1.0, 1.5, 29_952.0, jnp.inf, -jnp.inf, jnp.nan])
    many = jax.vmap(lambda key: round_to(dtype, exact, key))(jax.random.split(jax.random.key(0), 100))
    expected = jnp.broadcast_to(exact, many.shape)  # compared in float32: NumPy's isnan knows no bfloat16
    np.testing.assert_array_equal(many.astype(jnp.float32), expected)
    top = jnp.float32(jnp.finfo(dtype).max)
    assert jnp.isfinite(round_to(dtype, jnp.full(1000, top), jax.random.key(0))).all()


@pytest.mark.parametrize("dtype", [*DTYPES, "float8_e4m3fn"])
@np.errstate(all="ignore")
def test_the_nearest_number_is_that_of_a_cast_which_then_changes_nothing(dtype):
    top, least = float(jnp.finfo(dtype).max), float(jnp.finfo(dtype).smallest_subnormal)
    bits = np.random.default_rng(0).integers(0, 2**32, 20_000, np.uint32).view(np.float32)
    near = np.float32(np.arange(-40, 40) / 8)  # ties among small multiples of the least number
    x = np.concatenate([bits, np.float32(top * near), near, np.float32([0, -0.0, np.inf, -np.inf, np.nan])])
    x = np.concatenate([x, np.float32(least) * near]) if dtype != "bfloat16" else x
    x = x[(np.abs(x) >= 2.0**-126) | (x == 0) | np.isnan(x)]  # XLA takes smaller ones for 0
    got = nearest(dtype, x)
    expected = x.astype(jnp.dtype(dtype))  # by NumPy
    expected = np.where(np.abs(x) > top * 1.1, np.nan, expected) if dtype.startswith("float8") else expected
    np.testing.assert_array_equal(got.astype(dtype).astype(np.float32), expected.astype(np.float32))
    finite = np.isfinite(expected.astype(np.float32))
    np.testing.assert_array_equal(np.asarray(got)[finite], expected.astype(np.float32)[finite])


def test_the_dither_is_uniform_and_changes_with_key_and_position():
    first, second = (np.asarray(dither(jax.random.key(k), (300, 400))) for k in range(2))
    counts = np.histogram(first, 64, (0, 1))[0]
    assert np.abs(counts - first.size / 64).max() < 5 * np.sqrt(first.size / 64)
    for a, b in ((first, second), (first[1:], first[:-1]), (first[:, 1:], first[:, :-1])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.015
    assert (first > 0).all()
    assert (first < 1).all()


def run(tx, params, grads, steps, state=None):
    @jax.jit
    def body(carry, _):
        updates, state = tx.update(grads, carry[1], carry[0])
        return (optax.apply_updates(carry[0], updates), state), None

    state = tx.init(params) if state is None else state
    return jax.lax.scan(body, (params, state), None, length=steps)[0]


def test_the_seed_decides_and_a_resumed_run_is_the_run():
    params, grads = jnp.ones(1000, jnp.bfloat16), jnp.full(1000, 1e-3, jnp.bfloat16)
    one, two = jol.stochastic_rounding(jol.sgd(1.0)), jol.stochastic_rounding(jol.sgd(1.0), seed=1)
    straight, _ = run(one, params, grads, 20)
    half = run(one, params, grads, 10)
    np.testing.assert_array_equal(run(one, half[0], grads, 10, half[1])[0], straight)
    np.testing.assert_array_equal(run(one, params, grads, 20)[0], straight)
    assert (run(two, params, grads, 20)[0] != straight).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_10_000_updates_of_a_thousandth_of_the_spacing_arrive(dtype):
    ulp = float(jnp.finfo(dtype).eps)
    params, grads = jnp.full(4096, 1.25, dtype), jnp.full(4096, -ulp / 1024, dtype)
    exact = 10_240 * float(-grads[0])
    moved = run(jol.stochastic_rounding(jol.sgd(1.0)), params, grads, 10_240)[0].astype(jnp.float32) - 1.25
    assert abs(float(moved.mean()) / exact - 1) < 0.02
    np.testing.assert_array_equal(run(jol.sgd(1.0), params, grads, 1000)[0], params)


def test_parameters_are_needed_and_wide_ones_take_the_update_as_it_is():
    tx = jol.stochastic_rounding(jol.adam(0.1))
    params = {"a": jnp.ones(3), "b": None}
    with pytest.raises(ValueError, match=r"stochastic_rounding\.update: params is None"):
        tx.update(params, tx.init(params))
    want = jol.adam(0.1).update(params, jol.adam(0.1).init(params), params)[0]
    np.testing.assert_array_equal(tx.update(params, tx.init(params), params)[0]["a"], want["a"])
