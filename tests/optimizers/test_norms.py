"""Root mean squares of entries of any magnitude."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_lite.optimizers import norms
from jaxopt_lite.optimizers.norms import rms, scaled_magnitude

X = np.array([[3.0, -4.0, 0.0], [1.0, 2.0, -2.0]], np.float32)


@pytest.fixture(autouse=True, params=["small", "large"])
def _either_way(request, monkeypatch):
    monkeypatch.setattr(norms, "SMALL", norms.SMALL if request.param == "small" else -1)


@pytest.mark.parametrize("axis", [None, 0, 1, (0, 1), ()])
@pytest.mark.parametrize("size", [1.0, 1e20, 1e-15])
def test_rms_is_numpys(axis, size):
    expected = size * np.sqrt(np.mean(X.astype(np.float64) ** 2, axis=axis, keepdims=True))
    got = rms(jnp.asarray(X * np.float32(size)), axis)
    np.testing.assert_allclose(got, np.broadcast_to(expected, got.shape), rtol=1e-6)


def test_only_the_axis_that_overflows_is_scaled():
    x = jnp.array([[1e20, 1e20], [3.0, 4.0]])
    np.testing.assert_allclose(rms(x, 1)[:, 0], [1e20, np.sqrt(12.5)], rtol=1e-6)


def test_complex_zero_and_empty():
    np.testing.assert_allclose(rms(jnp.array([3 + 4j, 0j])), [5 / np.sqrt(2)], rtol=1e-6)
    assert rms(jnp.zeros((0, 3)), 0).tolist() == [[0, 0, 0]]
    assert rms(jnp.zeros(())) == 0
    assert jax.grad(lambda x: rms(x).sum())(jnp.zeros(2)).tolist() == [0, 0]


def test_infinite_and_nan_entries_show():
    assert rms(jnp.array([1.0, jnp.inf]))[0] == jnp.inf
    assert jnp.isnan(rms(jnp.array([1.0, jnp.nan])))[0]


def test_scaled_magnitude_of_a_huge_scalar_can_be_squared():
    square = jax.jit(lambda x: scaled_magnitude(x, 2.0**-64) ** 2)(jnp.float32(1e30))
    np.testing.assert_allclose(square, (1e30 * 2.0**-64) ** 2, rtol=1e-6)
