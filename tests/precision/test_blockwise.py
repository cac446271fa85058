"""Codecs of 4 and 8 bits against their formulas in NumPy float64, and their stated bounds at every magnitude."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxopt_lite import precision
from jaxopt_lite.testing import check_codec

SIGNED = {"int8": (precision.int8_codec(), (127, 0)), "int4": (precision.int4_codec(), (7, 5))}  # top, a
ROOTS = {"uint8": (precision.uint8_sqrt_codec(), 255), "uint4": (precision.uint4_sqrt_codec(), 15)}
BOTH = {name: codec for name, (codec, _) in (SIGNED | ROOTS).items()}
BOTH |= {"fp8": precision.fp8_codec(), "fp8_sqrt": precision.fp8_sqrt_codec()}
TOLERANCE = {"int4": 0.12, "uint4": 0.12, "fp8_sqrt": 0.08}  # of v, whose root is within 1/16
through = jax.jit(lambda codec, x: codec.decode(codec.encode(x)), static_argnums=0)


@pytest.mark.parametrize("name", BOTH)
def test_laws(name):
    check_codec(BOTH[name], non_negative=name in ROOTS or "sqrt" in name, tolerance=TOLERANCE.get(name, 0.04))


def oracle_signed(x, grid):
    """One tile, in float64; the code is the positive root of q² + a·q = t·top·(top + a)."""
    (top, a), s = grid, np.abs(x).max()
    q = np.round((np.sqrt(a**2 + 4 * np.abs(x) / s * top * (top + a)) - a) / 2)
    return np.sign(x) * s * q * (q + a) / (top * (top + a))


def oracle_root(v, top):
    r = np.sqrt(v)
    s = r.max()
    q = np.maximum(np.round(top * np.sqrt(r / s)), v > 0)
    return (s * (q / top) ** 2) ** 2


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e30])
@pytest.mark.parametrize("name", [*SIGNED, *ROOTS])
def test_formula(name, size):
    x = (np.random.default_rng(1).normal(size=(8, 128)) * size).astype(np.float32)
    codec, top = (SIGNED | ROOTS)[name]
    x = np.abs(x) if name in ROOTS else x
    wide = x.astype(np.float64)
    expected = oracle_root(wide, top) if name in ROOTS else oracle_signed(wide, top)
    wrong = np.abs(through(codec, x) - expected) > 1e-5 * np.abs(expected)
    assert wrong.mean() < 0.002  # a code that lies half way between two


@given(
    exponent=st.floats(-29, 30),
    spread=st.floats(0, 8),
    dtype=st.sampled_from(["float32", "bfloat16", "float16", "float64"]),
    seed=st.integers(0, 99),
)
def test_errors_stay_within_the_stated_bounds(exponent, spread, dtype, seed):
    rng = np.random.default_rng(seed)
    if dtype == "float16":
        exponent, spread = exponent / 15, spread / 4
    with jax.enable_x64(True):
        x = rng.normal(size=(3, 40)) * 10.0 ** (exponent - spread * rng.uniform(size=(3, 40)))
        x = jnp.asarray(x, dtype)
        wide = np.asarray(x, np.float64)
        top = np.abs(wide).max()
        for codec, (levels, a) in SIGNED.values():
            got = codec.decode(codec.encode(x))
            assert got.dtype == jnp.promote_types(dtype, jnp.float32)
            # (q + ½)(q + ½ + a) − q(q + a), half a level beyond the root q of q(q + a) = t·n.
            n = levels * (levels + a)
            q = (np.sqrt(a**2 + 4 * np.abs(wide) / top * n) - a) / 2
            assert (np.abs(got - wide) <= top * (q + a / 2 + 0.25) / n * 1.001 + 1e-37).all()
        for codec, levels in ROOTS.values():
            root, got = (
                np.sqrt(np.abs(wide)),
                np.sqrt(np.asarray(codec.decode(codec.encode(jnp.abs(x))), np.float64)),
            )
            bound = np.sqrt(top) * (np.sqrt(root / np.sqrt(top)) / levels + 1.01 / levels**2)
            assert (np.abs(got - root) <= bound * 1.001 + 2e-19).all()
            assert (got > 0).sum() == (np.abs(wide) > 1.2e-38).sum()


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("largest", [1.2e-37, 2e-36, 9e37, 1e38, 3.4e38])
def test_a_tile_of_its_own_at_the_ends_of_float32(name, largest):
    """XLA divides by one scale for all entries as by 0 or inf: it multiplies by the inverse, which may be subnormal."""
    largest = max(largest, 6e-36) if name == "fp8" else largest
    x = jnp.full((8, 128), largest, jnp.float32).at[0, 0].set(largest / 2)
    got = through(BOTH[name], x)
    np.testing.assert_allclose(got[1:], x[1:], rtol=1e-6)
    np.testing.assert_allclose(got[0, 0], largest / 2, rtol=0.3)
    again = through(BOTH[name], -x) if name in ("int8", "int4", "fp8") else -got
    np.testing.assert_array_equal(again, -got)


@pytest.mark.parametrize("name", BOTH)
def test_the_largest_comes_back_exactly_also_when_rounded_at_random(name):
    codec, one = BOTH[name], jax.random.uniform(jax.random.key(1), (300, 1, 1), minval=1.0, maxval=2.0)
    encode = jax.jit(lambda x, key: codec.decode(codec.encode(x, key)))  # a tile of its own each
    for x, key in zip(one, jax.random.split(jax.random.key(2), 300), strict=True):
        x = jnp.broadcast_to(x, (8, 128))
        np.testing.assert_allclose(encode(x, key), x, rtol=1e-6)


@pytest.mark.parametrize("name", BOTH)
def test_one_nan_or_inf_makes_its_tile_nan_and_no_other(name):
    for bad in (np.nan, np.inf):
        x = jnp.ones((16, 256)).at[3, 5].set(bad)
        got = np.isnan(np.asarray(through(BOTH[name], x)))
        assert got[:8, :128].all()
        assert got.sum() == 8 * 128


@pytest.mark.parametrize("name", BOTH)
def test_a_tile_of_zeros_beside_others_and_the_largest_itself_are_exact(name):
    x = jnp.zeros((16, 128)).at[9, 7].set(4.0)
    got = through(BOTH[name], x)
    np.testing.assert_allclose(got, x, rtol=1e-6)
    assert (np.asarray(got) == 0).sum() == 16 * 128 - 1


@pytest.mark.parametrize("name", ["int8", "int4", "uint8", "uint4"])
def test_an_average_rounded_stochastically_moves_as_it_should_in_the_mean(name):
    codec, target, decay = BOTH[name], 0.5, 0.99

    @jax.jit
    def average(x, key):
        new = decay * codec.decode(x) + (1 - decay) * target
        return codec.encode(new.at[:, 0].set(1.0), key)  # one entry holds the scale

    stored = codec.encode(jnp.full((256, 128), 0.2).at[:, 0].set(1.0))
    for key in jax.random.split(jax.random.key(0), 100):
        stored = average(stored, key)
    start = np.asarray(codec.decode(codec.encode(jnp.full((8, 128), 0.2).at[:, 0].set(1.0))))[0, 1]
    expected = target + (start - target) * decay**100
    got = np.asarray(codec.decode(stored))[:, 1:]
    assert abs(got.mean() - expected) < 5 * got.std() / np.sqrt(got.size) + 1e-3
