"""`alike` is the identity of its second argument; where it puts that is checked in mesh_shares.py."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_lite.alike import alike

X, Y = jnp.arange(6.0).reshape(2, 3), jnp.ones((2, 3))


def test_values_and_derivatives_are_those_of_the_second():
    for f in (alike, jax.jit(alike)):
        assert f(X, Y) is Y or np.array_equal(f(X, Y), Y)
        assert f(jnp.arange(3), jnp.arange(3) + 1).tolist() == [1, 2, 3]
    gradients = jax.grad(lambda x, y: jnp.vdot(X, alike(x, y) ** 2), (0, 1))(X, Y)
    np.testing.assert_array_equal(gradients, (0 * X, 2 * X))
    assert jax.jvp(jax.jit(alike), (X, Y), (X, 3 * Y))[1].tolist() == (3 * Y).tolist()


@pytest.mark.parametrize("axes", [(0, 0), (1, 0), (0, 1), (None, 0), (0, None), (None, 1)])
def test_under_vmap(axes):
    x, y = (
        jnp.moveaxis(jnp.stack([a, a + 1]), 0, axis) if axis is not None else a
        for a, axis in zip((X, Y), axes, strict=True)
    )
    f = lambda x, y: alike(x, y) * 2
    np.testing.assert_array_equal(jax.vmap(f, axes)(x, y), jax.vmap(lambda x, y: y * 2, axes)(x, y))


def test_each_pair_is_a_group_of_its_own():
    """Also where all are of one shape."""

    def f(x, y, z):
        return alike(x, y), alike(y, z), alike(x, z)

    with jax.set_mesh(jax.make_mesh((1,), ("data",))):
        text = jax.jit(f).lower(X, Y, Y).as_text()
    groups = re.findall(r"sdy.sharding_group %\w+ group_id=(\d+)", text)
    assert len(groups) == 6
    assert len(set(groups)) == 3
