"""Averages of Gram matrices: the formula in a scaled form, magnitudes, sides left alone."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_lite.optimizers import kronecker


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e25])
def test_it_is_the_average_divided_by_the_scale_squared(size):
    rng = np.random.default_rng(0)
    sizes = np.array([1, 100, 1e-3, 1e-3, 10]) * size
    grads = [(c * rng.normal(size=(2, 3, 4))).astype(np.float32) for c in sizes]
    state = (jnp.zeros((2, 3, 3)), jnp.zeros((0, 0)), jnp.zeros((2, 1, 1)))
    want = 0
    for g in grads:
        state = kronecker.average(jnp.asarray(g), *state, 0.9)
        wide = g.astype(np.float64)
        want = 0.9 * want + 0.1 * wide @ wide.swapaxes(-1, -2)
    left, right, scale = (np.asarray(x, np.float64) for x in state)
    np.testing.assert_allclose(left * scale**2, want, rtol=2e-5, atol=1e-6 * np.abs(want).max())
    assert right.shape == (0, 0)
    assert 0.09 < np.abs(left).max() < 10


def test_zeros_are_harmless():
    state = kronecker.average(jnp.zeros((3, 2)), jnp.zeros((3, 3)), jnp.zeros((2, 2)), jnp.zeros((1, 1)), 0.9)
    assert not any(x.any() for x in state)


@pytest.mark.parametrize("shape", [(5, 2), (2, 5)])
def test_both_sides(shape):
    rng = np.random.default_rng(0)
    x, left, right = (
        rng.normal(size=shape),
        rng.normal(size=(shape[0],) * 2),
        rng.normal(size=(shape[1],) * 2),
    )
    none = jnp.zeros((0, 0))
    run = lambda *arrays: kronecker.both_sides(*(jnp.asarray(a, jnp.float32) for a in arrays))
    np.testing.assert_allclose(run(left, x, right), left @ x @ right, atol=2e-5)
    np.testing.assert_allclose(run(left, x, none), left @ x, atol=2e-5)
    np.testing.assert_allclose(run(none, x, right), x @ right, atol=2e-5)
    np.testing.assert_allclose(run(none, x, none), x, rtol=1e-7)
