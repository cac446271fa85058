"""Tiles: every entry belongs to one, whatever the shape, and none holds far fewer entries than a block."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_lite.precision.blocks import block_max, check_block, spread, tile_of

SHAPES = [(), (0,), (5,), (3000,), (3, 5), (16, 384), (17, 300), (2, 9, 130), (6, 5, 3, 3), (0, 4)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_largest_of_every_tile_at_each_of_its_entries(shape):
    x = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
    tile = tile_of(shape, (8, 128))
    got = jax.jit(lambda x: spread(block_max(x, tile), shape, tile))(x)
    assert got.shape == shape
    tops: dict = {}
    index = lambda i: tuple(k // b for k, b in zip(i, tile, strict=True))
    for i in np.ndindex(*shape):
        tops[index(i)] = max(tops.get(index(i), 0), x[i])
    for i in np.ndindex(*shape):
        assert got[i] == tops[index(i)]


@pytest.mark.parametrize(
    "shape", [(4096,), (70, 70), (512, 9), (5000, 1), (64, 16, 3, 3), (1, 4096), (50257, 768)]
)
def test_scales_take_little_room(shape):
    tile = tile_of(shape, (8, 128))
    tiles = math.prod(-(-n // b) for n, b in zip(shape, tile, strict=True))
    assert 4 * tiles / math.prod(shape) < 0.035


@pytest.mark.parametrize("block", [(8,), (0, 128), (8.0, 128)])
def test_a_wrong_block_is_a_value_error(block):
    with pytest.raises(ValueError, match=r"int8_codec: block is .*, expected two positive ints"):
        check_block("int8_codec", block)


@pytest.mark.parametrize("nan", [np.nan, -np.nan])
@pytest.mark.parametrize("of", [lambda x: x, lambda x: x * x, jnp.exp, lambda x: jnp.maximum(x, 0)])
def test_nan_is_larger_than_inf(nan, of):
    """Whatever its sign, also where XLA knows of x ≥ 0 and leaves out what would make it so."""
    x = jnp.array([[1.0, nan, np.inf], [-3.0, 2.0, -0.0]], jnp.float32)
    expected = [[np.nan], [np.abs(of(x[1])).max()]]
    np.testing.assert_allclose(jax.jit(lambda x: block_max(of(x), (1, 3)))(x), expected, rtol=1e-6)
