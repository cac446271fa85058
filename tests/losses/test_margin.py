"""Margin losses: oracle, optax, infinite scores, ties, labels out of range."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_lite import losses
from tests.oracles.compare import DTYPES, Case, check, pairs, triples, value_and_slope

INF = np.inf
BINARY = ("hinge_loss", "squared_hinge_loss", "perceptron_loss")
MULTICLASS = ("multiclass_hinge_loss", "multiclass_perceptron_loss")

x, t = pairs()
SIGNS = np.where(t > 0, 1.0, -1.0)
SCORES = triples((0.0, 2.5, 1.0, -1.0, 1e4, -1e4, 0.37))
LABELS = np.arange(len(SCORES), dtype=np.int32) % 3

CASES = [
    *(Case(name, (x, SIGNS), noise=1, slope_noise=1e-6) for name in BINARY),
    *(Case(name, (SCORES, LABELS), noise=1) for name in MULTICLASS),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_oracle(case, dtype):
    check(case, dtype)


@pytest.mark.parametrize("name", ["hinge_loss", "perceptron_loss", *MULTICLASS])
def test_value_and_gradient_equal_optax(name):
    ours, theirs = getattr(losses, name), getattr(optax.losses, name)
    if name in MULTICLASS:
        inputs = jnp.array([[0.0, 0.0, 0.0], [0.2, 1.0, -1.0], [3.0, 1.0, 1.0]]), jnp.array([0, 1, 1])
    else:
        inputs = jnp.array([0.0, 1.0, -0.3, 2.0, -2.0]), jnp.array([1, 1, -1, -1, -1])
    run = lambda loss: value_and_slope(lambda s: loss(s, inputs[1]), inputs[0])
    for our, their in zip(run(ours), run(theirs), strict=True):
        np.testing.assert_allclose(our, their, rtol=1e-6)


@pytest.mark.parametrize("name", BINARY)
def test_infinite_binary_scores(name):
    loss = getattr(losses, name)
    scores, signs = jnp.array([INF, -INF, INF, -INF]), jnp.array([1, -1, -1, 1])
    value, slope = value_and_slope(lambda s: loss(s, signs), scores)
    np.testing.assert_array_equal(value, [0, 0, INF, INF])
    steep = INF if name == "squared_hinge_loss" else 1
    np.testing.assert_array_equal(slope, [0, 0, steep, -steep])


@pytest.mark.parametrize("name", MULTICLASS)
def test_infinite_scores_and_wrong_labels(name):
    loss = getattr(losses, name)
    scores = jnp.array(
        [[INF, 0, 0], [-INF, 0, -2.0], [0, INF, 0], [-INF, 0, -2.0], [-INF] * 3, [0, 0, 0], [0, 0, 0]]
    )
    labels = jnp.array([0, 1, 0, 0, 0, -1, 3])
    value, slope = value_and_slope(lambda s: loss(s, labels), scores)
    np.testing.assert_array_equal(value, [0, 0, INF, INF, 0, np.nan, np.nan])
    assert not np.isnan(slope[:5]).any()
    assert np.isnan(slope[5:]).all()


@pytest.mark.parametrize("name", MULTICLASS)
def test_ties_share_the_gradient_and_have_no_curvature(name):
    loss, labels = getattr(losses, name), jnp.array([0, 0])
    # Two rivals, or one and the label, at the margin's edge.
    edge = 1.0 if name == "multiclass_hinge_loss" else 0.0
    scores = jnp.array([[0.0, 2.0, 2.0], [edge, 0.0, -5.0]])
    slope = lambda s: jax.grad(lambda s: loss(s, labels).sum())(s)
    first, second = jax.jit(lambda s: jax.jvp(slope, (s,), (jnp.ones_like(s) + s,)))(scores)
    np.testing.assert_allclose(first, [[-1, 0.5, 0.5], [-0.5, 0.5, 0]])
    np.testing.assert_array_equal(second, np.zeros((2, 3)))


@pytest.mark.parametrize("name", MULTICLASS)
def test_errors(name):
    loss = getattr(losses, name)
    with pytest.raises(TypeError, match=f"{name}: labels has dtype float32, expected an integer dtype"):
        loss(jnp.ones((2, 3)), jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=rf"{name}: labels has shape \(3,\), expected \(2,\)"):
        loss(jnp.ones((2, 3)), jnp.arange(3))
    with pytest.raises(ValueError, match=r"hinge_loss: targets has shape \(2, 1\), expected \(2,\)"):
        losses.hinge_loss(jnp.ones(2), jnp.ones((2, 1)))
