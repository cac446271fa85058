"""Grids: codes and fractions are inverse, and roots of second moments survive the whole range of float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_lite.precision.grids import codes, companded, square, squares


@pytest.mark.parametrize(
    "grid",
    [companded(127), companded(7), square(255), square(15)],
    ids=lambda grid: f"{grid.top} {grid.power}",
)
def test_codes_of_the_fractions_are_the_codes(grid):
    q = jnp.arange(grid.top + 1.0)
    got, scale = jax.jit(lambda x: codes(x, grid, (8, 128), None))(3.0 * grid.from_code(q))
    np.testing.assert_array_equal(got, q)
    np.testing.assert_allclose(scale, 3.0, rtol=1e-6)


def test_squares_over_the_whole_range():
    v = jnp.array([0.0, 1.2e-38, 1e-30, 1.0, 1e30, 1e36, 3.4028e38])
    got = squares(jnp.sqrt(v))
    np.testing.assert_allclose(got, v, rtol=1e-6)
    assert got[0] == 0
