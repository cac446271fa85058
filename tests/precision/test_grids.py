"""Grids: codes and fractions are inverse, and roots of second moments survive the whole range of float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_lite.optimizers.moments import root_of, second_moment
from jaxopt_lite.precision.grids import codes, companded, roots, square, squares


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


def test_roots_and_squares_over_the_whole_range():
    v = jnp.array([0.0, 1.2e-38, 1e-30, 1.0, 1e30, 1e36, 3e38])
    got = squares(roots(v))
    np.testing.assert_allclose(got, v, rtol=1e-6)
    assert got[0] == 0


def test_moments_beyond_the_range_keep_their_root():
    nu, root = second_moment(jnp.zeros(4), jnp.array([1e10, 1e19, 1e25, 1e36]), 0.9)
    assert (nu[2:] < 0).all()
    np.testing.assert_allclose(root_of(squares(roots(nu))), root, rtol=1e-6)
