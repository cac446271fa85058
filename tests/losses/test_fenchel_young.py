"""Fenchel–Young losses: oracle, optax, exact zeros, masks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_lite import losses
from tests.oracles.compare import DTYPES, Case, check, pairs, triples, value_and_slope

INF = np.inf
x, t = pairs()
SCORES = triples()
LABELS = np.arange(len(SCORES), dtype=np.int32) % 3

CASES = [
    Case("sparsemax_loss", (x, (t[:, 0] > 0).astype(np.int32)), slope_noise=1),
    Case("multiclass_sparsemax_loss", (SCORES, LABELS), noise=1, slope_noise=1),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_oracle(case, dtype):
    check(case, dtype)


def test_equal_to_optax():
    scores = jax.random.normal(jax.random.key(0), (6, 5)) * 2
    labels = jnp.array([0, 1, 2, 3, 4, 0])
    np.testing.assert_allclose(
        losses.multiclass_sparsemax_loss(scores, labels),
        optax.losses.multiclass_sparsemax_loss(scores, labels),
        rtol=1e-5,
        atol=1e-6,
    )
    bits = (labels % 2)[:, None] * jnp.ones((1, 5), jnp.int32)
    np.testing.assert_allclose(
        losses.sparsemax_loss(scores, bits), optax.losses.sparsemax_loss(scores, bits), rtol=1e-6
    )
    rows = jax.nn.one_hot(labels, 5)
    ours, theirs = (m.make_fenchel_young_loss(jax.nn.logsumexp) for m in (losses, optax.losses))
    np.testing.assert_allclose(ours(scores, rows), theirs(scores, rows), rtol=1e-6)
    np.testing.assert_allclose(ours(scores[0], rows[0]), theirs(scores[0], rows[0]), rtol=1e-6)


def test_fenchel_young_masks_and_passes_arguments_on():
    smoothed = losses.make_fenchel_young_loss(lambda s, scale, power=1: jnp.sum(scale * s**power))
    scores, rows = jnp.array([[1.0, 2.0], [np.nan, 1.0]]), jnp.array([[1.0, 0.0], [0.0, 1.0]])
    run = lambda s: smoothed(s, rows, 3.0, power=2, where=jnp.array([True, False]), reduction="mean")
    value, slope = value_and_slope(run, scores)
    assert value == 3 * 5 - 1
    np.testing.assert_array_equal(slope, [[5, 12], [0, 0]])


def test_sparsemax_second_derivative_is_that_of_the_projection():
    scores = jnp.array([0.3, 0.0, -0.2, -3.0])
    hessian = jax.jit(jax.hessian(lambda s: losses.multiclass_sparsemax_loss(s, 1)))(scores)
    support = np.array([1, 1, 1, 0])
    np.testing.assert_allclose(hessian, np.diag(support) - np.outer(support, support) / 3, atol=1e-6)


def test_exact_zero_masks_and_wrong_labels():
    loss = losses.multiclass_sparsemax_loss
    scores = jnp.array([[2.0, 1.0, -INF], [-INF, 0.0, 0.0], [0.0, 0.0, 0.0], [-INF, 0, 0], [INF, 0, 0]])
    labels = jnp.array([0, 1, 3, 0, 0])
    value, slope = value_and_slope(lambda s: loss(s, labels), scores)
    np.testing.assert_array_equal(value, [0, 0.25, np.nan, INF, 0])
    np.testing.assert_array_equal(slope[:2], [[0, 0, 0], [0, -0.5, 0.5]])
    assert np.isnan(slope[2]).all()
    assert not np.isnan(slope[3:]).any()


def test_binary_sparsemax_edges():
    loss = losses.sparsemax_loss
    scores, bits = jnp.array([INF, -INF, INF, -INF, 0.0, 0.0]), jnp.array([1, 0, 0, 1, 2, -1])
    value, slope = value_and_slope(lambda s: loss(s, bits), scores)
    np.testing.assert_array_equal(value, [0, 0, INF, INF, np.nan, np.nan])
    np.testing.assert_array_equal(slope, [0, 0, 1, -1, np.nan, np.nan])
    np.testing.assert_array_equal(
        loss(jnp.array([0.5]), jnp.array([True])), loss(jnp.array([0.5]), jnp.array([1]))
    )
    with pytest.raises(
        TypeError, match="sparsemax_loss: labels has dtype float32, expected an integer dtype"
    ):
        loss(scores, scores)
