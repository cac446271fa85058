"""Overlap losses against loops over pixels and optax; empty classes, pixel masks, probabilities under jit."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_lite import losses
from tests.oracles import losses_more as oracle
from tests.users import Jitted

segmentation = Jitted(losses.segmentation)
RNG = np.random.default_rng(0)
X = jnp.asarray(2 * RNG.standard_normal((5, 2, 3, 4)), jnp.float32)
T = jax.nn.one_hot(RNG.integers(0, 4, (5, 2, 3)), 4)
ONE = X[..., :1]
HIT = T[..., :1]
PIXELS = jnp.asarray(RNG.random((5, 2, 3)) > 0.3).at[1].set(False)
NAMES = ["dice_loss", "tversky_loss", "binary_dice_loss", "multiclass_generalized_dice_loss"]
INF = jnp.inf


@pytest.mark.parametrize(
    "options",
    [{}, {"smooth": 0.0}, {"alpha": 0.25, "beta": 2.0}, {"class_weights": np.array([0.5, 0, 2.0, 1])}],
)
@pytest.mark.parametrize("classes", [4, 1])
def test_exact(options, classes):
    if classes == 1 and "class_weights" in options:
        options = {"class_weights": np.array([3.0])}
    x, t = X[..., :classes], T[..., :classes]
    for scale in (1.0, 1e4):
        p = oracle.probabilities(np.float64(x) * scale)
        want = oracle.dice_loss(p, np.float64(t), **options)
        np.testing.assert_allclose(segmentation.dice_loss(x * scale, t, **options), want, rtol=2e-6)
        if "class_weights" not in options:
            np.testing.assert_allclose(segmentation.tversky_loss(x * scale, t, **options), want, rtol=2e-6)
        p = jnp.asarray(p, jnp.float32)
        got = jax.jit(lambda p, t: segmentation.dice_loss(p, t, apply_softmax=False, **options))(p, t)
        np.testing.assert_allclose(got, want, rtol=2e-6)
    with jax.enable_x64(True):
        x, t = jnp.asarray(x, jnp.float64), jnp.asarray(t, jnp.float64)
        want = oracle.dice_loss(oracle.probabilities(np.asarray(x)), np.asarray(t), **options)
        np.testing.assert_allclose(segmentation.dice_loss(x, t, **options), want, rtol=1e-14)


def test_a_small_loss_keeps_its_digits():
    x = jnp.full((1, 6, 1), 40.0)
    want = 3 * np.exp(-40.0) / (6 + 1)  # ½·Σ (1 − p) over Σ p + smooth
    np.testing.assert_allclose(segmentation.dice_loss(x, jnp.ones((1, 6, 1))), want, rtol=1e-5)
    assert jax.grad(lambda x: segmentation.dice_loss(x, jnp.ones((1, 6, 1))).sum())(x)[0, 0, 0] < 0


def test_16_bit():
    for dtype in (jnp.float16, jnp.bfloat16):
        x = X.astype(dtype)
        value, vjp = jax.vjp(lambda x: segmentation.dice_loss(x, T), x)
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, segmentation.dice_loss(x.astype(jnp.float32), T), rtol=1e-7)
        assert vjp(jnp.ones(5))[0].dtype == dtype


@pytest.mark.parametrize("name", NAMES[:3])
def test_derivatives(name):
    loss = getattr(segmentation, name)
    x, t = (ONE, HIT) if name == "binary_dice_loss" else (X, T)
    oracle.assert_smooth(loss, x[:2], np.abs(t[:2] - 0.1))


def test_many_classes_whose_axis_stays_last():
    x, t = X.reshape(3, 5, 8), jax.nn.one_hot(RNG.integers(0, 8, (3, 5)), 8)
    pixels = jnp.asarray(RNG.random((3, 5)) > 0.3)
    p = oracle.probabilities(np.float64(x))
    want = oracle.dice_loss(p, np.float64(t), pixels=np.asarray(pixels))
    ruined = jnp.where(pixels[..., None], x, jnp.nan)
    np.testing.assert_allclose(segmentation.dice_loss(ruined, t, where=pixels), want, rtol=1e-5)
    both = optax.losses.dice_loss(x, t, axis=(0, 1))
    np.testing.assert_allclose(segmentation.dice_loss(x, t, axis=(0, 1)), both, rtol=1e-5)
    oracle.assert_smooth(segmentation.dice_loss, x, np.abs(t - 0.1))


def test_laws_of_the_generalized_loss():
    loss = segmentation.multiclass_generalized_dice_loss
    where = jnp.arange(5) != 1
    kept = np.array([0, 2, 3, 4])
    f = lambda x, **k: loss(x, T, reduction="mean", **k)
    poisoned = X.at[1].set(jnp.nan)
    for kind in ({"where": where}, {"weights": where.astype(jnp.float32)}):
        value, gradient = jax.value_and_grad(lambda x, k=kind: f(x, **k))(poisoned)
        np.testing.assert_allclose(value, loss(X[kept], T[kept]).mean(), rtol=1e-6)
        assert (gradient[1] == 0).all()
        assert np.isfinite(gradient).all()
    assert f(poisoned * jnp.nan, where=jnp.zeros(5, bool)) == 0
    twice = 2 * jnp.ones(5)
    np.testing.assert_allclose(loss(X, T, weights=twice), 2 * loss(X, T), rtol=1e-6)
    few = np.asarray(T[:2])
    oracle.assert_smooth(lambda x: loss(x, few), X[:2])


def test_equal_to_optax():
    ours, theirs = segmentation, optax.losses
    for options in (
        {},
        {"ignore_background": True},
        {"class_weights": jnp.array([1.0, 2.0, 0.5, 3.0])},
        {"axis": (0, 1, 2)},
        {"axis": 1},
        {"alpha": 0.3, "beta": 0.7, "smooth": 0.1},
    ):
        with jax.numpy_rank_promotion("allow"):
            want = theirs.dice_loss(X, T, **options)
        np.testing.assert_allclose(ours.dice_loss(X, T, **options), want, rtol=1e-5)
    for x, t in ((X[..., 0], HIT), (ONE, T[..., 0])):
        np.testing.assert_allclose(ours.dice_loss(x, t), theirs.dice_loss(x, t), rtol=1e-5)
    for x, t in ((X[..., 0], T[..., 0]), (ONE, HIT)):
        np.testing.assert_allclose(ours.binary_dice_loss(x, t), theirs.binary_dice_loss(x, t), rtol=1e-5)
    for options in ({}, {"ignore_background": True, "smooth": 0.5}):
        with jax.numpy_rank_promotion("allow"):
            want = theirs.multiclass_generalized_dice_loss(X, T, **options)
        got = ours.multiclass_generalized_dice_loss(X, T, reduction="mean", **options)
        np.testing.assert_allclose(got, want, rtol=1e-5)
    for name in ("dice_loss", "multiclass_generalized_dice_loss", "binary_dice_loss"):
        mine = inspect.signature(getattr(ours, name)).parameters
        for key, parameter in inspect.signature(getattr(theirs, name)).parameters.items():
            assert mine[key].kind == parameter.kind
            assert key == "reduction" or mine[key].default == parameter.default


def test_an_empty_class_costs_nothing_without_smoothing():
    p = jnp.zeros((1, 3, 2)).at[..., 0].set(1.0)
    t = p
    f = lambda p: segmentation.dice_loss(p, t, smooth=0.0, apply_softmax=False).sum()
    value, gradient = jax.value_and_grad(f)(p)
    assert value == 0
    assert np.isfinite(gradient).all()
    x = jnp.where(p > 0, 0.0, -INF)  # the same from logits
    value, gradient = jax.value_and_grad(lambda x: segmentation.dice_loss(x, t, smooth=0.0).sum())(x)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)
    assert (
        segmentation.dice_loss(jnp.zeros((1, 3, 1)), jnp.zeros((1, 3, 1)), smooth=0.0)[0] == 1
    )  # p = ½ is wrong
    np.testing.assert_array_equal(
        segmentation.binary_dice_loss(jnp.array([[INF, -INF]]), jnp.array([[1.0, 0.0]])), [0.0]
    )


@pytest.mark.parametrize("name", NAMES)
def test_masked_pixels_are_absent(name):
    loss = getattr(segmentation, name)
    x, t = (ONE, HIT) if name == "binary_dice_loss" else (X, T)
    ruined = jnp.where(PIXELS[..., None], x, jnp.nan)
    f = lambda x: loss(x, t, where=PIXELS, reduction="sum")
    gradient = jax.grad(f)(ruined)
    assert (gradient[~PIXELS] == 0).all()
    assert np.isfinite(gradient).all()
    each = loss(ruined, t, where=PIXELS)
    assert each[1] == 0
    if name != "multiclass_generalized_dice_loss":
        p = oracle.probabilities(np.float64(x))
        want = oracle.dice_loss(p, np.float64(t), pixels=np.asarray(PIXELS))
        np.testing.assert_allclose(each[jnp.array([0, 2, 3, 4])], want[[0, 2, 3, 4]], rtol=1e-5)
    mean = loss(ruined, t, where=PIXELS, reduction="mean")
    np.testing.assert_allclose(mean, each.sum() / 4, rtol=1e-6)


def test_wrong_arguments_are_named():
    fault, dice = oracle.assert_names_the_fault, segmentation.dice_loss
    fault("dice_loss", "targets", lambda: dice(X, T[..., :2]))
    fault("binary_dice_loss", "targets", lambda: segmentation.binary_dice_loss(X[..., 0], T[:, :1, :, 0]))
    fault("dice_loss", "predictions", lambda: dice(T.astype(int), T), TypeError)
    fault("dice_loss", "predictions", lambda: dice(1.0, 1.0))
    fault("dice_loss", "class_weights", lambda: dice(X, T, class_weights=jnp.ones(3)))
    fault("dice_loss", "axis", lambda: dice(X, T, axis=-1))
    fault("dice_loss", "smooth", lambda: dice(X, T, smooth=-1.0))
    fault("dice_loss", "where", lambda: dice(X, T, where=PIXELS[:, :, 0]))
    fault("dice_loss", "weights", lambda: dice(X, T, weights=jnp.ones(1)))
    fault("tversky_loss", "targets", lambda: segmentation.tversky_loss(X, T[:1]))
