"""Tiles of an array that share one number, without a copy of the array.

Blocks are tiles of the array's own last two axes, as TPUs lay arrays out, not runs of the flattened array: the
compiler then fuses reading, the optimizer's arithmetic and writing into one pass.
"""

import math

import jax.numpy as jnp
from jax import lax

from jaxopt_lite.types import Array


def tile_of(shape: tuple[int, ...], block: tuple[int, int]) -> tuple[int, ...]:
    """The block's length along each axis of an array of that shape.

    ``block`` where the last two axes are that long. Where they are shorter it reaches further to the left, so
    that it never holds far fewer entries; an array of rank 1 has runs of as many entries as a block. At the ends
    a tile may stick out.

    >>> tile_of((64, 512), (8, 128)), tile_of((5000, 20), (8, 128)), tile_of((512, 512, 3, 3), (8, 128))
    ((8, 128), (48, 20), (1, 113, 3, 3))
    >>> tile_of((5000,), (8, 128)), tile_of((300,), (8, 128)), tile_of((), (8, 128))
    ((1024,), (300,), ())
    """
    rows, columns = block
    size, tile = 1, []
    for axis, length in enumerate(reversed(shape)):
        room = rows * columns // size
        if axis == 0 and len(shape) > 1:
            room = columns
        elif axis == 1 and room > rows:
            room -= room % rows
        tile.append(max(1, min(length, room)))
        size *= tile[-1]
    return tuple(reversed(tile))


def block_max(x: Array, tile: tuple[int, ...]) -> Array:
    """The largest |x| of each tile; NaN where it has a NaN.

    Compared as integers: the bits of floats without their sign are ordered as the floats are, with NaN above inf (XLA's
    maximum of floats may pass over it, and its ``abs`` leave the sign of a NaN).
    """
    integer = {4: jnp.int32, 8: jnp.int64}[x.dtype.itemsize]
    bits = lax.bitcast_convert_type(x, integer) & jnp.iinfo(integer).max
    counts = [-(-n // b) for n, b in zip(x.shape, tile, strict=True)]
    missing = [(0, c * b - n) for c, n, b in zip(counts, x.shape, tile, strict=True)]
    if any(high for _, high in missing):
        bits = jnp.pad(bits, missing)
    split = [size for pair in zip(counts, tile, strict=True) for size in pair]
    once = lambda bits: jnp.max(bits, axis=tuple(range(1, len(split), 2)), initial=0)
    # On a CPU XLA fuses what makes x into a maximum over the tile's first axis, and stores x for one over all axes.
    largest = lax.platform_dependent(bits.reshape(split), cpu=_max_by_axis, default=once)
    return lax.bitcast_convert_type(largest, x.dtype)


def _max_by_axis(bits: Array) -> Array:
    for axis in range(1, bits.ndim // 2 + 1):
        bits = jnp.max(bits, axis=axis, initial=0)
    return bits


def spread(scale: Array, shape: tuple[int, ...], tile: tuple[int, ...]) -> Array:
    """Each tile's number at all of its entries: ``[*shape]`` from one number per tile."""
    counts = scale.shape
    split = [size for pair in zip(counts, tile, strict=True) for size in pair]
    apart = scale.reshape([size for count in counts for size in (count, 1)])
    whole = jnp.broadcast_to(apart, split).reshape([c * b for c, b in zip(counts, tile, strict=True)])
    if whole.shape == shape:
        return whole
    return whole[tuple(slice(n) for n in shape)]


def check_block(name: str, block: tuple[int, int]) -> tuple[int, int]:
    """``block`` as two positive ints, or a ``ValueError``."""
    good = len(block) == 2 and all(isinstance(b, int) and b > 0 for b in block)
    if not good or math.prod(block) == 0:
        raise ValueError(
            f"{name}: block is {block!r}, expected two positive ints, rows and columns of a tile"
        )
    return block[0], block[1]
