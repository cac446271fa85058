"""No example moves the sum by more than the norm, whatever it holds."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_lite as jol
from jaxopt_lite.testing import check_transformation, transformation_laws
from jaxopt_lite.wrappers import per_example_clip
from tests.oracles import wrappers as oracles
from tests.wrappers.common import PARAMS, close, equal, wide

RNG = np.random.default_rng(9)
EXAMPLES = jax.tree.map(lambda p: jnp.asarray(RNG.normal(size=(5, *p.shape)), jnp.float32), PARAMS)


def clipped(g, max_norm=1.5, params=None):
    tx = per_example_clip(max_norm)
    return jax.jit(tx.update)(g, tx.init(PARAMS), params)[0]


@pytest.mark.parametrize("max_norm", [0.0, 1.5, 3.0, float("inf")])
def test_equals_its_oracle_and_optax(max_norm):
    got = clipped(EXAMPLES, max_norm, PARAMS)
    close(got, oracles.per_example_clip(wide(EXAMPLES), max_norm))
    theirs, _ = optax.per_example_global_norm_clip(jax.tree.leaves(EXAMPLES), max_norm)
    close(got, wide(theirs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_an_example_that_is_not_finite_contributes_zero(bad):
    """In optax it makes the whole sum NaN."""
    g = {**EXAMPLES, "bias": EXAMPLES["bias"].at[2, 1].set(bad)}
    got = clipped(g)
    others = jax.tree.map(lambda x: x[jnp.array([0, 1, 3, 4])], EXAMPLES)
    close(got, oracles.per_example_clip(wide(others), 1.5))
    theirs, _ = optax.per_example_global_norm_clip(jax.tree.leaves(g), 1.5)
    assert np.isnan(theirs[0]).any()


@pytest.mark.parametrize(("size", "dtype"), [(1e20, jnp.float32), (300.0, jnp.float16), (1e20, jnp.bfloat16)])
def test_a_large_example_keeps_its_direction_at_the_norm(size, dtype):
    """optax's norm overflows: it multiplies the example by 0."""
    g = jnp.asarray([[size, size], [0.5, -0.5]], dtype)
    u = clipped(g, 1.0)
    assert u.dtype == dtype
    np.testing.assert_allclose(np.float64(u), np.sqrt(0.5) + np.array([0.5, -0.5]), rtol=2e-2)
    theirs, _ = optax.per_example_global_norm_clip([g], 1.0)
    assert not np.allclose(np.float64(theirs[0]), np.float64(u), rtol=2e-2)


def test_one_example_changes_the_sum_by_the_norm_at_most():
    """The property that the noise of DP-SGD is measured against."""
    for value in (0.0, 1e-30, 1.0, 1e20, 1e38, jnp.inf, jnp.nan):
        other = jax.tree.map(lambda x, v=value: x.at[3].set(v), EXAMPLES)
        change = [a - b for a, b in zip(wide(clipped(other)), wide(clipped(EXAMPLES)), strict=True)]
        assert oracles.norm(change) <= 2 * 1.5 * (1 + 1e-6)


def test_sums_16_bit_examples_in_float32():
    """Each is ½ ulp of the sum of 256; and factors rounded to 8 bits would not cancel."""
    g = jnp.concatenate([jnp.full((1, 1), 256.0), jnp.ones((64, 1))]).astype(jnp.bfloat16)
    assert clipped(g, 1e3).item() == 320
    assert abs(clipped(jnp.bfloat16([[300.0], [-212.0]]), 1.0).item()) < 1e-6


def test_first_in_a_chain_with_noise_and_an_optimizer():
    chain = jol.chain(per_example_clip(1.5), optax.scale(1 / 5), jol.sgd(0.5, momentum=0.9))
    want = [-0.1 * s for s in oracles.per_example_clip(wide(EXAMPLES), 1.5)]
    for tx in (chain, jol.chain(chain), optax.chain(per_example_clip(1.5), optax.sgd(0.1))):
        updates, _ = tx.update(EXAMPLES, tx.init(PARAMS), PARAMS)
        close(updates, want)
    noisy = optax.contrib.differentially_private_aggregate(1.5, 0.0, key=0)
    theirs, _ = noisy.update(EXAMPLES, noisy.init(PARAMS))
    close(updates, [-0.5 * g for g in wide(theirs)], rtol=1e-5, atol=1e-6)


def test_empty_batches_empty_trees_scalars_and_none():
    np.testing.assert_array_equal(clipped({"a": jnp.ones((0, 3))})["a"], np.zeros(3))
    assert clipped({}) == {}
    got = clipped({"scalar": jnp.float32([3.0, 0.5]), "none": None, "empty": jnp.ones((2, 0))}, 1.0)
    assert (got["scalar"].shape, got["none"], got["empty"].shape) == ((), None, (0,))
    np.testing.assert_allclose(got["scalar"], 1.5, rtol=1e-6)


def one_example(max_norm):
    """On gradients without the axis: the laws' gradients are those of one example."""
    tx = per_example_clip(max_norm)
    alone = lambda g, s, p=None: tx.update(jax.tree.map(lambda x: x[None], g), s, p)
    return optax.GradientTransformation(tx.init, alone)


def test_keeps_the_laws_on_one_example():
    slow = {"scan_equals_loop", "bfloat16_tracks_float32", "float16_tracks_float32", "descends", "odd_sizes"}
    laws = [name for name in transformation_laws if name not in slow]
    check_transformation(one_example(1.0), claims={"part", "odd", "gradient_dtype"}, laws=laws)


@pytest.mark.parametrize(
    ("grads", "params", "message"),
    [
        (PARAMS, PARAMS, "expected a leading axis of examples of one length"),
        ({"a": jnp.ones(()), "b": jnp.ones(3)}, None, "expected a leading axis of examples of one length"),
        (
            jax.tree.map(lambda p: jnp.ones((2, 2, *p.shape)), PARAMS),
            PARAMS,
            r"an example of updates\['bias'\] has",
        ),
    ],
)
def test_gradients_without_the_axis_are_refused(grads, params, message):
    for tx in (per_example_clip(1.0), jol.chain(per_example_clip(1.0), jol.sgd(0.1))):
        with pytest.raises(ValueError, match=message):
            tx.update(grads, tx.init(PARAMS), params)


def test_other_transformations_still_refuse_an_axis_too_many():
    with pytest.raises(
        ValueError, match=r"chain.update: updates\['bias'\] has shape \(5, 3\), expected \(3,\)"
    ):
        jol.chain(jol.clip(1.0), jol.sgd(0.1)).update(EXAMPLES, (), PARAMS)
    with pytest.raises(ValueError, match="per_example_clip: max_norm is -1, expected a number in"):
        per_example_clip(-1)
    equal(clipped(EXAMPLES), clipped(EXAMPLES))
