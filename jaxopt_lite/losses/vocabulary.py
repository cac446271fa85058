"""Logits of an output head, block by block: the statistics of each row, and the gradient through them.

Nothing here holds the ``[N, V]`` logits. Two algorithms share the same block functions:

* ``row_stats`` streams blocks of the vocabulary past all tokens (online softmax) and recomputes them in the
  backward pass: 8·N·H·V operations, any cotangent, least memory [1];
* ``fused_loss`` visits chunks of tokens, keeps the logits of one chunk, and forms its gradient from them:
  6·N·H·V operations, one scalar result only [2].

Symbols: ``x [N, H]`` hidden states, ``w [H, V]`` head, ``b [V]`` bias, ``y [N]`` labels, ``z`` logits.

[1] Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", ICLR 2025, arXiv:2411.09009.
[2] Hsu et al., "Liger Kernel: Efficient Triton Kernels for LLM Training", 2024, arXiv:2410.10989.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jaxopt_lite.axes import placed_like
from jaxopt_lite.losses.spread import spread
from jaxopt_lite.losses.walk import add, multiple, over_blocks, part, put, vary, varying

# [N] each: "max" and "rest", whose sum is the log-sum-exp (apart, since a logit minus their sum would be rounded
# at the size of the sum), "label", and where wanted "sum", "entropy", "argmax".
Stats = dict[str, jax.Array]
Bias = jax.Array | None


@dataclass(frozen=True)
class Head:
    """What is fixed when the program is traced: how logits follow from hidden states, and how to walk them."""

    softcap: float | None = None
    temperature: float = 1.0
    transpose: bool = False  # the kernel is [V, H]
    columns: int = 1  # of the vocabulary in one block
    tokens: int | None = None  # in one chunk of fused_loss; None leaves it to who walks them
    want: tuple[str, ...] = ()  # statistics beyond "max", "rest" and "label"
    axis_name: Any = None  # the mesh axis over which the vocabulary is sharded, under shard_map
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    wanted: tuple[bool, ...] = (True, True, True)  # which of x, w and b need a gradient, in fused_loss
    beta: float = 0.0  # of the divergence between two heads
    partial: bool = False  # gradients are parts of a sum: in float32

    @property
    def vocabulary_axis(self) -> int:
        """The axis of the kernel along which the vocabulary runs."""
        return 0 if self.transpose else 1


# --- products -----------------------------------------------------------------------------------------------


def wide(*arrays: Any) -> Any:
    """The dtype of logits and sums: float32, or float64 when an operand is."""
    return jnp.result_type(jnp.float32, *(a.dtype for a in arrays if a is not None))


def stored(head: Head, w: jax.Array, *others: jax.Array) -> Any:
    """The dtype of a gradient that is complete, block by block, unless it is part of a sum."""
    return wide(w, *others) if head.partial else w.dtype


def product(a: jax.Array, b: jax.Array, over: tuple[int, int]) -> jax.Array:
    """Matrix product over axis ``over[0]`` of ``a`` and ``over[1]`` of ``b``, accumulated in ``wide``."""
    operand = jnp.promote_types(a.dtype, b.dtype)
    axes = (((over[0],), (over[1],)), ((), ()))
    return lax.dot_general(a.astype(operand), b.astype(operand), axes, preferred_element_type=wide(a, b))


def back_products(head: Head, da: jax.Array, x: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``da·wᵀ`` and ``xᵀ·da``, the latter laid out as the kernel is.

    Beside bfloat16 operands ``da`` becomes one, which is what matrix units are fast at. A CPU has none: there a
    product of float32 is the faster one, and the gradient as exact as that of logits that are held.
    """

    def both(da, x, w):
        dx = product(da, w, (1, head.vocabulary_axis))
        return dx, product(da, x, (0, 0)) if head.transpose else product(x, da, (0, 0))

    if not x.dtype == w.dtype == jnp.bfloat16:
        return both(da, x, w)
    rounded = lambda da, x, w: both(da.astype(jnp.bfloat16), x, w)
    return lax.platform_dependent(da, x, w, cpu=both, default=rounded)


def logits(head: Head, x: jax.Array, w: jax.Array, b: Bias) -> jax.Array:
    """``z = c·tanh((x·w + b) / c) / τ`` in float32 or better."""
    return finished(head, product(x, w, (1, 1 - head.vocabulary_axis)), b)


def finished(head: Head, z: jax.Array, b: Bias) -> jax.Array:
    """The logits ``z`` whose ``x·w`` is given."""
    if b is not None:
        z = z + b.astype(z.dtype)[None, :]
    if head.softcap is not None:
        z = head.softcap * jnp.tanh(z / head.softcap)
    return z if head.temperature == 1 else z / head.temperature


def logits_pull(head: Head, z: jax.Array, dz: jax.Array) -> jax.Array:
    """The cotangent of ``x·w + b`` from that of ``z``: over τ, and times ``1 - (τ·z/c)²`` when capped."""
    dz = dz if head.temperature == 1 else dz / head.temperature
    return dz if head.softcap is None else dz * (1 - jnp.square(z * (head.temperature / head.softcap)))


# --- statistics of rows from blocks of their logits ---------------------------------------------------------


def first(head: Head, zero: jax.Array) -> Stats:
    """The state before the first block. Its maximum is finite, so a first block of all -inf does no harm."""
    carry = {"max": zero + jnp.finfo(zero.dtype).min / 2, "total": zero, "label": zero}
    carry |= {name: zero for name in ("sum", "entropy") if name in head.want}
    return carry | ({"argmax": zero.astype(jnp.int32)} if "argmax" in head.want else {})


def update(carry: Stats, z: jax.Array, start: Any, y: jax.Array) -> Stats:
    """One more block: rescale what was summed to the new maximum, add what the block brings."""
    top = jnp.max(z, axis=1)
    m = jnp.maximum(carry["max"], top)
    shrink, d = jnp.exp(carry["max"] - m), z - m[:, None]
    e = jnp.exp(d)
    new = {"max": m, "total": carry["total"] * shrink + jnp.sum(e, axis=1)}
    new["label"] = carry["label"] + picked(z, start, y)
    if "sum" in carry:
        new["sum"] = carry["sum"] + jnp.sum(z, axis=1)
    if "entropy" in carry:  # Σ e·(z - m), shifted as m moves, so that nothing large cancels
        moved = carry["entropy"] + carry["total"] * (carry["max"] - m)
        new["entropy"] = moved * shrink + jnp.sum(e * finite(d), axis=1)
    if "argmax" in carry:
        here = (start + jnp.argmax(z, axis=1)).astype(jnp.int32)
        new["argmax"] = jnp.where(top > carry["max"], here, carry["argmax"])
    return new


def finish(carry: Stats) -> Stats:
    """The statistics, once every block is in."""
    least = jnp.finfo(carry["total"].dtype).tiny  # a shard may be -inf throughout
    total = jnp.maximum(carry["total"], least)
    log_total = jnp.log(total)
    stats: Stats = {name: carry[name] for name in ("max", "label", "sum", "argmax") if name in carry}
    if "entropy" in carry:
        stats["entropy"] = log_total - carry["entropy"] / total
    return stats | {"rest": log_total}


def log_softmax(z: jax.Array, stats: Stats) -> jax.Array:
    """``log p = z - lse`` of one block."""
    return (z - stats["max"][:, None]) - stats["rest"][:, None]


def stats_pull(head: Head, z: jax.Array, start: Any, y: jax.Array, stats: Stats, cts: Stats) -> jax.Array:
    """The cotangent of ``x·w + b`` in one block, from the cotangents of its rows' statistics.

    That of "max" is that of "rest" once more, since all that is made of them is made of their sum.
    """
    d = log_softmax(z, stats)
    p = jnp.exp(d)
    dz = cts["rest"][:, None] * p + jnp.where(hits(z, start, y), cts["label"][:, None], 0)
    if "sum" in cts:
        dz = dz + cts["sum"][:, None]
    if "entropy" in cts:  # ∂H/∂z = -p·(log p + H)
        dz = dz - cts["entropy"][:, None] * p * (finite(d) + stats["entropy"][:, None])
    return logits_pull(head, z, dz)


def picked(z: jax.Array, start: Any, y: jax.Array) -> jax.Array:
    """The label's logit where the block holds it, else 0: gathered on a CPU, fused into the sums elsewhere."""

    def gather(z, columns, y):
        inside = (y >= columns[0]) & (y <= columns[-1])
        column = jnp.where(inside, y - columns[0], 0)
        return jnp.where(inside, jnp.take_along_axis(z, column[:, None], axis=1)[:, 0], 0)

    def mask(z, columns, y):
        return jnp.sum(jnp.where(columns[None, :] == y[:, None], z, 0), axis=1)

    columns = start + jnp.arange(z.shape[1], dtype=y.dtype)
    return lax.platform_dependent(z, columns, y, cpu=gather, default=mask)


def hits(z: jax.Array, start: Any, y: jax.Array) -> jax.Array:
    """Which column of the block is the label's; a label outside the block hits none."""
    return start + lax.broadcasted_iota(y.dtype, z.shape, 1) == y[:, None]


def finite(d: jax.Array) -> jax.Array:
    """-inf replaced by the least float, since 0·log 0 counts 0."""
    return jnp.maximum(d, jnp.finfo(d.dtype).min)


def combine(head: Head, stats: Stats) -> Stats:
    """The statistics of whole rows from those of each shard of the vocabulary."""
    axis, top = head.axis_name, lax.stop_gradient(stats["max"])
    if axis is None:
        return stats
    m = lax.pmax(top, axis)
    share = (stats["max"] - m) + stats["rest"]
    rest = jnp.log(lax.psum(jnp.exp(share), axis))
    whole: Stats = {name: lax.psum(stats[name], axis) for name in ("label", "sum") if name in stats}
    whole |= {"max": m, "rest": rest}
    if "entropy" in stats:  # H = Σₛ qₛ·(Hₛ - log qₛ), with qₛ the probability of shard s
        d = share - rest
        whole["entropy"] = lax.psum(jnp.exp(d) * (stats["entropy"] - finite(d)), axis)
    if "argmax" in stats:
        best = jnp.where(top == m, stats["argmax"], jnp.iinfo(jnp.int32).max)
        whole["argmax"] = lax.pmin(best, axis)
    return whole


def row_loss(head: Head, stats: Stats, classes: int) -> jax.Array:
    """``ℓ = lse - (1 - ε)·z_y - (ε/V)·Σ z + λ·lse²``."""
    top, rest, smoothing = stats["max"], stats["rest"], head.label_smoothing
    losses = rest + (1 - smoothing) * (top - stats["label"])
    if smoothing:
        losses = losses + smoothing * (top - stats["sum"] / classes)
    return losses + head.z_loss * jnp.square(top + rest) if head.z_loss else losses


# --- streaming the vocabulary, recomputing it in the backward pass ------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def row_stats(head: Head, x: jax.Array, w: jax.Array, b: Bias, y: jax.Array) -> Stats:
    """The statistics of every row; of this shard's part of it when ``head.axis_name`` is set."""
    return _row_stats_forward(head, x, w, b, y)[0]


def _row_stats_forward(head: Head, x, w, b, y):
    stats = spread(stream if head.axis_name else whole_stream, head, rows_axes(head), "n", x, w, b, y)
    return stats, (x, w, b, y, stats)


def _row_stats_backward(head: Head, kept, cts: Stats):
    cts = {name: ct for name, ct in cts.items() if ct.dtype != jax.dtypes.float0}
    axes = rows_axes(head)
    dx, dw, db = spread(stream_back, head, (*axes, "n", "n"), axes[:3], *kept, cts)
    return *map(placed_like, kept[:3], (dx.astype(kept[0].dtype), dw, db)), None


row_stats.defvjp(_row_stats_forward, _row_stats_backward)


def stream(head: Head, x, w, b, y) -> Stats:
    """Online softmax: one block of the vocabulary after the other past all rows."""
    return stream_kept(head, x, w, b, y, None)[0]


def stream_kept(head: Head, x, w, b, y, kept: jax.Array | None) -> tuple[Stats, jax.Array | None]:
    """``stream``, and the blocks of ``x·w`` written into ``kept [blocks, rows, columns]``, if it is there.

    Not of finished logits: those would be rounded, while the sums here may see them in higher precision.
    """
    zero, axis = vary(jnp.zeros(x.shape[0], wide(x, w)), varying(x)), head.vocabulary_axis

    def body(start, width, carry):
        rows, kept = carry
        xw = product(x, part(w, start, width, axis), (1, 1 - axis))
        rows = update(rows, finished(head, xw, part(b, start, width)), start + first_class(head, w), y)
        return rows, put(kept, xw[None], start // head.columns)

    rows, kept = over_blocks(body, (first(head, zero), kept), w.shape[axis], head.columns)
    return finish(rows), kept


def whole_stream(head: Head, x, w, b, y) -> Stats:
    """``stream``, finished over all shards of the vocabulary."""
    return combine(head, stream(head, x, w, b, y))


def stream_back(head: Head, x, w, b, y, stats: Stats, cts: Stats) -> tuple:
    """The gradients of ``x`` (in float32), ``w`` and ``b``; each column of ``w`` gets its own in one piece."""
    axis = head.vocabulary_axis
    zeros = lambda like, dtype: vary(jnp.zeros(like.shape, dtype), varying(x))

    def body(start, width, carry):
        dx, dw, db = carry
        z = logits(head, x, part(w, start, width, axis), part(b, start, width))
        dx_block, dw_block, db_block = block_pull(head, x, w, b, y, stats, cts, start, z)
        return dx + dx_block, put(dw, dw_block, start, axis), put(db, db_block, start)

    carry = zeros(x, wide(x, w)), zeros(w, stored(head, w)), None if b is None else zeros(b, stored(head, b))
    return over_blocks(body, carry, w.shape[axis], head.columns)


def block_pull(head: Head, x, w, b, y, stats: Stats, cts: Stats, start: Any, z: jax.Array) -> tuple:
    """What one block of logits gives to the gradients of ``x``, ``w`` and ``b``."""
    da = stats_pull(head, z, start + first_class(head, w), y, stats, cts)
    columns = part(w, start, z.shape[1], head.vocabulary_axis)
    return *back_products(head, da, x, columns), None if b is None else jnp.sum(da, axis=0)


# --- visiting the tokens, with the gradient formed on the way -----------------------------------------------


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def fused_loss(head: Head, x, w, b: Bias, y, weights: jax.Array) -> jax.Array:
    """``Σᵢ weightsᵢ·ℓᵢ``."""
    stats = combine(head, row_stats(head, x, w, b, y))
    return weighed(weights, row_loss(head, stats, classes(head, w)))


@partial(fused_loss.defjvp, symbolic_zeros=True)
def _fused_loss_jvp(head: Head, primals, tangents):
    """The gradient is a constant by now: its product with the tangents transposes to a scaling of it."""
    weights = primals[4]
    wanted = tuple(t is not None and not isinstance(t, SymbolicZero) for t in tangents[:3])
    axes = rows_axes(head)
    chunked = replace(head, wanted=wanted)
    losses, *gradients = spread(chunk_gradients, chunked, (*axes, "n"), ("n", *axes[:3]), *primals)
    rows = zip(primals[:3], gradients, tangents[:3], strict=True)
    pairs = [(placed_like(a, g), t) for a, g, t in rows if g is not None]
    tangent = sum((jnp.sum(g * t.astype(g.dtype)) for g, t in pairs), jnp.zeros((), losses.dtype))
    if head.axis_name is not None and pairs:
        tangent = lax.psum(tangent, head.axis_name)
    if not isinstance(tangents[4], SymbolicZero):
        tangent = tangent + jnp.sum(jnp.where(weights != 0, losses * tangents[4], 0))
    return weighed(weights, losses), tangent


def chunk_gradients(head: Head, x, w, b, y, weights) -> tuple:
    """``ℓ [N]`` and the gradients of ``Σ weights·ℓ`` in ``x``, ``w``, ``b`` (``None`` where not wanted).

    A chunk's logits are made, summed and pulled back in blocks that fit a cache; only between the two passes are
    all of them held. So chunks can be long, and the kernel's gradient is read and written once for each. Elsewhere
    than on a CPU the logits of a chunk are as large as ``x``.
    """
    if head.tokens:
        return in_chunks(head.tokens, head, x, w, b, y, weights)
    (rows, features), columns = x.shape, w.shape[head.vocabulary_axis]
    long, short = multiple(rows / 4, 128, 1024), multiple(rows * features / max(1, columns), 256, 1024)
    forms = {"cpu": partial(in_chunks, long, head), "default": partial(in_chunks, short, head)}
    return lax.platform_dependent(x, w, b, y, weights, **forms)


def in_chunks(tokens: int, head: Head, x, w, b, y, weights) -> tuple:
    """``chunk_gradients`` with chunks of so many rows."""
    axis, dtype, axes, wanted = head.vocabulary_axis, wide(x, w), varying(x), head.wanted
    zeros = lambda want, shape, dtype: vary(jnp.zeros(shape, dtype), axes) if want else None

    def body(start, width, carry):
        losses, dx, dw, db = carry
        rows = part(x, start, width), w, b, part(y, start, width)
        ell, dx_chunk, dw, db = chunk_pull(head, *rows, part(weights, start, width), dw, db)
        return put(losses, ell, start), put(dx, dx_chunk, start), dw, db

    shards = head.axis_name if isinstance(head.axis_name, tuple) else (head.axis_name,)
    losses = vary(jnp.zeros(x.shape[0], dtype), axes - frozenset(shards))
    dx, dw = zeros(wanted[0], x.shape, x.dtype), zeros(wanted[1], w.shape, dtype)
    db = zeros(wanted[2], (w.shape[axis],), dtype)
    return over_blocks(body, (losses, dx, dw, db), x.shape[0], tokens)


def chunk_pull(head: Head, x, w, b, y, weights, dw, db) -> tuple:
    """The losses of a chunk of rows, their gradient in ``x``, and those in ``w`` and ``b`` added to ``dw``, ``db``."""
    axis, dtype = head.vocabulary_axis, wide(x, w)
    zeros = lambda *shape: vary(jnp.zeros(shape, dtype), varying(x))
    blocks = -(-w.shape[axis] // head.columns)
    stats, kept = stream_kept(head, x, w, b, y, zeros(blocks, x.shape[0], head.columns))
    stats = combine(head, stats)
    losses, back = jax.vjp(lambda s: row_loss(head, s, classes(head, w)), stats)
    cts = back(weights)[0]

    def body(start, width, carry):
        dx, dw, db = carry
        xw = part(part(kept, start // head.columns, 1)[0], 0, width, 1)
        z = finished(head, xw, part(b, start, width))
        dx_block, dw_block, db_block = block_pull(head, x, w, b, y, stats, cts, start, z)
        return dx + dx_block, add(dw, dw_block, start, axis), add(db, db_block, start)

    return losses, *over_blocks(body, (zeros(*x.shape), dw, db), w.shape[axis], head.columns)


def weighed(weights: jax.Array, losses: jax.Array) -> jax.Array:
    """``Σ w·ℓ``, where a weight of 0 hides even an infinite loss."""
    return jnp.sum(jnp.where(weights != 0, weights * losses, 0))


def rows_axes(head: Head) -> tuple[str, ...]:
    """The axes of x, w, b and y, as ``spread`` names them."""
    return "nh", "vh" if head.transpose else "hv", "v", "n"


def first_class(head: Head, w: jax.Array) -> Any:
    """The first class of this shard of the vocabulary."""
    return 0 if head.axis_name is None else lax.axis_index(head.axis_name) * w.shape[head.vocabulary_axis]


def classes(head: Head, w: jax.Array) -> int:
    """The size of the whole vocabulary, all shards together."""
    shards = 1 if head.axis_name is None else lax.axis_size(head.axis_name)
    return w.shape[head.vocabulary_axis] * shards
