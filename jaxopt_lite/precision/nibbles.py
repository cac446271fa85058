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
    """Integers −8 … 15 as nibbles, negative ones as two's complement.

    The halves stand along an axis of their own, whose sum XLA fuses with what computes x.
    """
    x = x.astype(jnp.int32) & 15
    if x.ndim == 0:
        return Nibbles(None, x.astype(jnp.uint8))
    axis = max(x.ndim - 2, 0)
    half, odd = divmod(x.shape[axis], 2)
    even = lax.slice_in_dim(x, 0, 2 * half, axis=axis) if odd else x
    halves = even.reshape((*x.shape[:axis], 2, half, *x.shape[axis + 1 :]))
    pairs = jnp.sum(halves << _shifts(halves.shape, axis), axis).astype(jnp.uint8)
    rest = lax.slice_in_dim(x, 2 * half, 2 * half + 1, axis=axis).astype(jnp.uint8) if odd else None
    return Nibbles(pairs, rest)


def unpack(packed: Nibbles, *, signed: bool) -> Array:
    """The integers as int32, −8 … 7 if ``signed``, else 0 … 15."""
    pairs, rest = packed
    if pairs is None:
        assert rest is not None
        x = rest.astype(jnp.int32)
    else:
        axis = max(pairs.ndim - 2, 0)
        lead, half, tail = pairs.shape[:axis], pairs.shape[axis], pairs.shape[axis + 1 :]
        both = jnp.broadcast_to(jnp.expand_dims(pairs.astype(jnp.int32), axis), (*lead, 2, half, *tail))
        x = ((both >> _shifts(both.shape, axis)) & 15).reshape((*lead, 2 * half, *tail))
        x = x if rest is None else jnp.concatenate([x, rest.astype(jnp.int32)], axis)
    return (x ^ 8) - 8 if signed else x


def _shifts(shape: tuple[int, ...], axis: int) -> Array:
    """0 in the first half and 4 in the second."""
    return 4 * lax.broadcasted_iota(jnp.int32, shape, axis)
