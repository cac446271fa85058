"""Walk an axis block by block without padding, reading and writing arrays in place, inside shard_map too."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax


def over_blocks(body: Callable, carry: Any, total: int, size: int) -> Any:
    """``carry ← body(start, width, carry)`` over consecutive blocks; the last is narrower, none is padded."""
    full, rest = divmod(total, size)
    if full == 1:
        carry = body(0, size, carry)
    elif full:
        carry = lax.fori_loop(0, full, lambda i, c: body(i * size, size, c), carry)
    return body(full * size, rest, carry) if rest else carry


def alike(*arrays: Any) -> Any:
    """Under shard_map, mark the arrays as varying over every axis that one of them varies over.

    The transpose of that mark is the sum over the axis, so each gradient is reduced once, after the loop.
    """
    axes = frozenset[Any]().union(*(varying(a) for a in jax.tree.leaves(arrays)))
    return jax.tree.map(lambda a: vary(a, axes), arrays)


def varying(a: jax.Array) -> frozenset:
    """The mesh axes over which ``a`` varies inside shard_map."""
    return jax.typeof(a).manual_axis_type.varying


def vary(a: jax.Array, axes: frozenset) -> jax.Array:
    """``a`` marked as varying over ``axes`` (outside shard_map there are none, and nothing happens)."""
    missing = tuple(axes - varying(a))
    return lax.pcast(a, missing, to="varying") if missing else a


def part(a: Any, start: Any, width: int, axis: int = 0) -> Any:
    """``width`` entries of one axis from ``start`` on; ``None`` stays ``None``."""
    return a if a is None or width == a.shape[axis] else lax.dynamic_slice_in_dim(a, start, width, axis)


def put(whole: Any, block: Any, start: Any, axis: int = 0) -> Any:
    """The block written in place, rounded to the dtype of the whole; into ``None``, nothing."""
    if whole is None:
        return None
    block = block.astype(whole.dtype)
    return block if block.shape == whole.shape else lax.dynamic_update_slice_in_dim(whole, block, start, axis)


def add(whole: Any, block: Any, start: Any, axis: int = 0) -> Any:
    """The block added in place; to ``None``, nothing."""
    if whole is None:
        return None
    return put(whole, part(whole, start, block.shape[axis], axis) + block, start, axis)


def multiple(size: float, low: int, high: int) -> int:
    """The multiple of 128 nearest to ``size``, within ``low`` … ``high``."""
    return max(low, min(high, 128 * round(size / 128)))
