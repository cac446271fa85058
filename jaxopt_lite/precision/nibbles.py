"""Two numbers of four bits in a byte (``jnp.int4`` takes a whole byte on CPU)."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from jaxopt_lite.types import Array


class Nibbles(NamedTuple):
    """Entries of neighbouring rows in one byte; in rank 1 of neighbours, in rank 0 alone."""

    pairs: Array | None  # uint8, half as long along the axis before the last (rank 1: the last)
    rest: Array | None  # uint8, the last entry along that axis where their number is odd


def pack(x: Array) -> Nibbles:
    """Integers −8 … 15 as nibbles, negative ones as two's complement."""
    x = x.astype(jnp.int32).astype(jnp.uint8) & 15
    if x.ndim == 0:
        return Nibbles(None, x)
    axis = max(x.ndim - 2, 0)
    count = x.shape[axis]
    split = (*x.shape[:axis], count // 2, 2, *x.shape[axis + 1 :])
    even = lax.slice_in_dim(x, 0, count // 2 * 2, axis=axis).reshape(split)
    first, second = (lax.index_in_dim(even, i, axis + 1, keepdims=False) for i in range(2))
    rest = lax.slice_in_dim(x, count - 1, count, axis=axis) if count % 2 else None
    return Nibbles(first | (second << 4), rest)


def unpack(packed: Nibbles, *, signed: bool) -> Array:
    """The integers as int32, −8 … 7 if ``signed``, else 0 … 15."""
    pairs, rest = packed
    if pairs is None:
        assert rest is not None
        x = rest
    else:
        axis = max(pairs.ndim - 2, 0)
        both = jnp.stack([pairs & 15, pairs >> 4], axis + 1)
        x = both.reshape((*pairs.shape[:axis], 2 * pairs.shape[axis], *pairs.shape[axis + 1 :]))
        x = x if rest is None else jnp.concatenate([x, rest], axis)
    x = x.astype(jnp.int32)
    return (x ^ 8) - 8 if signed else x
