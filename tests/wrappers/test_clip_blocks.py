"""Clipping by leaf and by unit: the papers' formulas, at any magnitude and in 16 bits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_lite as jol
from jaxopt_lite.wrappers import adaptive_grad_clip, clip_by_block_rms
from tests.oracles import wrappers as oracles
from tests.wrappers.common import GRADS, PARAMS, close, equal, jitted, wide

RNG = np.random.default_rng(4)
SHAPES = {"s": (), "v": (5,), "row": (1, 6), "io": (4, 3), "heads": (4, 2, 3), "hwio": (2, 3, 4, 5)}
SHAPES |= {"dhwio": (2, 2, 2, 3, 4), "rank6": (2, 1, 2, 1, 2, 3), "empty": (0, 3)}
AXES = {"s": (), "v": 0, "row": (0, 1), "io": 0, "heads": 0, "hwio": (0, 1, 2), "dhwio": (0, 1, 2, 3)}
AXES |= {"rank6": (0, 1, 2, 3, 4), "empty": 0}
KERNELS = {k: jnp.asarray(RNG.normal(size=s), jnp.float32) for k, s in SHAPES.items()}
SLOPES = {
    k: jnp.asarray(RNG.normal(size=s) * RNG.choice([0.1, 3.0], s), jnp.float32) for k, s in SHAPES.items()
}


def update(tx, g, params=None):
    return jitted(tx)(g, tx.init(g), params)[0]


@pytest.mark.parametrize("threshold", [0.5, 10.0])
def test_clip_by_block_rms_equals_its_oracle_and_optax(threshold):
    g = {k: v for k, v in SLOPES.items() if v.size}
    got = update(clip_by_block_rms(threshold), g)
    close(got, [oracles.clip_by_block_rms(x, threshold) for x in wide(g)])
    close(got, wide(optax.clip_by_block_rms(threshold).update(g, optax.EmptyState())[0]))


def test_adaptive_grad_clip_equals_its_oracle():
    got = update(adaptive_grad_clip(0.5, 0.1), SLOPES, KERNELS)
    for name, u in got.items():
        g, p = np.float64(SLOPES[name]), np.float64(KERNELS[name])
        want = oracles.adaptive_grad_clip(g, p, 0.5, 0.1, AXES[name])
        np.testing.assert_allclose(u, want, rtol=2e-6, atol=1e-7, err_msg=name)
    assert (np.asarray(got["io"]) != np.asarray(SLOPES["io"])).any()


def test_adaptive_grad_clip_equals_optax():
    pick = lambda tree: {
        k: v for k, v in tree.items() if k in ("s", "v", "row", "io", "heads", "hwio", "dhwio")
    }
    g, p = pick(SLOPES), pick(KERNELS)
    theirs = optax.adaptive_grad_clip(0.25)
    close(update(adaptive_grad_clip(0.25), g, p), wide(theirs.update(g, theirs.init(p), p)[0]), rtol=1e-5)
    g, p = {"heads": SLOPES["heads"]}, {"heads": KERNELS["heads"]}
    theirs = optax.adaptive_grad_clip(0.25, axis=-2)
    close(
        update(adaptive_grad_clip(0.25, axis=-2), g, p),
        wide(theirs.update(g, theirs.init(p), p)[0]),
        rtol=1e-5,
    )


def test_parameters_of_zero_can_move():
    p = jnp.zeros((2, 3))
    u = update(adaptive_grad_clip(0.5, 0.01), jnp.ones((2, 3)), p)
    np.testing.assert_allclose(np.linalg.norm(u, axis=0), 0.005, rtol=1e-6)


@pytest.mark.parametrize(
    ("size", "dtype"), [(1e20, jnp.float32), (1e37, jnp.float32), (300.0, jnp.float16), (1e20, jnp.bfloat16)]
)
def test_large_entries_are_clipped_and_not_zeroed(size, dtype):
    """optax squares them in their own dtype: the norm is inf and the update 0."""
    g = jnp.full((4, 2), size, dtype)
    u = update(clip_by_block_rms(0.5), g)
    assert u.dtype == dtype
    np.testing.assert_allclose(np.float64(u), 0.5, rtol=1e-2)
    u = update(adaptive_grad_clip(0.5), g, jnp.full((4, 2), 1.0, dtype))
    np.testing.assert_allclose(np.float64(u), 0.5, rtol=1e-2)
    theirs = optax.clip_by_block_rms(0.5).update(g, optax.EmptyState())[0]
    assert not np.isclose(np.float64(theirs), 0.5, rtol=1e-2).any()


@pytest.mark.parametrize("size", [0.0, 1e-30])
def test_small_entries_pass_to_the_bit(size):
    g = jnp.full((4, 2), size)
    equal(update(clip_by_block_rms(0.5), g), g)
    equal(update(adaptive_grad_clip(0.5), g, jnp.ones((4, 2))), g)


def test_what_is_not_finite_passes_and_stays_in_its_block():
    g = {
        "a": jnp.float32([[jnp.nan, 3], [4, 4]]),
        "b": jnp.float32([[jnp.inf, 3], [4, 4]]),
        "c": jnp.full((2, 2), 3.0),
    }
    u = update(clip_by_block_rms(1.0), g)
    one_nan = lambda tree: jax.tree.map(lambda x: np.where(np.isnan(x), np.float32(np.nan), x), tree)
    equal(one_nan((u["a"], u["b"])), one_nan((g["a"], g["b"])))
    np.testing.assert_allclose(u["c"], 1)
    u = update(adaptive_grad_clip(0.5), g, jax.tree.map(jnp.ones_like, g))
    for name in "ab":
        equal(one_nan(u[name][:, 0]), one_nan(g[name][:, 0]))
        np.testing.assert_allclose(np.linalg.norm(u[name][:, 1]), 0.5 * np.sqrt(2), rtol=1e-6)


def test_complex_entries_keep_their_direction():
    g = jnp.complex64([3 + 4j, -3j, 0])
    u = update(clip_by_block_rms(1.0), g)
    np.testing.assert_allclose(u, np.complex128(g) / np.sqrt(34 / 3), rtol=1e-6)
    u = update(adaptive_grad_clip(0.5), g, jnp.complex64([1j, 0, 0]))
    np.testing.assert_allclose(u, np.complex128(g) * 0.5 / np.sqrt(34), rtol=1e-6)


def test_in_a_chain_and_with_a_threshold_of_zero():
    tx = jol.chain(clip_by_block_rms(0.0), jol.sgd(1.0))
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(tx.update(GRADS[0], tx.init(PARAMS))[0]))


def test_errors():
    with pytest.raises(ValueError, match="clip_by_block_rms: threshold is -1, expected a number in"):
        clip_by_block_rms(-1)
    with pytest.raises(ValueError, match="adaptive_grad_clip: clipping is nan, expected a number in"):
        adaptive_grad_clip(float("nan"))
    with pytest.raises(ValueError, match="adaptive_grad_clip: eps is -1, expected a number in"):
        adaptive_grad_clip(0.1, -1)
    with pytest.raises(ValueError, match=r"adaptive_grad_clip.update: params is None"):
        adaptive_grad_clip(0.1).update(GRADS[0], adaptive_grad_clip(0.1).init(PARAMS))
