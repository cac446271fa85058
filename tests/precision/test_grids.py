"""Grids: codes and fractions are inverse, and roots of second moments survive the whole range of float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_lite.precision.grids import Grid, codes, squares, tile_scale

GRIDS = [Grid(127, 0, 1), Grid(7, 0, 1, 5), Grid(7, 0, 1), Grid(255, 1, 2), Grid(15, 1, 2)]


@pytest.mark.parametrize("grid", GRIDS)
def test_codes_of_the_fractions_are_the_codes(grid):
    q = jnp.arange(grid.top + 1.0)
    np.testing.assert_array_equal(grid.fraction(q)[jnp.array([0, -1])], [0.0, 1.0])
    x = 3.0 * grid.fraction(q)
    scale = tile_scale(x, (8, 128))
    np.testing.assert_allclose(scale, 3.0, rtol=1e-6)
    for key in (None, jax.random.key(0)):
        got = jax.jit(lambda x, key: codes(x, scale, grid, (8, 128), key))(x, key)
        np.testing.assert_allclose(got, q, atol=0 if key is None else 1)


@pytest.mark.parametrize("grid", GRIDS)
def test_rounding_at_random_keeps_the_power_of_the_fraction(grid):
    """Three fractions between two codes, a hundred thousand draws of each beside the largest, which is the scale."""
    low = grid.top // 2
    below, above = (float(grid.fraction(jnp.float32(q))) for q in (low, low + 1))
    for share in (0.2, 0.5, 0.9):
        t = (below**grid.power * (1 - share) + above**grid.power * share) ** (1 / grid.power)
        x = jnp.full((8, 12_500), t, jnp.float32)
        scale = jnp.ones((1, 98), jnp.float32)
        got = np.asarray(codes(x, scale, grid, (8, 128), jax.random.key(1)))
        assert set(np.unique(got)) == {low, low + 1}
        assert abs((got > low).mean() - share) < 5 * np.sqrt(share * (1 - share) / got.size)


def test_squares_over_the_whole_range():
    v = jnp.array([0.0, 1.2e-38, 1e-30, 1.0, 1e30, 1e36, 3.4028e38])
    got = squares(jnp.sqrt(v))
    np.testing.assert_allclose(got, v, rtol=1e-6)
    assert got[0] == 0
