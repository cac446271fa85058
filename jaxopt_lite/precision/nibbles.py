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
    x = x.astype(jnp.int32) & 15
    if x.ndim == 0:
        return Nibbles(None, x.astype(jnp.uint8))
    axis = max(x.ndim - 2, 0)
    half, odd = divmod(x.shape[axis], 2)
    shifted = (x << jnp.where(lax.broadcasted_iota(jnp.int32, x.shape, axis) < half, 0, 4)).astype(jnp.uint8)
    halves = lax.slice_in_dim(shifted, 0, 2 * half, axis=axis)
    halves = halves.reshape(*x.shape[:axis], 2, half, *x.shape[axis + 1 :])
    rest = lax.slice_in_dim(x, 2 * half, None, axis=axis).astype(jnp.uint8) if odd else None
    # No bit meets another: the sum is their union. Of integers it takes longer on TPUs, of two slices on CPUs.
    return Nibbles(lax.reduce_sum(halves, axes=(axis,)), rest)


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
        twice = _twice(pairs, axis)
        if rest is not None:
            twice = lax.concatenate([twice, rest], axis)
        row = lax.broadcasted_iota(jnp.int32, twice.shape, axis)
        x = (twice.astype(jnp.int32) >> jnp.where((row >= half) & (row < 2 * half), 4, 0)) & 15
    return (x ^ 8) - 8 if signed else x


def _twice(x: Array, axis: int) -> Array:
    """``x`` and ``x`` end to end, in the form that the platform's compiler fuses into what reads it."""
    before, n, after = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
    apart = (*before, 2, n, *after)
    repeat = lambda x: jnp.broadcast_to(jnp.expand_dims(x, axis), apart).reshape(*before, 2 * n, *after)
    return lax.platform_dependent(x, cpu=repeat, default=lambda x: lax.concatenate([x, x], axis))
