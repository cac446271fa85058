"""Losses of class probabilities and logits: the cross-entropies.

Logits of −∞ mark impossible classes: they have probability 0 and gradient 0. Labels are class ids, integers in
0 … C − 1; a row with any other label has the value and the gradient NaN, eagerly and under ``jit`` alike
(``jaxopt_lite.checks.labels`` raises on concrete data instead).
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_lite import checks
from jaxopt_lite.losses.classes import (
    label_mask,
    negative_log_likelihood,
    soft_targets,
    valid_or_nan,
    weights_of,
)
from jaxopt_lite.losses.reduce import (
    Axis,
    axes_of,
    check_mask,
    compute_dtype,
    entries,
    option,
    product,
    reduced,
    split_mask,
)


def cross_entropy(
    probabilities: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    axis: int = -1,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Cross-entropy of predicted *probabilities*; see :func:`softmax_cross_entropy` for logits.

    ::

        ℓ = −Σ y·log ŷ        0·log 0 = 0

    ``probabilities`` ŷ and ``targets`` y (one-hot or a distribution) have one shape ``[..., C]``, ℓ has
    ``[...]``. In nats. Class ids as targets raise ``ValueError``.

    >>> y, p = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([[0.8, 0.2], [0.3, 0.7]])
    >>> cross_entropy(p, y, reduction="mean").round(4)
    Array(0.2899, dtype=float32)
    """
    name = "cross_entropy"
    checks.floating(name, probabilities=probabilities)
    p, y = entries(name, where, weights, axis=axis, probabilities=probabilities, targets=targets)
    impossible = (y == 0) & (jnp.abs(p) < jnp.finfo(p.dtype).tiny)
    log_p = jnp.log(jnp.where(impossible, 1, p))
    return reduced(name, jnp.sum(y * -log_p, axis=axis), where, weights, reduction)


def softmax_cross_entropy(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    axis: Axis = -1,
    where: jax.typing.ArrayLike | None = None,
    *,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Cross-entropy between the softmax of logits and one-hot rows or distributions.

    ::

        ℓ = −Σ y·log softmax(z)        0·log 0 = 0

    ``logits`` z and ``labels`` y have one shape ``[..., C]``, ℓ the shape without ``axis`` (an axis, several,
    or ``None`` for all). ``where`` masks results ``[...]``, or classes when it has the shape of ``logits``.
    In nats. Class ids as labels raise ``ValueError``.
    """
    name = "softmax_cross_entropy"
    _, _, losses, where = soft_targets(name, logits, labels, axis, where, weights)
    return reduced(name, losses, where, weights, reduction)


def _classes_last(array: Any, axis: Axis) -> Any:
    """``axis`` moved to the end, several of them flattened into one in the order given."""
    if array is None or axis == -1:
        return array
    array = jnp.asarray(array)
    axes = axes_of(axis, array.ndim)
    array = jnp.moveaxis(array, axes, tuple(range(-len(axes), 0)))
    return array.reshape(*array.shape[: array.ndim - len(axes)], -1)


def softmax_cross_entropy_with_integer_labels(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    axis: int | tuple[int, ...] = -1,
    where: jax.typing.ArrayLike | None = None,
    *,
    label_smoothing: jax.typing.ArrayLike = 0.0,
    ignore_index: int | None = None,
    z_loss: jax.typing.ArrayLike = 0.0,
    class_weights: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Cross-entropy between the softmax of logits and class ids.

    ::

        lse = log Σ exp(z)
        ℓ = (1 − ε)·w_y·(lse − z_y) + ε/C·Σ_c w_c·(lse − z_c) + λ·w_y·lse²

    ``logits`` z are ``[..., C]``, ``labels`` y integers ``[...]``; ε is ``label_smoothing``, λ ``z_loss``, w the
    ``class_weights`` ``[C]`` (1 when left out). Of several axes a label is the flat index. ``where`` masks results
    ``[...]``, or classes when it has the shape of ``logits``: C and both sums then run over what is kept, and a
    label that is masked out has probability 0, ℓ = +∞. Rows whose label is ``ignore_index`` are masked; any
    other label outside 0 … C − 1 gives NaN. ``"mean"`` divides by Σ w_y, as in PyTorch. In nats.

    Sources: Szegedy et al., arXiv:1512.00567 (smoothing); Chowdhery et al., arXiv:2204.02311 (z-loss).

    >>> z = jnp.array([[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]])
    >>> loss = softmax_cross_entropy_with_integer_labels(z, jnp.array([0, -100]), ignore_index=-100)
    >>> print([f"{row:.4f}" for row in loss])
    ['0.2761', '0.0000']
    """
    name = "softmax_cross_entropy_with_integer_labels"
    checks.floating(name, logits=logits)
    checks.between(name, "label_smoothing", label_smoothing, 0, 1)
    checks.between(name, "z_loss", z_loss, 0, math.inf)
    where, classes = split_mask(name, where, logits, axis)
    logits, classes = _classes_last(logits, axis), _classes_last(classes, axis)
    *shape, num_classes = jnp.shape(logits)
    labels, where = label_mask(name, labels, tuple(shape), where, weights, ignore_index)
    (z,) = entries(name, where, weights, axis=-1, logits=logits)
    if classes is not None:
        z = jnp.where(classes, z, -jnp.inf)
    class_weights, label_weights = weights_of(
        name, "class_weights", class_weights, labels, num_classes, z.dtype
    )
    losses = negative_log_likelihood(
        z, labels, classes, label_smoothing, z_loss, class_weights, label_weights
    )
    losses = valid_or_nan(losses, labels, num_classes)
    return reduced(name, losses, where, weights, reduction, denominator=label_weights)


def sigmoid_binary_cross_entropy(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    pos_weight: jax.typing.ArrayLike = 1.0,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Cross-entropy of independent yes/no predictions.

    ::

        ℓ = −pos_weight·y·log σ(x) − (1 − y)·log σ(−x)        0·log 0 = 0

    ``logits`` x and ``labels`` y (probabilities of "yes" in [0, 1]) have one shape ``[...]``; so has ℓ.
    ``pos_weight`` is a number, one per class ``[C]`` for logits ``[..., C]``, or one per entry. In nats.
    """
    name = "sigmoid_binary_cross_entropy"
    checks.floating(name, logits=logits)
    x, y = entries(name, where, weights, logits=logits, labels=labels)
    if jnp.ndim(pos_weight) == 1 and x.ndim > 1:
        checks.shape(name, "pos_weight", pos_weight, x.shape[-1:])
        pos_weight = jnp.broadcast_to(jnp.asarray(pos_weight), x.shape)
    pos_weight = option(name, "pos_weight", pos_weight, x.shape, x.dtype)
    # softplus(±x) = max(±x, 0) + log(1 + exp(−|x|)): one exponential and one logarithm serve both terms.
    yes, no = y * pos_weight, 1 - y
    size = jnp.where(x > 0, x, -x)
    losses = product(jnp.where(x > 0, no, yes), size) + (yes + no) * jnp.log1p(jnp.exp(-size))
    return reduced(name, losses, where, weights, reduction)


def smooth_labels(
    labels: jax.typing.ArrayLike,
    alpha: jax.typing.ArrayLike,
    *,
    axis: Axis = -1,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """One-hot rows moved towards the uniform distribution; not a loss but targets for one.

    ::

        y′ = (1 − α)·y + α/C        C: how many classes ``where`` keeps;  y′ = 0 where it does not

    ``labels`` are ``[..., C]`` and floating, ``where`` has their shape. Source: Müller et al., "When Does Label
    Smoothing Help?", arXiv:1906.02629.

    >>> print(smooth_labels(jnp.array([0.0, 1.0, 0.0, 0.0]), 0.2).round(3))
    [0.05 0.85 0.05 0.05]
    """
    checks.floating("smooth_labels", labels=labels)
    checks.between("smooth_labels", "alpha", alpha, 0, 1)
    check_mask("smooth_labels", where, None, jnp.shape(labels))
    labels = jnp.asarray(labels).astype(compute_dtype(labels))
    kept = jnp.ones(labels.shape, bool) if where is None else jnp.asarray(where)
    count = jnp.sum(kept, axis=axes_of(axis, labels.ndim), keepdims=True)
    smoothed = (1 - alpha) * jnp.where(kept, labels, 0) + alpha / jnp.maximum(count, 1).astype(labels.dtype)
    return jnp.where(kept, smoothed, 0)


def safe_softmax_cross_entropy(
    logits: jax.typing.ArrayLike, labels: jax.typing.ArrayLike, **options: Any
) -> jax.Array:
    """:func:`softmax_cross_entropy` under the name that optax gives to its variant for logits of −∞."""
    return softmax_cross_entropy(logits, labels, **options)
