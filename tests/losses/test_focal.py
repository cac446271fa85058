"""Focal and poly losses: oracle, optax, saturated and infinite logits, labels out of range."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_lite import losses
from tests.oracles.compare import DTYPES, Case, check, pairs, triples, value_and_slope

INF = np.inf
RNG = np.random.default_rng(0)
x, t = pairs()
CHANCES = np.clip(np.abs(t), 0, 1)
LOGITS = triples()
LABELS = np.arange(len(LOGITS), dtype=np.int32) % 3
TARGETS = RNG.dirichlet(np.ones(3), len(LOGITS))

CASES = [
    Case("sigmoid_focal_loss", (x, CHANCES), slope_noise=lambda x, y: 1 + np.abs(x[:, 0])),
    Case("sigmoid_focal_loss", (x, CHANCES), {"gamma": 0.5, "alpha": 0.25}, noise=1e-6,
         slope_noise=lambda x, y: 1 + np.abs(x[:, 0])),
    Case("softmax_focal_loss", (LOGITS, LABELS), noise=0.1, slope_noise=1),
    Case("softmax_focal_loss", (LOGITS, LABELS), {"gamma": 1.0, "alpha": np.array([0.2, 1.0, 2.0])}, slope_noise=2),
    Case("poly_loss_cross_entropy", (LOGITS, TARGETS), slope_noise=2),
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_oracle(case, dtype):
    check(case, dtype)


def test_equal_to_optax():
    z, y = jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32), jnp.asarray(TARGETS[:4], jnp.float32)
    same = lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
    for options in ({}, {"alpha": 0.3, "gamma": 1.5}, {"gamma": 0.0}):
        same(losses.sigmoid_focal_loss(z, y, **options), optax.losses.sigmoid_focal_loss(z, y, **options))
    kept = jnp.array([[True, True, False]] * 4)
    for options in ({}, {"epsilon": -1.0, "axis": 0}, {"where": kept}):
        same(
            losses.poly_loss_cross_entropy(z, y, **options),
            optax.losses.poly_loss_cross_entropy(z, y, **options),
        )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_saturated_logits_are_finite_in_value_slope_and_curvature(gamma):
    x, y = jnp.array([INF, -INF, INF, -INF, 1e4, -1e4, 200.0]), jnp.array([1, 0, 0, 1, 1, 1, 1])
    loss = lambda x: losses.sigmoid_focal_loss(x, y, gamma=gamma)
    value, slope = value_and_slope(loss, x)
    np.testing.assert_array_equal(value, [0, 0, INF, INF, 0, 1e4, 0])
    np.testing.assert_array_equal(slope, [0, 0, 1, -1, 0, -1, 0])
    forward = jax.jit(lambda x: jax.jvp(loss, (x,), (jnp.ones_like(x),))[1])(x)
    np.testing.assert_array_equal(forward, slope)
    curvature = jax.jit(
        jax.vmap(jax.grad(jax.grad(lambda x, y: losses.sigmoid_focal_loss(x, y, gamma=gamma))))
    )(x, y)
    np.testing.assert_array_equal(curvature[4:], [0, 0, 0])


def test_softmax_focal_edges():
    z = jnp.array([[INF, 0.0], [-INF, 0.0], [-INF, 0.0], [-INF, -INF], [0.0, 0.0], [50.0, 0.0]])
    y = jnp.array([0, 1, 0, 1, 2, 0])
    value, slope = value_and_slope(lambda z: losses.softmax_focal_loss(z, y), z)
    np.testing.assert_allclose(value, [0, 0, INF, 0, np.nan, 0], atol=1e-30)
    assert not np.isnan(slope[[0, 1, 2, 3, 5]]).any()
    assert np.isnan(slope[4]).all()
    np.testing.assert_allclose(
        losses.softmax_focal_loss(z[5:], y[5:] + 1, gamma=0.0),
        losses.softmax_cross_entropy_with_integer_labels(z[5:], y[5:] + 1),
    )


def test_gamma_can_be_learned():
    slope = jax.jit(
        jax.grad(
            lambda g: losses.sigmoid_focal_loss(jnp.array([0.3, INF]), jnp.array([1.0, 1.0]), gamma=g).sum()
        )
    )(2.0)
    q, ce = 1 / (1 + np.exp(0.3)), np.log1p(np.exp(-0.3))
    np.testing.assert_allclose(slope, ce * q**2 * np.log(q), rtol=1e-5)


def test_errors():
    with pytest.raises(
        ValueError,
        match=r"softmax_focal_loss: alpha has shape \(3,\), expected \(2,\)",
    ):
        losses.softmax_focal_loss(jnp.ones((4, 2)), jnp.zeros(4, int), alpha=jnp.ones(3))
    with pytest.raises(ValueError, match=r"sigmoid_focal_loss: gamma is -1, expected a number in \[0, inf\]"):
        losses.sigmoid_focal_loss(jnp.ones(2), jnp.ones(2), gamma=-1)
