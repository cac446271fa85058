"""Regression losses: oracle, textbook case, optax at ordinary inputs, and the edges of each formula."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_lite import losses
from tests.oracles.compare import DTYPES, Case, check, check_golden, golden, pairs, triples

P = np.array([[1.2, 1.8, 3.5], [-0.3, 0.0, 40.0]], np.float32)
T = np.array([[1.0, 2.0, 3.0], [0.5, 0.0, -2.0]], np.float32)
INF = np.inf

p, t = pairs()
LEFT, RIGHT = triples(), triples()[::-1]
VARIANCE = np.where(np.abs(t) < 1e-3, 0.5, np.abs(t))


def one_over_norm(a, b):
    norm = np.linalg.norm(a, axis=-1)
    return np.where(norm > 0, 1 / np.where(norm > 0, norm, 1), INF)


CASES = [
    *(Case(name, (p, t), differentiate=(0, 1)) for name in ("squared_error", "l2_loss", "absolute_error")),
    Case("huber_loss", (p, t), {"delta": 0.7}, differentiate=(0, 1)),
    Case("log_cosh", (p, t), differentiate=(0, 1)),
    Case("quantile_loss", (p, t), {"quantile": 0.9}, differentiate=(0, 1)),
    Case("gaussian_nll", (p, t, VARIANCE), differentiate=(0, 1, 2),
         noise=lambda p, t, v: np.abs(np.log(v[:, 0])),
         slope_noise=lambda p, t, v: 1 / v[:, 0] + ((p - t)[:, 0] / v[:, 0]) ** 2),
    Case("poisson_nll", (np.clip(p, -1e4, 80), np.abs(t)),
         noise=lambda x, t: np.exp(x[:, 0]) + np.abs(t * x)[:, 0],
         slope_noise=lambda x, t: np.exp(x[:, 0]) + t[:, 0]),
    Case("cosine_similarity", (LEFT, RIGHT), noise=1, slope_noise=one_over_norm),
    Case("cosine_distance", (LEFT, RIGHT), noise=1, slope_noise=one_over_norm),
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_oracle(case, dtype):
    check(case, dtype)


@pytest.mark.parametrize(
    "record", golden("gaussian_nll", "poisson_nll", "huber_loss", "absolute_error", "cosine_similarity")
)
def test_equal_to_pytorch(record):
    check_golden(record)


def test_squared_error_textbook():
    value = losses.squared_error(jnp.array([1.2, 1.8, 3.5]), jnp.array([1.0, 2.0, 3.0]), reduction="mean")
    np.testing.assert_allclose(value, 0.11, rtol=1e-6)


@pytest.mark.parametrize("name", ["squared_error", "l2_loss", "huber_loss", "log_cosh"])
def test_elementwise_equals_optax(name):
    ours, theirs = getattr(losses, name), getattr(optax.losses, name)
    np.testing.assert_allclose(ours(P, T), theirs(P, T), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours(P), theirs(P), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["squared_error", "absolute_error", "huber_loss", "log_cosh", "quantile_loss"]
)
def test_wrong_shape_and_dtype_name_the_function(name):
    loss = getattr(losses, name)
    with pytest.raises(ValueError, match=rf"{name}: targets has shape \(3,\), expected \(2, 3\)"):
        loss(P, T[0])
    with pytest.raises(TypeError, match=f"{name}: predictions has dtype int32, expected a floating dtype"):
        loss(jnp.arange(3), jnp.arange(3))


@pytest.mark.parametrize("name", ["squared_error", "l2_loss", "absolute_error", "huber_loss", "log_cosh"])
def test_infinite_errors_cost_infinity_with_the_limit_of_the_slope(name):
    loss = getattr(losses, name)
    x = jnp.array([-INF, INF])
    slope = INF if name in ("squared_error", "l2_loss") else 1
    np.testing.assert_array_equal(loss(x), [INF, INF])
    np.testing.assert_array_equal(jax.grad(lambda x: loss(x).sum())(x), [-slope, slope])
    np.testing.assert_array_equal(jax.jvp(loss, (x,), (jnp.ones(2),))[1], [-slope, slope])


def test_second_derivatives():
    second = lambda loss: jax.vmap(jax.grad(jax.grad(loss)))(jnp.array([0.0, 0.5, 3.0, -1e4]))
    np.testing.assert_array_equal(second(losses.huber_loss), [1, 1, 0, 0])
    np.testing.assert_allclose(
        second(losses.log_cosh), 1 / np.cosh([0, 0.5, 3, 300]) ** 2, rtol=1e-5, atol=1e-7
    )
    np.testing.assert_array_equal(second(losses.squared_error), [2, 2, 2, 2])


def test_options_out_of_range_or_shape():
    with pytest.raises(ValueError, match=r"huber_loss: delta is -1, expected a number in \[0, inf\)"):
        losses.huber_loss(P, T, delta=-1)
    with pytest.raises(ValueError, match=r"quantile_loss: quantile is 1.5, expected a number in \(0, 1\)"):
        losses.quantile_loss(P, T, quantile=1.5)
    with pytest.raises(ValueError, match=r"huber_loss: delta has shape \(3,\), expected \(2, 3\)"):
        losses.huber_loss(P, T, delta=jnp.ones(3))
    each = losses.huber_loss(P, T, delta=jnp.full(P.shape, 0.5))
    np.testing.assert_array_equal(each, losses.huber_loss(P, T, delta=0.5))


def test_gaussian_nll_at_the_floor():
    loss = lambda v: losses.gaussian_nll(jnp.zeros(4), jnp.ones(4), v, eps=1e-2)
    v = jnp.array([0.0, 1e-3, 1e-2, -1.0])
    floor = 0.5 * (np.log(1e-2) + 1e2)
    np.testing.assert_allclose(loss(v), [floor, floor, floor, np.nan], rtol=1e-6)
    slope = 0.5 * (1e2 - 1e4)
    np.testing.assert_allclose(jax.grad(lambda v: loss(v).sum())(v), [slope, slope, slope, np.nan], rtol=1e-6)


def test_poisson_nll_at_infinite_rates():
    x, t = jnp.array([-INF, -INF, INF, INF]), jnp.array([0.0, 2.0, 0.0, 3.0])
    np.testing.assert_array_equal(losses.poisson_nll(x, t), [0, INF, INF, INF])
    gradient = jax.grad(lambda x: losses.poisson_nll(x, t).sum())(x)
    assert not np.isnan(gradient).any()


def test_cosines_of_zero_vectors_and_extreme_scales():
    a = jnp.array([[0.0, 0.0], [3e-38, 6e-38], [1e30, 2e30], [1.0, 2.0]])
    b = jnp.ones((4, 2))
    value, pull = jax.vjp(losses.cosine_similarity, a, b)
    np.testing.assert_allclose(value, [0, *[3 / np.sqrt(10)] * 3], rtol=1e-6)
    to_a, to_b = pull(jnp.ones(4))
    np.testing.assert_array_equal(to_a[0], [0, 0])
    assert np.isfinite(to_a).all()
    assert np.isfinite(to_b).all()
    np.testing.assert_array_equal(losses.cosine_distance(a, b)[0], 1)


def test_cosines_of_a_mixed_batch_are_those_of_its_rows():
    scales = jnp.array([[1.0, 1e25, 1e-25, 1.0, 1e25], [1.0, 1e25, 1e-25, 1e25, 1.0]])[..., None]
    vectors = np.random.default_rng(0).normal(size=(2, 5, 8))
    vectors *= 0.75 / np.abs(vectors).max(axis=-1, keepdims=True)  # in no need of a scale, as far as it is 1
    a, b = jnp.asarray(vectors, jnp.float32) * scales
    run = jax.jit(jax.value_and_grad(lambda a, b: losses.cosine_similarity(a, b).sum()))
    rows = [run(a[i : i + 1], b[i : i + 1]) for i in range(5)]
    value, slope = run(a, b)
    np.testing.assert_allclose(value, sum(v for v, _ in rows), rtol=1e-6)
    for i in range(5):
        np.testing.assert_allclose(
            slope[i] * scales[0, i], rows[i][1][0] * scales[0, i], rtol=1e-5, atol=1e-6
        )


def test_cosine_epsilon_and_axes_equal_optax():
    a, b = jnp.asarray(P), jnp.asarray(T)
    for axis in (0, -1, (0, 1), None):
        for epsilon in (0.0, 4.0):
            np.testing.assert_allclose(
                losses.cosine_similarity(a, b, axis=axis, epsilon=epsilon),
                optax.losses.cosine_similarity(a, b, axis=axis, epsilon=epsilon),
                rtol=1e-6,
            )
    components = jnp.array([[True, False, True], [True, True, True]])
    np.testing.assert_allclose(
        losses.cosine_similarity(a, b, where=components),
        optax.losses.cosine_similarity(a, b, where=components),
        rtol=1e-6,
    )


def test_log_cosh_between_the_grid_points():
    x = np.concatenate([10.0 ** np.linspace(-18, 4, 400), np.linspace(0.2, 2.0, 400)]).astype(np.float32)
    wide = x.astype(np.float64)
    exact = np.where(wide < 1e-3, wide**2 / 2 - wide**4 / 12, np.logaddexp(wide, -wide) - np.log(2))
    np.testing.assert_array_max_ulp(
        losses.log_cosh(x[exact > 1e-37]), exact[exact > 1e-37].astype(np.float32), 4
    )
