"""Arithmetic over pytrees that is right in 16 bits and at extreme magnitudes."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxopt_lite.axes import chosen_by_compiler


def is_none(x: Any) -> bool:
    """``None`` stands for "no gradient here": it is kept as a leaf, and its parameter stays as it is."""
    return x is None


def is_function(x: Any) -> bool:
    """Whether a mask or labels is a function of the parameters, and no tree that happens to be callable."""
    return callable(x) and (isinstance(x, functools.partial) or jax.tree_util.all_leaves([x]))


def cast(tree: Any, dtype: Any) -> Any:
    """Every floating leaf in ``dtype``; integer leaves stay."""
    convert = lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.inexact) else x
    return jax.tree.map(convert, tree)


def moment_dtype(leaf: Any) -> jnp.dtype:
    """The dtype in which an accumulator for ``leaf`` is kept: float32 for 16 bits, else the leaf's own."""
    return jnp.promote_types(leaf.dtype, jnp.float32)


def zeros(tree: Any, dtype: Any = None) -> Any:
    """Accumulators of 0, one per leaf, sharded like it; ``dtype`` defaults to ``moment_dtype``."""
    return jax.tree.map(lambda x: jnp.zeros_like(x, dtype=dtype or moment_dtype(x)), tree)


def broadcast_prefix(prefix: Any, tree: Any) -> list:
    """One value of ``prefix`` for each leaf of ``tree`` (``None`` counts as a leaf), in order."""
    values: list = []
    spread = lambda value, part: values.extend([value] * len(jax.tree.leaves(part, is_leaf=is_none)))
    jax.tree.map(spread, prefix, tree, is_leaf=is_none)
    return values


def vdot(a: Any, b: Any) -> jax.Array:
    """Σ conj(aᵢ)·bᵢ over all leaves, accumulated in float32 or better.

    >>> vdot({"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([3.0, 4.0])}).item()
    11.0
    """
    one = lambda x, y: jnp.sum(_wide(x).conj() * _wide(y))
    return sum(jax.tree.leaves(jax.tree.map(one, a, b)), start=jnp.float32(0))


def norm(tree: Any, *, minus: Any = None, axis_name: Any = None) -> jax.Array:
    """√(Σ |xᵢ|²) over all leaves, in float32 or better, for entries of any magnitude.

    One pass when the sum of squares is a comfortable number; only otherwise (``lax.switch``) a second one in
    which the entries are first scaled by a power of two. The gradient at 0 is 0. ``axis_name`` sums over a
    mesh axis as well: each device holds other entries. ``minus`` is a tree like ``tree``, for the norm of their
    difference, which is then never stored.

    >>> f"{norm([jnp.full(4, 1e20), jnp.zeros(2)]):.6g}"
    '2e+20'
    """
    leaves = jax.tree.leaves(tree)
    if not leaves:
        return jnp.float32(0)
    dtype = jnp.result_type(jnp.float32, *leaves)
    others = [None] * len(leaves) if minus is None else jax.tree.leaves(minus)
    total = _total([_sum_of_squares(*pair, dtype) for pair in zip(leaves, others, strict=True)], axis_name)
    info = jnp.finfo(dtype)
    # Comfortable: no square has overflown, and those that underflow cannot matter. A sum of exactly 0 may hide some.
    small, large = total < info.tiny * 2.0**56, total > info.max * 2.0**-8
    scale = jnp.where(small, 2.0 ** (info.maxexp * 5 // 8), 2.0 ** (-info.maxexp * 5 // 8)).astype(
        total.dtype
    )

    def scaled(pairs):
        sums = [_scaled_sum_of_squares(*pair, scale, dtype) for pair in zip(*pairs, strict=True)]
        return safe_sqrt(_total(sums, axis_name)) / scale

    return jax.lax.cond(small | large, scaled, lambda _: safe_sqrt(total), (leaves, others))


def safe_sqrt(x: jax.Array) -> jax.Array:
    """√x for x ≥ 0 with derivative 0, not inf, at 0; NaN stays NaN."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), jax.lax.stop_gradient(x))


def abs2(x: jax.Array) -> jax.Array:
    """|x|², real also for complex x."""
    return x.real * x.real + x.imag * x.imag if jnp.iscomplexobj(x) else x * x


def abs_bound(x: jax.Array) -> jax.Array:
    """The largest of the real and imaginary magnitudes: |x| up to √2, without squaring."""
    return jnp.maximum(jnp.abs(x.real), jnp.abs(x.imag)) if jnp.iscomplexobj(x) else jnp.abs(x)


def _wide(x: Any) -> jax.Array:
    x = jnp.asarray(x)
    return x.astype(moment_dtype(x))


# Both under jit, so that a tree of a thousand equal leaves is traced once.
@functools.partial(jax.jit, static_argnums=2)
def _sum_of_squares(x: jax.Array, y: jax.Array | None, dtype: jnp.dtype) -> jax.Array:
    return jnp.sum(abs2(_difference(x, y, dtype)))


@functools.partial(jax.jit, static_argnums=3)
def _scaled_sum_of_squares(
    x: jax.Array, y: jax.Array | None, scale: jax.Array, dtype: jnp.dtype
) -> jax.Array:
    def total(x, y, scale):
        # Made to depend on the leaf, or XLA broadcasts one scale for all leaves to a full-size temporary.
        own = jnp.where(jnp.isnan(jax.lax.stop_gradient(jnp.sum(x[(slice(1),) * x.ndim]))), 1, scale)
        return jnp.sum(abs2(_difference(x, y, dtype) * own))

    return chosen_by_compiler(total, PartitionSpec(), jnp.asarray(x), y, scale)


def _difference(x: jax.Array, y: jax.Array | None, dtype: jnp.dtype) -> jax.Array:
    x = jnp.asarray(x).astype(dtype)
    return x if y is None else x - jnp.asarray(y).astype(dtype)


def _total(sums: list, axis_name: Any) -> jax.Array:
    total = jnp.sum(jnp.stack(sums))
    return total if axis_name is None else jax.lax.psum(total, axis_name)


def known_late(arrays: Any) -> jax.Array:
    """True, worked out from the last entry of every array, so that no compiler knows it before they are there.

    On CPUs XLA does independent work at the same time, in memory of its own; what depends on this waits.
    """
    return chosen_by_compiler(_known_late, PartitionSpec(), arrays)


@jax.jit
def _known_late(arrays: Any) -> jax.Array:
    ready = jnp.array(True)
    for x in jax.tree.leaves(arrays):
        last = jnp.real(x[(slice(-1, None),) * x.ndim]).reshape(-1)
        bits = last.view(jnp.uint8).astype(jnp.uint32)
        ready &= jnp.all(bits * bits & 2 == 0)  # no square has the second of its bits set
    return ready
