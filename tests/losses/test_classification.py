"""Cross-entropies: oracle, textbook cases, optax and PyTorch, class masks, labels out of range, infinities."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_lite as jol
from tests.oracles.compare import DTYPES, Case, check, check_golden, golden, pairs, triples, value_and_slope
from tests.users import Jitted

losses = Jitted(jol.losses)
INF, NAN = np.inf, np.nan
INTEGER = "softmax_cross_entropy_with_integer_labels"
integer_loss = losses.softmax_cross_entropy_with_integer_labels
RNG = np.random.default_rng(0)

x, t = pairs()
CHANCES = np.clip(np.abs(t), 0, 1)
LOGITS = triples()
LABELS = np.arange(len(LOGITS), dtype=np.int32) % 3
TARGETS = RNG.dirichlet(np.ones(3), len(LOGITS))
TARGETS[::4] = np.eye(3)[LABELS[::4]]
OPTIONS = {"label_smoothing": 0.1, "z_loss": 1e-3, "class_weights": np.array([0.5, 1.0, 2.0])}


def squares(z, y):
    return 1 + 0.01 * np.abs(z).max(axis=1)


CASES = [
    Case("cross_entropy", (TARGETS[::-1] * 0.9 + 0.03, TARGETS)),
    Case("softmax_cross_entropy", (LOGITS, TARGETS), slope_noise=1),
    Case(INTEGER, (LOGITS, LABELS), slope_noise=1),
    Case(INTEGER, (LOGITS, LABELS), OPTIONS, slope_noise=squares),
    Case("sigmoid_binary_cross_entropy", (x, CHANCES), slope_noise=1),
    Case("sigmoid_binary_cross_entropy", (x, CHANCES), {"pos_weight": 2.5}, slope_noise=3),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_oracle(case, dtype):
    check(case, dtype)


def test_binary_cross_entropy_at_zero():
    y = jnp.array([0.0, 0.25, 1.0])
    loss = lambda x: jol.losses.sigmoid_binary_cross_entropy(x, y)
    slope = lambda x: jax.jvp(loss, (x,), (jnp.ones(3),))
    derivatives = jax.jit(lambda x: (*slope(x), jax.jvp(slope, (x,), (jnp.ones(3),))[1][1]))(jnp.zeros(3))
    for got, want in zip(derivatives, (np.full(3, np.log(2)), 0.5 - y, np.full(3, 0.25)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_cross_entropy_textbook():
    targets, predictions = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([[0.8, 0.2], [0.3, 0.7]])
    value = losses.cross_entropy(predictions, targets, reduction="mean")
    np.testing.assert_allclose(value, 0.2899, atol=5e-5)


Z = jnp.asarray(RNG.normal(size=(2, 3, 4)), jnp.float32)
Y = jnp.asarray(RNG.integers(0, 4, (2, 3)))
ROWS = jax.nn.one_hot(Y, 4)
KEPT = jnp.asarray(RNG.random((2, 3, 4)) < 0.6) | (ROWS > 0)


def test_equal_to_optax_at_ordinary_inputs():
    same = lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=1e-7)
    same(integer_loss(Z, Y), optax.losses.softmax_cross_entropy_with_integer_labels(Z, Y))
    same(integer_loss(Z, Y, -1, KEPT), optax.losses.softmax_cross_entropy_with_integer_labels(Z, Y, -1, KEPT))
    for axis in (-1, 0, (0, 2), None):
        same(
            losses.softmax_cross_entropy(Z, ROWS, axis, KEPT),
            optax.losses.softmax_cross_entropy(Z, ROWS, axis, KEPT),
        )
    same(losses.safe_softmax_cross_entropy(Z, ROWS), optax.losses.safe_softmax_cross_entropy(Z, ROWS))
    same(losses.sigmoid_binary_cross_entropy(Z, ROWS), optax.losses.sigmoid_binary_cross_entropy(Z, ROWS))


def test_integer_labels_over_several_axes_in_any_order():
    for axis, labels in (
        ((1, 2), jnp.array([7, 11])),
        ((2, 0), jnp.array([0, 5, 7])),
        (1, Y[:, :1].repeat(4, 1) % 3),
    ):
        ours, theirs = (
            f(Z, labels, axis) for f in (integer_loss, optax.losses.softmax_cross_entropy_with_integer_labels)
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_class_ids_where_rows_belong_and_the_reverse():
    with pytest.raises(
        ValueError, match=r"softmax_cross_entropy: labels has shape \(4,\), expected \(4, 4\)"
    ):
        losses.softmax_cross_entropy(jnp.ones((4, 4)), jnp.arange(4))
    with pytest.raises(TypeError, match=f"{INTEGER}: labels has dtype float32, expected an integer dtype"):
        integer_loss(jnp.ones((4, 4)), jnp.eye(4))
    with pytest.raises(ValueError, match=rf"{INTEGER}: labels has shape \(4, 4\), expected \(4,\)"):
        integer_loss(jnp.ones((4, 4)), jnp.eye(4, dtype=int))
    with pytest.raises(ValueError, match=r"cross_entropy: targets has shape \(4,\), expected \(4, 4\)"):
        losses.cross_entropy(jnp.ones((4, 4)), jnp.arange(4))
    with pytest.raises(
        ValueError, match=r"sigmoid_binary_cross_entropy: labels has shape \(4,\), expected \(4, 1\)"
    ):
        losses.sigmoid_binary_cross_entropy(jnp.ones((4, 1)), jnp.ones(4))
    with pytest.raises(ValueError, match=rf"{INTEGER}: class_weights has shape \(3,\), expected \(4,\)"):
        integer_loss(jnp.ones((4, 4)), jnp.arange(4), class_weights=jnp.ones(3))
    with pytest.raises(ValueError, match=r"label_smoothing is 1\.5"):
        integer_loss(jnp.ones((4, 4)), jnp.arange(4), label_smoothing=1.5)


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.int32, jnp.uint8, jnp.uint32])
def test_labels_out_of_range_are_nan_in_their_row_alone(dtype):
    labels = np.array([1, -1, 4, 127, 3]).astype(dtype)
    z = jnp.ones((5, 4))
    for run in (lambda f: f, jax.jit):
        value, slope = run(jax.value_and_grad(lambda z: integer_loss(z, labels).sum()))(z)
        assert np.isnan(value)
        np.testing.assert_array_equal(np.isnan(slope).all(axis=1), [False, True, True, True, False])
        np.testing.assert_array_equal(np.isnan(slope).any(axis=1), [False, True, True, True, False])
    weights = jnp.ones(4)
    assert np.isnan(integer_loss(z[:1], labels[1:2], class_weights=0 * weights, reduction="mean"))


def test_many_classes_and_narrow_labels():
    z = jnp.zeros((2, 300)).at[:, 7].set(1.0)
    np.testing.assert_allclose(
        integer_loss(z, jnp.array([7, 100], jnp.int8)), integer_loss(z, jnp.array([7, 100])), rtol=1e-7
    )


def test_ignored_and_masked_rows_are_exactly_zero_even_over_nan():
    z = jnp.array([[1.0, 2.0], [NAN, INF], [NAN, NAN], [0.0, 0.0]])
    labels, where = jnp.array([0, -100, 9, 1]), jnp.array([True, True, False, True])
    loss = lambda z: integer_loss(
        z, labels, where=where, ignore_index=-100, label_smoothing=0.1, z_loss=0.1, reduction="mean"
    )
    value, slope = value_and_slope(loss, z)
    kept = integer_loss(z[::3], labels[::3], label_smoothing=0.1, z_loss=0.1, reduction="mean")
    np.testing.assert_allclose(value, kept, rtol=1e-6)
    np.testing.assert_array_equal(slope[1:3], np.zeros((2, 2)))
    assert np.abs(slope[[0, 3]]).min() > 0
    np.testing.assert_array_equal(jax.jvp(loss, (z,), (jnp.ones_like(z).at[::3].set(0),))[1], 0)


def test_a_mask_of_classes_is_the_loss_over_the_classes_kept():
    z, y = Z[0], jnp.array([0, 1, 3])
    classes = jnp.array([[True, True, False, True]] * 3)
    kept, options = jnp.array([0, 1, 3]), {"label_smoothing": 0.2, "z_loss": 0.01}
    np.testing.assert_allclose(
        integer_loss(z, y, where=classes, **options),
        integer_loss(z[:, kept], jnp.array([0, 1, 2]), **options),
        rtol=1e-6,
    )
    rows = jax.nn.one_hot(y, 4)
    poisoned = jnp.where(classes, z, NAN)
    value, slope = value_and_slope(lambda z: losses.softmax_cross_entropy(z, rows, where=classes), poisoned)
    np.testing.assert_allclose(value, integer_loss(z, y, where=classes), rtol=1e-6)
    np.testing.assert_array_equal(slope[:, 2], [0, 0, 0])
    hidden = integer_loss(z, jnp.array([2, 2, 2]), where=classes)
    np.testing.assert_array_equal(hidden, [INF] * 3)
    nothing, flat = value_and_slope(lambda z: integer_loss(z, y, where=jnp.zeros_like(classes)), z)
    np.testing.assert_array_equal(nothing, [0, 0, 0])
    np.testing.assert_array_equal(flat, np.zeros((3, 4)))


# Rows: a masked class; no class left; one class certain; a huge spread; the label's class masked.
EDGES = jnp.array([[-INF, 0.0, 1.0], [-INF] * 3, [INF, 0.0, 1.0], [1e4, -1e4, 0.0], [-INF, 0.0, 0.0]])
EDGE_LABELS = jnp.array([1, 1, 0, 1, 0])
EDGE_LOSSES = [np.log1p(np.e), 0, 0, 2e4, INF]


@pytest.mark.parametrize("rows", [False, True])
def test_infinite_logits(rows):
    if rows:
        loss = lambda z: losses.softmax_cross_entropy(z, jax.nn.one_hot(EDGE_LABELS, 3))
    else:
        loss = lambda z: integer_loss(z, EDGE_LABELS)
    value, slope = value_and_slope(loss, EDGES)
    np.testing.assert_allclose(value, EDGE_LOSSES, rtol=1e-6)
    p = np.e / (1 + np.e)
    np.testing.assert_allclose(
        slope[:4], [[0, -p, p], [0, 0, 0], [0, 0, 0], [1, -1, 0]], rtol=1e-6, atol=1e-30
    )
    assert not np.isnan(slope).any()
    forward = jax.jit(lambda z: jax.jvp(loss, (z,), (jnp.ones_like(z),))[1])(EDGES)
    np.testing.assert_allclose(forward[:4], 0, atol=1e-6)
    second = jax.jit(jax.jacfwd(jax.grad(lambda z: jnp.sum(loss(z)))))(EDGES)
    assert not np.isnan(second).any()
    v = p * (1 - p)
    np.testing.assert_allclose(second[0, :, 0], [[0, 0, 0], [0, v, -v], [0, -v, v]], rtol=1e-5, atol=1e-7)


def test_sigmoid_cross_entropy_at_infinite_logits():
    x, y = jnp.array([INF, -INF, INF, -INF, 0.0]), jnp.array([1, 0, 0, 1, 1])
    value, slope = value_and_slope(lambda x: losses.sigmoid_binary_cross_entropy(x, y), x)
    np.testing.assert_allclose(value, [0, 0, INF, INF, np.log(2)], rtol=1e-6)
    np.testing.assert_array_equal(slope, [0, 0, 1, -1, -0.5])


def test_sigmoid_cross_entropy_pos_weight_shapes():
    x, y = Z[0], (ROWS[0])
    per_class = jnp.array([1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(
        losses.sigmoid_binary_cross_entropy(x, y, pos_weight=per_class),
        losses.sigmoid_binary_cross_entropy(x, y, pos_weight=jnp.broadcast_to(per_class, (3, 4))),
    )
    with pytest.raises(ValueError, match=r"pos_weight has shape \(3,\), expected \(4,\)"):
        losses.sigmoid_binary_cross_entropy(x, y, pos_weight=jnp.ones(3))


def test_cross_entropy_at_zero_probabilities():
    p, y = jnp.array([[0.0, 1.0], [1.0, 0.0]]), jnp.array([[0.0, 1.0], [0.0, 1.0]])
    value, slope = value_and_slope(lambda p: losses.cross_entropy(p, y), p)
    np.testing.assert_array_equal(value, [0, INF])
    np.testing.assert_array_equal(slope, [[0, -1], [0, -INF]])
    slope = jax.grad(lambda y: losses.cross_entropy(p, y).sum())(y)
    assert not np.isnan(slope).any()


def test_smooth_labels():
    rows = jnp.array([[0.0, 1.0, 0.0, 0.0]])
    np.testing.assert_allclose(
        losses.smooth_labels(rows, 0.2), optax.losses.smooth_labels(rows, 0.2), rtol=1e-6
    )
    kept = jnp.array([[True, True, False, False]])
    np.testing.assert_allclose(losses.smooth_labels(rows, 0.2, where=kept), [[0.1, 0.9, 0, 0]], rtol=1e-6)
    np.testing.assert_array_equal(losses.smooth_labels(rows * NAN, 0.2, where=kept & False), [[0, 0, 0, 0]])
    assert losses.smooth_labels(rows.astype(jnp.bfloat16), 0.2).dtype == jnp.float32


@pytest.mark.parametrize("record", golden(INTEGER, "softmax_cross_entropy", "sigmoid_binary_cross_entropy"))
def test_equal_to_pytorch(record):
    check_golden(record)
