"""Grids: codes and fractions are inverse, and roots of second moments survive the whole range of float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_lite.precision.grids import codes, companded, square, squares, tile_scale

GRIDS = [(companded(127), 1), (companded(7), 1), (square(255), 2), (square(15), 2)]


@pytest.mark.parametrize(("grid", "_"), GRIDS)
def test_codes_of_the_fractions_are_the_codes(grid, _):
    q = jnp.arange(grid.top + 1.0)
    np.testing.assert_array_equal(grid.from_code(q)[jnp.array([0, -1])], [0.0, 1.0])
    x = 3.0 * grid.from_code(q)
    scale = tile_scale(x, (8, 128))
    got = jax.jit(lambda x: codes(x, scale, grid, (8, 128), None))(x)
    np.testing.assert_array_equal(got, q)
    np.testing.assert_allclose(scale, 3.0, rtol=1e-6)


@pytest.mark.parametrize(("grid", "power"), GRIDS)
def test_the_share_is_that_of_the_fraction_and_for_second_moments_of_its_square(grid, power):
    with jax.enable_x64(True):
        c = np.linspace(0, grid.top, 999, endpoint=False)
        low = np.floor(c)
        here, below, above = (np.asarray(grid.from_code(q)) ** power for q in (c, low, low + 1))
        share, whole = grid.share(c, low)
        np.testing.assert_allclose(share / whole, (here - below) / (above - below), atol=1e-9)
        np.testing.assert_allclose(grid.to_code(grid.from_code(c)), c, atol=1e-9)


def test_squares_over_the_whole_range():
    v = jnp.array([0.0, 1.2e-38, 1e-30, 1.0, 1e30, 1e36, 3.4028e38])
    got = squares(jnp.sqrt(v))
    np.testing.assert_allclose(got, v, rtol=1e-6)
    assert got[0] == 0
