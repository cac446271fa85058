"""Arithmetic over pytrees that is right in 16 bits and at extreme magnitudes."""

import functools
from collections.abc import Callable, Iterable
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

    One pass when the sum of squares is a comfortable number; only otherwise a second one in which the entries are
    first scaled by a power of two. (A GPU, which would wait for the host to choose, takes all sums in one pass.)
    The gradient at 0 is 0. ``axis_name`` sums over a mesh axis as well: each device holds other entries. ``minus``
    is a tree like ``tree``, for the norm of their difference, which is then never stored.

    >>> f"{norm([jnp.full(4, 1e20), jnp.zeros(2)]):.6g}"
    '2e+20'
    """
    leaves = jax.tree.leaves(tree)
    if not leaves:
        return jnp.float32(0)
    others = [None] * len(leaves) if minus is None else jax.tree.leaves(minus)
    dtype = jnp.result_type(jnp.float32, *leaves)
    rows, alone = list(zip(leaves, others, strict=True)), len(leaves) == 1
    sums = [_sums_of_squares(*row, dtype, alone) for row in rows]
    total, sum_up, sum_down = _totals(zip(*sums, strict=True), axis_name)
    # Comfortable: no square has overflown, and those that underflow cannot matter. A sum of exactly 0 may hide some.
    info, (up, down) = jnp.finfo(dtype), _scales(dtype)
    small, large = total < info.tiny * 2.0**56, total > info.max * 2.0**-8

    def second_pass():
        scale = jnp.where(small, up, down).astype(total.dtype)

        def again():
            column = [_scaled_sum(*row, scale, dtype) for row in rows]
            return safe_sqrt(_totals([column], axis_name)[0]) / scale

        return jax.lax.cond(small | large, again, lambda: safe_sqrt(total))

    def at_once():
        scaled = jnp.where(small, safe_sqrt(sum_up) / up, safe_sqrt(sum_down) / down)
        return jnp.where(small | large, scaled, safe_sqrt(total))

    return _where_choices_cost(alone, at_once, second_pass)


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


# These under jit, so that a tree of a thousand equal leaves is traced once.
@functools.partial(jax.jit, static_argnums=(2, 3))
def _sums_of_squares(x: jax.Array, y: jax.Array | None, dtype: jnp.dtype, alone: bool) -> list:
    """[1] each: Σ |x − y|², and where all are taken at once those of entries scaled up and down."""
    difference = _difference(x, y, dtype)
    plain = jnp.sum(abs2(difference))
    row = lambda *sums: [x[None] for x in sums]

    def at_once():
        up, down = (scaled_magnitude(difference, s) for s in _scales(dtype))
        # Bounded where the sum is not used, so that no derivative is 0 · inf.
        up = jnp.minimum(up, 2.0 ** (jnp.finfo(dtype).maxexp // 2 - 4))
        return row(plain, jnp.sum(up * up), jnp.sum(down * down))

    return _where_choices_cost(alone, at_once, lambda: row(plain, plain, plain))


@functools.partial(jax.jit, static_argnums=3)
def _scaled_sum(x: jax.Array, y: jax.Array | None, scale: jax.Array, dtype: jnp.dtype) -> jax.Array:
    def total(x, y, scale):
        # Made to depend on the leaf, or XLA broadcasts one scale for all leaves to a full-size temporary.
        own = jnp.where(jnp.isnan(jnp.sum(x[(slice(1),) * x.ndim])), 1, scale)
        return jnp.sum(abs2(_difference(x, y, dtype) * own))[None]

    return chosen_by_compiler(total, PartitionSpec(), jnp.asarray(x), y, scale)


def _scales(dtype: jnp.dtype) -> tuple[float, float]:
    """What brings the smallest and the largest entries to where squares are comfortable: powers of two."""
    exponent = jnp.finfo(dtype).maxexp * 5 // 8
    return 2.0**exponent, 2.0**-exponent


def _where_choices_cost(alone: bool, at_once: Callable, otherwise: Callable) -> Any:
    """On GPUs, which wait for the host to choose, and for one leaf on TPUs, where it cuts what would be one pass."""
    on_tpu = at_once if alone else otherwise
    return jax.lax.platform_dependent(cpu=otherwise, cuda=at_once, rocm=at_once, default=on_tpu)


def _difference(x: jax.Array, y: jax.Array | None, dtype: jnp.dtype) -> jax.Array:
    x = jnp.asarray(x).astype(dtype)
    return x if y is None else x - jnp.asarray(y).astype(dtype)


def scaled_magnitude(x: jax.Array, s: float) -> jax.Array:
    """|x|·s; the maximum keeps XLA from turning the square of it into |x|²·s², which overflows."""
    return jnp.maximum(jnp.abs(x) * s, 0)


def _totals(columns: Iterable, axis_name: Any) -> jax.Array:
    """The sum of each column of numbers, over a mesh axis as well."""
    totals = jnp.stack([jnp.sum(jnp.concatenate(column)) for column in columns])
    return totals if axis_name is None else jax.lax.psum(totals, axis_name)


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
