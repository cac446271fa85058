"""CTC against the enumeration of all paths, optax and torch; impossible, empty and padded sequences; derivatives."""

import inspect
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_lite import losses
from jaxopt_lite.losses.sequence import ctc_loss_with_forward_probs, log_add, sigmoid
from tests.oracles import losses_more as oracle
from tests.users import jitted

ctc_loss = jitted(losses.ctc_loss)
GOLDEN = json.loads((pathlib.Path(__file__).parents[1] / "golden" / "ctc_torch.json").read_text())
INF = np.inf
RNG = np.random.default_rng(0)
FRAMES, LENGTHS = np.array([5, 4, 5, 2, 5, 0, 0, 3]), np.array([2, 3, 0, 2, 3, 0, 1, 1])
LABELS = np.array([[1, 2, 0], [1, 1, 2], [9, -1, 0], [1, 1, 0], [2, 2, 2], [0, 0, 0], [2, 0, 0], [2, 7, 7]])
LOGITS = 2 * RNG.standard_normal((8, 5, 3))
PADS = (np.arange(5) >= FRAMES[:, None]).astype(np.float32)
LABEL_PADS = (np.arange(3) >= LENGTHS[:, None]).astype(np.float32)
LOGITS[PADS == 1] = np.nan  # nothing that is padded is looked at
IMPOSSIBLE = [3, 6]  # too few frames: 1-1 needs a blank between; none at all
REST = (PADS, LABELS, LABEL_PADS)


def log_softmax(z):
    top = z.max(-1, keepdims=True)
    return z - top - np.log(np.exp(z - top).sum(-1, keepdims=True))


def by_enumeration(logits):
    rows = zip(logits, FRAMES, LABELS, LENGTHS, strict=True)
    return np.array([oracle.ctc_loss(log_softmax(z[:t]), y[:n]) for z, t, y, n in rows])


def test_equal_to_the_enumeration_of_paths():
    want = by_enumeration(LOGITS)
    assert (np.flatnonzero(np.isinf(want)) == IMPOSSIBLE).all()
    with jax.enable_x64(True):
        value, vjp = jax.vjp(jax.jit(lambda z: ctc_loss(z, *REST)), jnp.asarray(LOGITS))
        np.testing.assert_allclose(value, want, rtol=1e-13, atol=1e-14)
        gradient = np.asarray(vjp(jnp.ones(8))[0])
    assert (gradient[PADS == 1] == 0).all()
    assert (gradient[IMPOSSIBLE] == 0).all()
    for at in [(0, 1, 2), (1, 3, 1), (2, 4, 0), (4, 2, 2), (7, 0, 0)]:
        sides = []
        for step in (1e-6, -1e-6):
            moved = LOGITS.copy()
            moved[at] += step
            sides.append(by_enumeration(moved)[at[0]])
        np.testing.assert_allclose(gradient[at], (sides[0] - sides[1]) / 2e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_other_dtypes(dtype):
    z = jnp.asarray(LOGITS, dtype)
    value, vjp = jax.vjp(lambda z: ctc_loss(z, *REST), z)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, by_enumeration(np.asarray(z, np.float64)), rtol=2e-6, atol=1e-6)
    gradient = vjp(jnp.ones(8))[0]
    assert gradient.dtype == dtype
    assert np.isfinite(gradient).all()


def test_hostile_logits():
    for scale in (30.0, 1e4):
        z = np.where(np.isnan(LOGITS), np.nan, np.round(LOGITS) * scale).astype(np.float32)
        got = ctc_loss(z, *REST)
        np.testing.assert_allclose(got, by_enumeration(z.astype(np.float64)), rtol=1e-5, atol=1e-5)
        assert (got >= 0).all()
        gradient = jax.grad(lambda z: jnp.sum(ctc_loss(z, *REST)))(z)
        assert np.isfinite(gradient).all()


def test_impossible_classes():
    z = np.zeros((3, 3, 3), np.float32)
    z[0, :, 2] = -INF  # not needed
    z[1, :, 1] = -INF  # the label itself
    z[2, 1, [0, 2]] = -INF  # frame 1 is the label for certain
    y, no_pads = np.array([[1], [1], [1]]), np.zeros((3, 3))
    f = lambda z: ctc_loss(z, no_pads, y, np.zeros((3, 1)))
    value, vjp = jax.vjp(f, z)
    paths = [[2**-3 * 6, 0, (1 + 2 + 1) / 9]]  # of 8, of 27, and b1b b11 11b 111 among the nine
    np.testing.assert_allclose(
        value, -np.log(paths[0], where=np.array(paths[0]) > 0, out=np.full(3, -INF)), rtol=1e-6
    )
    (gradient,) = vjp(jnp.ones(3))
    assert np.isfinite(gradient).all()
    assert (gradient[0, :, 2] == 0).all()
    assert (gradient[1] == 0).all()
    tangent = jax.jvp(f, (z,), (np.ones_like(z),))[1]
    np.testing.assert_allclose(tangent, 0, atol=1e-6)


def test_never_negative_with_a_live_gradient():
    sure = np.array([30.0, 0, 0]) + 1e-3 * RNG.standard_normal((500, 40, 3))
    f = lambda z: ctc_loss(z, np.zeros((500, 40)), np.zeros((500, 0), int), np.zeros((500, 0)))
    value, gradient = jax.value_and_grad(lambda z: f(z).sum())(sure.astype(np.float32))
    assert (f(sure.astype(np.float32)) >= 0).all()
    assert value < 1e-3
    assert (gradient[..., 1] > 0).all()


def test_labels_that_are_no_class():
    labels = LABELS.copy()
    labels[0, 1], labels[1, 0] = 3, -1
    value, vjp = jax.vjp(lambda z: ctc_loss(z, PADS, labels, LABEL_PADS), LOGITS.astype(np.float32))
    gradient = np.asarray(vjp(jnp.ones(8))[0])
    assert np.isnan(value[:2]).all()
    assert not np.isnan(value[2:]).any()
    assert np.isnan(gradient[:2][PADS[:2] == 0]).all()
    assert np.isfinite(gradient[2:]).all()
    hidden = {"where": np.arange(8) > 1}
    value, gradient = jax.value_and_grad(
        lambda z: jnp.sum(ctc_loss(z, PADS, labels, LABEL_PADS, **hidden)[:3])
    )(LOGITS.astype(np.float32))
    assert np.isfinite(value)
    assert (gradient[:2] == 0).all()


def test_derivatives():
    z = RNG.standard_normal((4, 5, 3))
    few = tuple(np.asarray(a[:4]) for a in ([[0, 0, 0, 0, 1]] * 4, [[1, 2], [1, 1], [2, 0], [0, 0]]))
    rest = (np.asarray(few[0], np.float32), few[1], np.array([[0, 0], [0, 0], [0, 1], [1, 1]], np.float32))
    oracle.assert_smooth(lambda z: ctc_loss(z, *rest), z)
    np.testing.assert_allclose(ctc_loss(z + 5, *rest), ctc_loss(z, *rest), rtol=1e-5)
    other = ctc_loss(np.roll(z, 1, -1), rest[0], (rest[1] + 1) % 3, rest[2], blank_id=1)
    np.testing.assert_allclose(other, ctc_loss(z, *rest), rtol=1e-6)


def test_equal_to_optax():
    z, pads = jnp.asarray(RNG.standard_normal((3, 6, 4)), jnp.float32), jnp.zeros((3, 6)).at[1, 4:].set(1)
    labels = jnp.array([[1, 2, 2], [3, 1, 0], [1, 0, 0]])
    label_pads = (labels == 0).astype(jnp.float32)
    ours = jax.jit(ctc_loss_with_forward_probs)(z, pads, labels, label_pads)
    theirs = jax.jit(optax.losses.ctc_loss_with_forward_probs)(z, pads, labels, label_pads)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        reached = b > -1e4  # optax adds log-probabilities to its log 0
        np.testing.assert_allclose(a[reached], b[reached], rtol=1e-5)
        assert (a[~reached] == -1e5).all()
    slopes = [
        jax.jit(jax.grad(lambda z, f=f: f(z, pads, labels, label_pads).sum()))(z)
        for f in (ctc_loss, optax.ctc_loss)
    ]
    np.testing.assert_allclose(*slopes, rtol=1e-4, atol=1e-6)
    for f, g in (
        (ctc_loss, optax.ctc_loss),
        (ctc_loss_with_forward_probs, optax.ctc_loss_with_forward_probs),
    ):
        mine, names = inspect.signature(f).parameters, inspect.signature(g).parameters
        assert list(mine)[: len(names)] == list(names)
        assert all(mine[n].default == p.default and mine[n].kind == p.kind for n, p in names.items())


def test_equal_to_torch():
    frames, lengths = np.array(GOLDEN["frames"]), np.array(GOLDEN["lengths"])
    pads = np.arange(7) >= frames[:, None], np.arange(3) >= lengths[:, None]
    with jax.enable_x64(True):
        f = lambda z: ctc_loss(z, pads[0], np.array(GOLDEN["labels"]), pads[1])
        value, vjp = jax.vjp(jax.jit(f), jnp.array(GOLDEN["logits"]))
        np.testing.assert_allclose(value, GOLDEN["values"], rtol=1e-12)
        np.testing.assert_allclose(vjp(jnp.ones(5))[0], GOLDEN["gradient"], rtol=1e-9, atol=1e-13)


def test_long_sequences_and_none():
    z = jnp.full((1, 3000, 40), 0.0).at[..., 0].set(-60.0)  # log p of a path passes optax's log 0, −1e5
    y = jnp.arange(2999)[None] % 39 + 1
    loss = ctc_loss(z, jnp.zeros((1, 3000)), y, jnp.zeros((1, 2999)))
    assert 3000 * np.log(39) - np.log(3000) - 1 < loss[0] < 3000 * np.log(39) + 1
    empty = ctc_loss(
        jnp.zeros((2, 0, 3)), jnp.zeros((2, 0)), jnp.ones((2, 1), int), jnp.array([[0.0], [1.0]])
    )
    np.testing.assert_array_equal(empty, [INF, 0])
    no_labels = ctc_loss(jnp.zeros((2, 4, 2)), jnp.zeros((2, 4)), jnp.ones((2, 0), int), jnp.zeros((2, 0)))
    np.testing.assert_allclose(no_labels, 4 * np.log(2), rtol=1e-6)


def test_log_add_has_derivatives_of_every_order():
    a, b = np.array([0.0, -INF, -INF, 3.0, 1e4]), np.array([0.0, 2.0, -INF, -50.0, -1e4])
    np.testing.assert_allclose(log_add(a, b), np.logaddexp(a, b), rtol=1e-7)
    first = jax.vmap(jax.grad(log_add, (0, 1)))(a, b)
    np.testing.assert_allclose(first[0], [0.5, 0, 0, 1, 1], atol=1e-7)
    np.testing.assert_allclose(first[1], [0.5, 1, 0, np.exp(-53.0), 0], rtol=1e-5, atol=1e-37)
    second = jax.vmap(jax.grad(jax.grad(log_add)))(a, b)
    np.testing.assert_allclose(second, [0.25, 0, 0, np.exp(-53.0), 0], rtol=1e-5, atol=1e-37)
    np.testing.assert_allclose(jax.grad(sigmoid)(30.0), np.exp(-30.0), rtol=1e-5)


def test_wrong_arguments_are_named():
    z, (pads, y, label_pads) = LOGITS, REST
    fault = oracle.assert_names_the_fault
    fault("ctc_loss", "logits", lambda: ctc_loss(z[0], pads, y, label_pads))
    fault("ctc_loss", "labels", lambda: ctc_loss(z, pads, y[0], label_pads))
    fault("ctc_loss", "labels", lambda: ctc_loss(z, pads, y[:2], label_pads[:2]))
    fault("ctc_loss", "labels", lambda: ctc_loss(z, pads, y * 1.0, label_pads), TypeError)
    fault("ctc_loss", "logit_paddings", lambda: ctc_loss(z, pads[:, :2], y, label_pads))
    fault("ctc_loss", "label_paddings", lambda: ctc_loss(z, pads, y, label_pads[:, :2]))
    fault("ctc_loss", "blank_id", lambda: ctc_loss(z, pads, y, label_pads, blank_id=3))
    fault("ctc_loss", "where", lambda: ctc_loss(z, pads, y, label_pads, where=pads > 0))
    call = lambda: ctc_loss_with_forward_probs(z[0], pads, y, label_pads)
    fault("ctc_loss_with_forward_probs", "logits", call)
