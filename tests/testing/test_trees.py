"""The trees that laws feed to transformations."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_lite.testing import trees

PARAMS = trees.default_params()


def equal(a, b):
    return all(map(np.array_equal, *map(jax.tree.leaves, (a, b))))


def test_gradients_are_the_same_every_time_of_moderate_size_and_in_the_leaves_dtypes():
    one, two = (trees.gradients_like(PARAMS, seed=3) for _ in range(2))
    assert equal(one, two)
    assert not equal(one, trees.gradients_like(PARAMS, seed=4))
    size = np.abs(np.concatenate([np.ravel(x) for x in jax.tree.leaves(one)]))
    assert size.min() >= 0.25
    assert size.max() <= 2.0
    for dtype in (jnp.bfloat16, jnp.complex64):
        assert trees.gradients_like(trees.cast(PARAMS, dtype), 0)["bias"].dtype == dtype


def test_scaling_goes_through_float64():
    back = trees.scaled(trees.scaled(PARAMS, 1e30), 1e-30)
    assert all(
        np.allclose(a, b, rtol=1e-6) for a, b in zip(*map(jax.tree.leaves, (back, PARAMS)), strict=True)
    )
    assert np.isinf(trees.scaled(PARAMS, 1e40)["bias"]).all()


def test_put_changes_one_entry():
    changed = trees.put(PARAMS, np.nan)
    assert sum(int(np.isnan(x).sum()) for x in jax.tree.leaves(changed)) == 1
    assert float(trees.put({"s": jnp.float32(2)}, 1.0)["s"]) == 1.0


def test_containers_keep_leaves_and_their_order():
    other = trees.in_containers(PARAMS)
    assert jax.tree.structure(other) != jax.tree.structure(PARAMS)
    assert equal(other, PARAMS)


def test_stacks_come_apart_again_and_permutations_repeat():
    many = [PARAMS, trees.scaled(PARAMS, 2.0)]
    assert all(map(equal, trees.unstacked(trees.stacked(many), 2), many))
    assert equal(trees.permuted(PARAMS), trees.permuted(PARAMS))
    assert not equal(trees.permuted(PARAMS), PARAMS)


def test_adding_is_optax_apply_updates():
    import optax

    params, updates = trees.cast(PARAMS, jnp.bfloat16), trees.gradients_like(PARAMS, 1)
    assert equal(trees.added(params, updates), optax.apply_updates(params, updates))
