"""The mechanism that every loss shares: masks, weights, reductions, dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_lite.losses import reduce

NAN = np.nan
L = jnp.array([1.0, 2.0, 4.0])
KEEP = jnp.array([True, False, True])
WEIGHTS = jnp.array([0.5, 0.0, 2.0])


def test_reductions():
    both = {"where": KEEP, "weights": WEIGHTS}
    for kwargs, none, total, mean in (
        ({"where": None, "weights": None}, [1, 2, 4], 7, 7 / 3),
        ({"where": KEEP, "weights": None}, [1, 0, 4], 5, 2.5),
        ({"where": None, "weights": WEIGHTS}, [0.5, 0, 8], 8.5, 3.4),
        (both, [0.5, 0, 8], 8.5, 3.4),
    ):
        run = lambda reduction, kwargs=kwargs: reduce.reduced("f", L, **kwargs, reduction=reduction)
        np.testing.assert_array_equal(run("none"), none)
        np.testing.assert_allclose(run("sum"), total, rtol=1e-6)
        np.testing.assert_allclose(run("mean"), mean, rtol=1e-6)


def test_denominator_and_nothing_counted():
    counts = jnp.array([2.0, 5.0, 0.0])
    assert reduce.reduced("f", L, KEEP, None, "mean", denominator=counts) == 5 / 2
    nothing = jnp.zeros(3, bool)
    for loss in (L, L * NAN):
        value, slope = jax.value_and_grad(lambda x: reduce.reduced("f", x, nothing, None, "mean"))(loss)
        assert value == 0
        np.testing.assert_array_equal(slope, [0, 0, 0])
    assert reduce.reduced("f", jnp.zeros(0), None, None, "mean") == 0
    assert np.isnan(reduce.reduced("f", L, None, WEIGHTS.at[1].set(NAN), "mean"))


@pytest.mark.parametrize("hide", [{"where": KEEP, "weights": None}, {"where": None, "weights": WEIGHTS}])
def test_entries_hide_nan_from_value_and_gradient(hide):
    def loss(x, y):
        x, y = reduce.entries("f", **hide, x=x, y=y)
        return reduce.reduced("f", x / y, **hide, reduction="sum")

    value, slopes = jax.value_and_grad(loss, (0, 1))(L.at[1].set(NAN), L.at[1].set(np.inf))
    assert np.isfinite(value)
    for slope in slopes:
        assert slope[1] == 0
        assert np.isfinite(slope).all()


def test_entries_axes_fill_and_dtypes():
    x = jnp.ones((2, 3, 4), jnp.bfloat16)
    (rows,) = reduce.entries("f", jnp.array([True, False]), None, axis=(1, -1), fill=7.0, x=x)
    assert rows.dtype == jnp.float32
    np.testing.assert_array_equal(rows[:, 0, 0], [1, 7])
    (all_,) = reduce.entries("f", jnp.array(False), None, axis=None, x=x)
    assert not all_.any()
    classes = jnp.ones((2, 3, 4), bool).at[0, 0, 0].set(False)
    (some,) = reduce.entries("f", jnp.array([True, False]), None, axis=(1, 2), classes=classes, x=x)
    np.testing.assert_array_equal(some.sum((1, 2)), [11, 0])
    assert reduce.compute_dtype(jnp.int32(1), jnp.float16(1)) == jnp.float32
    with jax.enable_x64(True):
        assert reduce.compute_dtype(jnp.float64(1), jnp.float16(1)) == jnp.float64


def test_split_mask_tells_classes_from_results_by_rank():
    x = jnp.ones((2, 3))
    assert reduce.split_mask("f", None, x, -1) == (None, None)
    where, classes = reduce.split_mask("f", KEEP[:2], x, -1)
    assert classes is None
    where, classes = reduce.split_mask("f", jnp.array([[True, False, True], [False] * 3]), x, -1)
    np.testing.assert_array_equal(where, [True, False])
    assert classes.shape == (2, 3)
    with pytest.raises(ValueError, match=r"f: where has shape \(1, 3\), expected \(2, 3\)"):
        reduce.split_mask("f", jnp.ones((1, 3), bool), x, -1)


def test_product_and_its_gradients():
    a, b = jnp.array([0.0, 2.0, 0.0]), jnp.array([-np.inf, 3.0, 5.0])
    np.testing.assert_array_equal(reduce.product(a, b), [0, 6, 0])
    to_a, to_b = jax.grad(lambda a, b: reduce.product(a, b).sum(), (0, 1))(a, b)
    np.testing.assert_array_equal(to_a, [0, 3, 5])
    np.testing.assert_array_equal(to_b, [0, 2, 0])


def test_options_are_numbers_or_have_the_shape():
    assert reduce.option("f", "x", 2, (3,), jnp.float32) == 2
    assert reduce.option("f", "x", jnp.bfloat16(2), (3,), jnp.float32).dtype == jnp.float32
    assert reduce.option("f", "x", np.ones(3), (3,), jnp.float32).dtype == jnp.float32
    with pytest.raises(ValueError, match=r"f: x has shape \(1,\), expected \(3,\)"):
        reduce.option("f", "x", np.ones(1), (3,), jnp.float32)


def test_errors():
    with pytest.raises(ValueError, match=r"f: reduction is 'avg', expected one of 'none', 'mean', 'sum'"):
        reduce.reduced("f", L, None, None, "avg")
    with pytest.raises(TypeError, match="f: where has dtype float32, expected bool"):
        reduce.reduced("f", L, L, None, "sum")
    with pytest.raises(ValueError, match=r"f: where has shape \(2,\), expected \(3,\)"):
        reduce.entries("f", KEEP[:2], None, x=L)
    with pytest.raises(TypeError, match="f: weights has dtype int32, expected a floating dtype"):
        reduce.reduced("f", L, None, jnp.ones(3, int), "sum")
    with pytest.raises(ValueError, match=r"f: weights has shape \(3, 1\), expected \(3,\)"):
        reduce.entries("f", None, WEIGHTS[:, None], x=L)
    with pytest.raises(ValueError, match="out of bounds"):
        reduce.entries("f", None, None, axis=2, x=L)
