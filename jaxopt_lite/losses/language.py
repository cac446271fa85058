"""Losses over a large vocabulary, from hidden states and the output head, never holding the logits."""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxopt_lite import checks
from jaxopt_lite.losses import vocabulary, walk
from jaxopt_lite.losses.reduce import REDUCTIONS, check_mask, counted, reduced
from jaxopt_lite.losses.vocabulary import Head


class TokenStats(NamedTuple):
    """What the forward pass knows about each token; 0 where a token does not count."""

    lse: jax.Array  # [...] logΣexp of the logits, differentiable
    argmax: jax.Array  # [...] int32, the most probable class
    entropy: jax.Array  # [...] of the predicted distribution in nats, differentiable


def linear_softmax_cross_entropy(
    hidden: Any,
    kernel: Any,
    labels: Any,
    *,
    bias: Any = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    logit_softcap: float | None = None,
    temperature: float = 1.0,
    ignore_index: int | None = None,
    class_weights: Any = None,
    transpose_kernel: bool = False,
    chunk_size: int | None = None,
    recompute: bool | None = None,
    return_stats: bool = False,
    axis_name: Any = None,
    where: Any = None,
    weights: Any = None,
    reduction: str = "none",
) -> Any:
    """Cross-entropy of integer labels under an output head, without the ``[..., V]`` logits in memory.

    ```
    z   = c·tanh((hidden·kernel + bias) / c) / τ          c = logit_softcap, τ = temperature
    lse = log Σ_v exp(z_v)
    ℓ   = [lse - (1 - ε)·z_y - (ε/V)·Σ_v z_v + λ·lse²] · class_weights_y
    ```

    in nats, with ε = ``label_smoothing`` and λ = ``z_loss``. Logits and sums are float32 whatever the inputs
    (float64 for float64); beside bfloat16 operands the products of the backward pass take bfloat16 and
    accumulate in float32.

    Args:
      hidden: ``[..., H]`` hidden states.
      kernel: ``[H, V]`` output head, or ``[V, H]`` (a tied embedding, not copied) with ``transpose_kernel``.
      labels: ``[...]`` integers in 0 … V - 1. One out of range gives NaN, in the value and the gradient of its
        row, unless it equals ``ignore_index``, which counts nothing.
      bias, class_weights: ``[V]``.
      where, weights: ``[...]`` bool and non-negative floats; what they hide is exactly 0, even over NaN.
      reduction: ``"none"``, ``"sum"``, or ``"mean"``: the sum over Σ weights·class_weights_y (0 when empty).
      return_stats: also return a ``TokenStats``.
      axis_name: under shard_map, the mesh axis that ``kernel``, ``bias`` and ``class_weights`` are sharded over
        along the vocabulary; labels count over the whole.
      recompute: how to differentiate. ``True`` walks blocks of the vocabulary and computes their logits again
        in the backward pass: 8·N·H·V operations for N tokens, any cotangent, no float32 array as large as the
        kernel. ``False`` walks chunks of tokens and forms the gradient in the forward pass: 6·N·H·V
        operations, a float32 ``[H, V]`` accumulator, one scalar result only. ``None`` takes ``False`` on a CPU
        for a scalar result without stats with 3·H ≤ N, where the accumulator is at most a third of the logits;
        else ``True``, which needs the least memory and on a GPU the least time too. On several TPU chips under
        plain ``jit`` both hold the accumulator of the chip's own part of the vocabulary.
      chunk_size: columns in a block (``True``) or tokens in a chunk (``False``); sizes need not divide.
        ``None`` takes a multiple of 128: the one nearest to H columns, within 1024 … 8192, or to N/4 tokens,
        at most 1024, on a CPU, and to N·H/V, within 256 … 1024, elsewhere. The logits of a chunk are held, in
        blocks of that many columns.

    Raises:
      ValueError: for shapes that do not fit, and for ``recompute=False`` with ``reduction="none"`` or
        ``return_stats``, whose gradients are not those of one scalar.
      TypeError: for labels that are not integers, or ``where`` that is not bool.

    Derivatives: reverse mode, and forward over reverse (Hessian-vector products), in both forms.

    Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", ICLR 2025, arXiv:2411.09009.

    >>> hidden, kernel = jnp.ones((2, 3, 4)), jnp.zeros((4, 10))
    >>> loss = linear_softmax_cross_entropy(hidden, kernel, jnp.zeros((2, 3), int), reduction="mean")
    >>> print(f"{loss:.4f}")
    2.3026
    """
    name = "linear_softmax_cross_entropy"
    checks.one_of(name, "reduction", reduction, REDUCTIONS)
    checks.between(name, "label_smoothing", label_smoothing, 0, 1)
    scalar = reduction != "none" and not return_stats
    if recompute is False and not scalar:
        raise ValueError(
            f"{name}: recompute is False with reduction={reduction!r}, return_stats={return_stats}, "
            "expected a scalar reduction without stats: its gradient exists for one cotangent only"
        )
    want = ("sum",) * bool(label_smoothing) + ("entropy", "argmax") * return_stats
    head = head_of(name, logit_softcap, temperature, transpose_kernel, axis_name, want)
    head = replace(head, label_smoothing=float(label_smoothing), z_loss=float(z_loss))
    x, kernel, bias, y, keep, factor = _rows(
        name, head, hidden, kernel, labels, bias, where, weights, ignore_index
    )
    if recompute is None:
        recompute = not (scalar and _accumulates_cheaply(x))
    head = sized(name, head, x, kernel, chunk_size if recompute else None)
    head = head if recompute else replace(head, tokens=_given(name, chunk_size))
    shape, heavy = jnp.shape(labels), None if weights is None else jnp.reshape(weights, -1)
    scale = _class_weight(name, head, class_weights, kernel, y, factor.dtype)

    def total(losses: jax.Array) -> jax.Array:
        value = reduced(name, losses * factor * scale, keep, heavy, reduction, denominator=scale)
        return value.reshape(shape) if reduction == "none" else value

    arrays = walk.alike(x, kernel, bias, y)
    if not recompute:
        return vocabulary.fused_loss(head, *arrays, jax.grad(total)(jnp.zeros_like(factor)))
    stats = vocabulary.combine(head, vocabulary.row_stats(streaming(head, x, kernel), *arrays))
    loss = total(vocabulary.row_loss(head, stats, vocabulary.classes(head, kernel)))
    return (loss, _token_stats(stats, keep, shape)) if return_stats else loss


def linear_log_probs(
    hidden: Any,
    kernel: Any,
    labels: Any,
    *,
    bias: Any = None,
    logit_softcap: float | None = None,
    temperature: float = 1.0,
    transpose_kernel: bool = False,
    chunk_size: int | None = None,
    axis_name: Any = None,
    return_entropy: bool = False,
) -> Any:
    """``log p_y = z_y - lse`` of every label, under every preference and policy loss; ``[...]``, in nats.

    Logits, arguments and errors are those of ``linear_softmax_cross_entropy``; the backward pass computes the
    logits again (8·N·H·V operations), so any cotangent is right and no array of the logits' size exists. A
    label out of range gives NaN; mask it afterwards with ``where`` in the loss, or before with any valid label.

    ``return_entropy`` also returns the entropy of each predicted distribution, ``[...]``, differentiable.

    Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", ICLR 2025, arXiv:2411.09009.

    >>> hidden, kernel = jnp.ones((2, 3, 4)), jnp.zeros((4, 10))
    >>> linear_log_probs(hidden, kernel, jnp.zeros((2, 3), int)).sum(axis=-1)  # of whole sequences
    Array([-6.9077554, -6.9077554], dtype=float32)
    """
    name = "linear_log_probs"
    want = ("entropy",) * return_entropy
    head = head_of(name, logit_softcap, temperature, transpose_kernel, axis_name, want)
    x, kernel, bias, y, _, factor = _rows(name, head, hidden, kernel, labels, bias, None, None, None)
    head = streaming(sized(name, head, x, kernel, chunk_size), x, kernel)
    stats = vocabulary.combine(head, vocabulary.row_stats(head, *walk.alike(x, kernel, bias, y)))
    shape = jnp.shape(labels)
    log_probs = (((stats["label"] - stats["max"]) - stats["rest"]) * factor).reshape(shape)
    return (log_probs, stats["entropy"].reshape(shape)) if return_entropy else log_probs


def head_of(
    name: str, softcap, temperature, transpose: bool, axis_name: Any = None, want: tuple[str, ...] = ()
) -> Head:
    """The static options, which must be Python numbers: they are compiled in."""
    softcap = None if softcap is None else float(softcap)
    checks.between(name, "logit_softcap", softcap, 0, math.inf, open_low=True)
    checks.between(name, "temperature", float(temperature), 0, math.inf, open_low=True)
    return Head(softcap, float(temperature), transpose, axis_name=axis_name, want=want)


def _rows(name: str, head: Head, hidden, kernel, labels, bias, where, weights, ignore_index) -> tuple:
    """The batch as ``N`` rows: x, kernel, bias, y, which rows count, and 1 or NaN (a label out of range).

    Rows that do not count get x = 0 and y = 0, so that a NaN there reaches nothing.
    """
    hidden, kernel, labels = jnp.asarray(hidden), jnp.asarray(kernel), jnp.asarray(labels)
    bias = None if bias is None else jnp.asarray(bias)
    _check(name, head, hidden, kernel, labels, bias)
    labels = labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels
    check_mask(name, where, weights, labels.shape)
    keep = counted(where, weights)
    bounds = jnp.iinfo(labels.dtype)
    if ignore_index is not None and bounds.min <= ignore_index <= bounds.max:
        valued = labels != ignore_index
        keep = valued if keep is None else keep & valued
    right = (labels >= 0) & (labels < vocabulary.classes(head, kernel))
    x, y = hidden.reshape(-1, hidden.shape[-1]), jnp.where(right, labels, 0).astype(jnp.int32).reshape(-1)
    factor = jnp.where(right, 1, jnp.nan).astype(vocabulary.wide(hidden, kernel)).reshape(-1)
    if keep is not None:
        keep = keep.reshape(-1)
        x, y, factor = jnp.where(keep[:, None], x, 0), jnp.where(keep, y, 0), jnp.where(keep, factor, 1)
    return x, kernel, bias, y, keep, factor


def _check(name: str, head: Head, hidden, kernel, labels, bias) -> None:
    checks.floating(name, hidden=hidden, kernel=kernel)
    checks.integer(name, labels=labels)
    checks.shape(name, "labels", labels, hidden.shape[:-1])
    axis = head.vocabulary_axis
    if kernel.ndim != 2 or kernel.shape[1 - axis] != hidden.shape[-1]:
        expected = f"[V, {hidden.shape[-1]}]" if head.transpose else f"[{hidden.shape[-1]}, V]"
        raise ValueError(f"{name}: kernel has shape {kernel.shape}, expected {expected}")
    if bias is not None:
        checks.floating(name, bias=bias)
        checks.shape(name, "bias", bias, kernel.shape[axis : axis + 1])


def _class_weight(name: str, head: Head, class_weights, kernel, y, dtype) -> jax.Array:
    """``class_weights_y`` of every row, 1 without them; each shard of the vocabulary knows its own."""
    if class_weights is None:
        return jnp.ones(y.shape, dtype)
    width = kernel.shape[head.vocabulary_axis]
    checks.shape(name, "class_weights", class_weights, (width,))
    local = y - vocabulary.first_class(head, kernel)
    table, place = jnp.asarray(class_weights).astype(dtype), None
    if jax.typeof(y).sharding.mesh.explicit_axes:  # the table whole on every device, the result as the labels
        table, place = jax.sharding.reshard(table, jax.sharding.PartitionSpec(None)), jax.typeof(y).sharding
    found = table.at[local].get(mode="clip", out_sharding=place)
    found = jnp.where((local >= 0) & (local < width), found, 0)
    return found if head.axis_name is None else lax.psum(found, head.axis_name)


def _token_stats(stats: vocabulary.Stats, keep, shape: tuple[int, ...]) -> TokenStats:
    hide = lambda a: (a if keep is None else jnp.where(keep, a, 0)).reshape(shape)
    return TokenStats(hide(stats["max"] + stats["rest"]), hide(stats["argmax"]), hide(stats["entropy"]))


def sized(name: str, head: Head, x: jax.Array, kernel: jax.Array, chunk_size: int | None) -> Head:
    """The head with the size of its blocks of columns (see ``linear_softmax_cross_entropy``)."""
    width = _given(name, chunk_size) or walk.multiple(x.shape[1], 1024, 8192)
    return replace(head, columns=max(1, min(width, kernel.shape[head.vocabulary_axis])))


def _given(name: str, chunk_size: int | None) -> int | None:
    if chunk_size is not None:
        checks.between(name, "chunk_size", chunk_size, 1, math.inf)
    return chunk_size


def streaming(head: Head, x: jax.Array, kernel: jax.Array) -> Head:
    """As many tokens to a chunk as hold a block of logits, for where ``spread`` walks tokens instead of blocks."""
    classes = kernel.shape[head.vocabulary_axis]
    return replace(head, tokens=max(1, x.shape[0] * head.columns // max(1, classes)))


def _accumulates_cheaply(x: jax.Array) -> bool:
    """Whether 6·N·H·V operations beat 8 at the price of a float32 accumulator as large as the kernel.

    On a GPU they do not: products are so fast there that reading and writing the accumulator takes longer.
    """
    return jax.default_backend() == "cpu" and 3 * x.shape[1] <= x.shape[0]
