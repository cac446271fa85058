"""`alike` and the barriers are identities; where they put things is checked in mesh_shares.py."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_lite.alike import alike, loose, settled, split, told
from tests.test_shares import run_on_eight_devices

X, Y = jnp.arange(6.0).reshape(2, 3), jnp.ones((2, 3))


@pytest.mark.parametrize(
    "f",
    [
        alike,
        jax.jit(alike),
        lambda x, y: told(loose(y)),
        jax.jit(lambda x, y: settled(told(y))),
        lambda x, y: split(y, 0, (), 0),
    ],
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


def test_a_split_begins_with_some_axes_and_offers_the_others():
    """The most first; and along the same axis of each under vmap."""
    f = lambda x: split(x, 0, ("a", "b", "c"), 1)
    with jax.set_mesh(jax.make_mesh((1, 1, 1), ("a", "b", "c"))):
        one, many = (jax.jit(g).lower(X).as_text() for g in (f, jax.vmap(f)))
    constraints = lambda text: re.findall(r"sharding_constraint %\w+ <@mesh, \[(.*)\]>", text)
    begun = '{"a", ?}'
    offers = '{"a", "b", "c"}', '{"a", "b"}', '{"a", "c"}'
    assert constraints(one) == [begun + ", {?}", *(offer + ", {}" for offer in offers)]
    assert constraints(many) == ["{?}, " + begun, *("{}, " + offer for offer in offers)]
    for said in ("propagation_barrier", "concatenate", "sharding_group"):
        assert one.count(said) == len(offers)


def test_without_any_to_begin_with_an_offer_may_begin_with_any():
    """Since it may be split by that already."""
    with jax.set_mesh(jax.make_mesh((1, 1), ("a", "b"))):
        text = jax.jit(lambda x: split(x, 0, ("a", "b"), 0)).lower(X).as_text()
    begun, *offers = re.findall(r"sharding_constraint %\w+ <@mesh, \[{(.*)}, {\??}\]>", text)
    assert begun == "?"
    assert offers == ['"a", "b"', '"b", "a"', '"a"', '"b"']


def test_the_partitioner_before_shardy_is_told_nothing():
    jax.config.update("jax_use_shardy_partitioner", False)
    try:
        text = text_of(lambda x, y: split(alike(settled(x), loose(y)), 0, ("data",), 1), X, Y)
    finally:
        jax.config.update("jax_use_shardy_partitioner", True)
    assert "propagation_barrier" not in text
    assert "sharding_group" not in text
    assert "sharding_constraint" not in text


def test_batches_come_from_any_layout_without_a_gather():
    """Not slow, so that the newest JAX is asked too: where ``split`` puts things is up to its partitioner."""
    run_on_eight_devices("layouts")


@pytest.mark.slow
def test_where_they_put_things():
    run_on_eight_devices("places")
