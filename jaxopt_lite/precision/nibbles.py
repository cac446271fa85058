"""Two numbers of four bits in a byte (``jnp.int4`` takes a whole byte on CPU)."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from jaxopt_lite.types import Array


class Nibbles(NamedTuple):
    """Row i of the first half of the rows with row i of the second, in rank 1 entries; in rank 0 one alone."""

    pairs: Array | None  # uint8, half as long along the axis before the last (rank 1: the last)
    rest: Array | None  # uint8, the last entry along that axis where their number is odd


def pack(x: Array) -> Nibbles:
    """Integers −8 … 15 as nibbles, negative ones as two's complement."""
    x = x.astype(jnp.int32).astype(jnp.uint8) & 15
    if x.ndim == 0:
        return Nibbles(None, x)
    axis = max(x.ndim - 2, 0)
    half, odd = divmod(x.shape[axis], 2)
    first, second, rest = (
        lax.slice_in_dim(x, start, start + length, axis=axis)
        for start, length in ((0, half), (half, half), (2 * half, odd))
    )
    return Nibbles(first | (second << 4), rest if odd else None)


def unpack(packed: Nibbles, *, signed: bool) -> Array:
    """The integers as int32, −8 … 7 if ``signed``, else 0 … 15."""
    pairs, rest = packed
    if pairs is None:
        x = jnp.asarray(rest, jnp.int32)
    else:
        # Bytes laid end to end first, then shifted: that way round the compiler fuses it all into what reads x.
        # Each array has a half of its own, or it would fuse the work on many arrays by the shifts that they share.
        axis = max(pairs.ndim - 2, 0)
        half, _ = lax.optimization_barrier((jnp.int32(pairs.shape[axis]), pairs))
        twice = lax.concatenate([pairs, pairs] + ([] if rest is None else [rest]), axis)
        row = lax.broadcasted_iota(jnp.int32, twice.shape, axis)
        x = (twice.astype(jnp.int32) >> jnp.where((row >= half) & (row < 2 * half), 4, 0)) & 15
    return (x ^ 8) - 8 if signed else x
