"""Clipping by value and by the global norm, at magnitudes where a naive norm is 0 or infinite."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_lite as jol
from tests.oracles import optimizers as oracle
from tests.oracles.optimizers_check import same_signature


def update(tx, g):
    return jax.jit(tx.update)(g, tx.init(g))[0]


@pytest.mark.parametrize("size", [0.0, 1e-25, 0.3, 1.0, 7.0, 1e20])
@pytest.mark.parametrize("max_norm", [1.0, 0.0, 1e-10, 1e10])
def test_the_norm_is_at_most_the_bound(size, max_norm):
    g = {"a": size * jnp.array([3.0, -4.0], jnp.float32), "b": size * jnp.array([[12.0]], jnp.float32)}
    got = jax.tree.leaves(update(jol.clip_by_global_norm(max_norm), g))
    expected = oracle.clip_by_global_norm(jax.tree.leaves(g), max_norm)
    for u, e in zip(got, expected, strict=True):
        np.testing.assert_allclose(u, e, rtol=2e-6, atol=1e-38)


def test_ordinary_gradients_are_clipped_as_by_optax():
    rng = np.random.default_rng(0)
    g = [rng.normal(size=s).astype(np.float32) for s in ((3,), (4, 3), ())]
    for bound in (0.5, 100.0):
        ours, theirs = (update(f(bound), g) for f in (jol.clip_by_global_norm, optax.clip_by_global_norm))
        for u, e in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(u, e, rtol=1e-6)
        for u, e in zip(*(update(f(bound), g) for f in (jol.clip, optax.clip)), strict=True):
            np.testing.assert_array_equal(u, e)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_16_bit_leaves_have_a_float32_norm(dtype):
    """300² overflows in float16, and 1,024 ones beside a 32 are lost in bfloat16."""
    g = {"a": jnp.full(4, 300, dtype), "b": jnp.ones(1024, dtype)}
    u = update(jol.clip_by_global_norm(1.0), g)
    norm = np.sqrt(4 * 300**2 + 1024)
    assert u["a"].dtype == dtype
    np.testing.assert_allclose(u["a"].astype(jnp.float32), 300 / norm, rtol=0.01)
    np.testing.assert_allclose(u["b"].astype(jnp.float32), 1 / norm, rtol=0.01)


def test_complex_leaves_count_with_their_magnitude():
    u = update(jol.clip_by_global_norm(1.0), jnp.array([3 + 4j, 0j], jnp.complex64))
    np.testing.assert_allclose(u, [0.6 + 0.8j, 0], rtol=1e-6)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_norm_that_is_not_finite_clips_nothing(bad):
    g = jnp.array([bad, 1.0])
    np.testing.assert_array_equal(update(jol.clip_by_global_norm(0.5), g), g)


def test_the_derivative_is_finite_at_0():
    tx = jol.clip_by_global_norm(1.0)
    slope = jax.grad(lambda g: tx.update(g, tx.init(g))[0].sum())
    assert slope(jnp.zeros(2)).tolist() == [1, 1]
    assert jnp.isfinite(slope(jnp.full(2, 1e20))).all()


def test_before_an_optimizer_the_norm_is_taken_of_the_whole_tree():
    g = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    tx = jol.chain(jol.clip_by_global_norm(1.0), jol.sgd(1.0))
    u = update(tx, g)
    np.testing.assert_allclose([u["a"][0], u["b"][0]], [-0.6, -0.8], rtol=1e-6)


def test_shards_are_clipped_by_their_joint_norm():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("data")
    tx = jol.clip_by_global_norm(1.0, axis_name="data")
    run = jax.shard_map(lambda g: tx.update(g, tx.init(g))[0], mesh=mesh, in_specs=spec, out_specs=spec)
    np.testing.assert_allclose(jax.jit(run)(jnp.array([3.0, 4.0])), [0.6, 0.8], rtol=1e-6)


def test_clip_keeps_nan_and_bounds_infinity():
    got = update(jol.clip(2.0), jnp.array([jnp.nan, jnp.inf, -jnp.inf, 1.5]))
    np.testing.assert_array_equal(got, [np.nan, 2.0, -2.0, 1.5])


@pytest.mark.parametrize("factory", [jol.clip, jol.clip_by_global_norm])
def test_negative_bounds_are_named(factory):
    with pytest.raises(ValueError, match=r"is -1, expected a number in \[0, inf\]"):
        factory(-1)


def test_signatures():
    same_signature(jol.clip, optax.clip)
    same_signature(jol.clip_by_global_norm, optax.clip_by_global_norm)
