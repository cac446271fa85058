"""`alike` and the barriers are identities; where they put things is checked in mesh_shares.py."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_lite.alike import alike, loose, settled, told
from tests.test_shares import run_on_eight_devices

X, Y = jnp.arange(6.0).reshape(2, 3), jnp.ones((2, 3))


@pytest.mark.parametrize(
    "f", [alike, jax.jit(alike), lambda x, y: told(loose(y)), jax.jit(lambda x, y: settled(told(y)))]
)
def test_values_and_derivatives_are_those_of_the_last(f):
    np.testing.assert_array_equal(f(X, Y), Y)
    assert f(jnp.arange(3), jnp.arange(3) + 1).tolist() == [1, 2, 3]
    gradients = jax.grad(lambda x, y: jnp.vdot(X, f(x, y) ** 2), (0, 1))(X, Y)
    np.testing.assert_array_equal(gradients, (0 * X, 2 * X))
    assert jax.jvp(f, (X, Y), (X, 3 * Y))[1].tolist() == (3 * Y).tolist()


@pytest.mark.parametrize("f", [alike, lambda x, y: loose(y), lambda x, y: settled(y), lambda x, y: told(y)])
@pytest.mark.parametrize("axes", [(0, 0), (1, 0), (0, 1), (None, 0), (0, None), (None, 1)])
def test_under_vmap(f, axes):
    batch = lambda a, axis: a if axis is None else jnp.stack([a, a + 1], axis)
    x, y = batch(X, axes[0]), batch(Y, axes[1])
    got = jax.vmap(lambda x, y: f(x, y) * 2, axes)(x, y)
    np.testing.assert_array_equal(got, jax.vmap(lambda x, y: y * 2, axes)(x, y))


def text_of(f, *args):
    with jax.set_mesh(jax.make_mesh((1,), ("data",))):
        return jax.jit(f).lower(*args).as_text()


def test_each_pair_is_a_group_of_its_own():
    """Also where all are of one shape."""
    text = text_of(lambda x, y, z: (alike(x, y), alike(y, z), alike(x, z)), X, Y, Y)
    groups = re.findall(r"sdy.sharding_group %\w+ group_id=(\d+)", text)
    assert len(groups) == 6
    assert len(set(groups)) == 3


def test_barriers_say_their_direction():
    text = text_of(lambda x: told(loose(settled(x))), X)
    found = re.findall(r"propagation_barrier %\w+ allowed_direction=(\w+)", text)
    assert found == ["FORWARD", "NONE", "BACKWARD"]


def test_the_partitioner_before_shardy_is_told_nothing():
    jax.config.update("jax_use_shardy_partitioner", False)
    try:
        text = text_of(lambda x, y: alike(settled(x), loose(y)), X, Y)
    finally:
        jax.config.update("jax_use_shardy_partitioner", True)
    assert "propagation_barrier" not in text
    assert "sharding_group" not in text


@pytest.mark.slow
def test_where_they_put_things():
    run_on_eight_devices("places")
