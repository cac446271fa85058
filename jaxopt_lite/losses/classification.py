"""Losses of class probabilities and logits: cross-entropy and its relatives.

Logits of −∞ mark impossible classes: they have probability 0 and gradient 0. Labels are class ids, integers in
0 … C − 1; a row with any other label has the value and the gradient NaN, eagerly and under ``jit`` alike
(``jaxopt_lite.checks.labels`` raises on concrete data instead).
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_lite import checks
from jaxopt_lite.losses.reduce import (
    Axis,
    axes_of,
    counted,
    entries,
    option,
    product,
    reduced,
    split_mask,
)


def _below_top(logits: jax.Array, axes: Any) -> tuple[jax.Array, jax.Array]:
    """Logits minus their largest, and that largest (a constant to autodiff, keeping ``axes``).

    An infinite largest gives 0 where it is attained and −∞ elsewhere, the limit of growing logits.
    """
    top = jnp.max(jax.lax.stop_gradient(logits), axis=axes, keepdims=True)
    return jnp.where(jnp.isinf(top) & (logits == top), 0, logits - top), top


def log_probabilities(logits: jax.Array, axes: Any = -1) -> jax.Array:
    """log softmax over ``axes``; 0 throughout a row that is −∞ throughout, since no class is left there."""
    shifted, top = _below_top(logits, axes)
    log_p = shifted - jnp.log(jnp.sum(jnp.exp(shifted), axis=axes, keepdims=True))
    return jnp.where(top == -jnp.inf, 0, log_p)


def _ids(labels: Any) -> jax.Array:
    """Labels as signed integers wide enough to be compared with any class id."""
    labels = jnp.asarray(labels)
    return labels.astype(jnp.int64 if labels.dtype.itemsize == 8 else jnp.int32)


def label_mask(
    name: str, labels: Any, shape: tuple[int, ...], where: Any, weights: Any, ignore_index: int | None = None
) -> tuple[jax.Array, Any]:
    """Check the labels; return them with masked ones set to 0, and ``where`` without the ignored ones."""
    checks.integer(name, labels=labels)
    checks.shape(name, "labels", labels, shape)
    labels = _ids(labels)
    if ignore_index is not None:
        known = labels != ignore_index
        where = known if where is None else jnp.asarray(where) & known
    keep = counted(where, weights)
    return labels if keep is None else jnp.where(keep, labels, 0), where


def valid_or_nan(losses: jax.Array, labels: jax.Array, num_classes: int) -> jax.Array:
    """``losses`` times 1, or times NaN where the label is no class, which makes the gradient NaN too."""
    valid = (labels >= 0) & (labels < num_classes)
    return losses * jnp.where(valid, 1, jnp.nan).astype(losses.dtype)


def pick(values: jax.Array, labels: jax.Array) -> jax.Array:
    """``values[..., label]``; 0 for a label that is no class."""
    ids = jax.lax.broadcasted_iota(labels.dtype, values.shape, values.ndim - 1)
    chosen = ids == labels[..., None]
    return jnp.sum(jnp.where(chosen, values, 0), axis=-1)


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
    checks.floating(name, logits=logits)
    where, classes = split_mask(name, where, logits, axis)
    z, y = entries(name, where, weights, axis=axis, logits=logits, labels=labels)
    if classes is not None:
        z, y = jnp.where(classes, z, -jnp.inf), jnp.where(classes, y, 0)
    axes = axes_of(axis, z.ndim)
    losses = jnp.sum(product(y, -log_probabilities(z, axes)), axis=axes)
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
    >>> print(softmax_cross_entropy_with_integer_labels(z, jnp.array([0, -100]), ignore_index=-100).round(4))
    [0.2761 0.    ]
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
    class_weights, label_weights = _weights_of(name, class_weights, labels, num_classes, z.dtype)
    losses = _negative_log_likelihood(
        z, labels, classes, label_smoothing, z_loss, class_weights, label_weights
    )
    losses = valid_or_nan(losses, labels, num_classes)
    return reduced(name, losses, where, weights, reduction, denominator=label_weights)


def _weights_of(name: str, class_weights: Any, labels: jax.Array, num_classes: int, dtype: Any) -> Any:
    """The weight of each class and that of each label's class (1 for a label that is no class)."""
    if class_weights is None:
        return None, None
    checks.shape(name, "class_weights", class_weights, (num_classes,))
    class_weights = jnp.asarray(class_weights).astype(dtype)
    valid = (labels >= 0) & (labels < num_classes)
    return class_weights, jnp.where(valid, class_weights[jnp.clip(labels, 0, num_classes - 1)], 1)


def _off(value: Any) -> bool:
    """Whether an option is the number 0, so that its term can be left out of the program."""
    return isinstance(value, (int, float)) and value == 0


def _negative_log_likelihood(
    z: jax.Array, labels: jax.Array, classes: Any, smoothing: Any, z_loss: Any, class_weights: Any, w_y: Any
) -> jax.Array:
    """The formula of the loss above for logits ``[..., C]`` that are −∞ where a class is masked."""
    shifted, top = _below_top(z, -1)
    log_sum = jnp.log(jnp.sum(jnp.exp(shifted), axis=-1))
    losses = log_sum - pick(shifted, labels)
    if w_y is not None:
        losses = product(w_y, losses)
    if not _off(smoothing):
        each = log_sum[..., None] - shifted
        if class_weights is not None:
            each = product(jnp.broadcast_to(class_weights, each.shape), each)
        kept = jnp.ones_like(z) if classes is None else classes.astype(z.dtype)
        share = smoothing / jnp.maximum(jnp.sum(kept, axis=-1), 1)
        losses = (1 - smoothing) * losses + product(share, jnp.sum(product(kept, each), axis=-1))
    if not _off(z_loss):
        squared = jnp.square(log_sum + top[..., 0])
        losses = losses + z_loss * (squared if w_y is None else w_y * squared)
    return jnp.where(top[..., 0] == -jnp.inf, 0, losses)


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
    losses = product(y * pos_weight, jax.nn.softplus(-x)) + product(1 - y, jax.nn.softplus(x))
    return reduced(name, losses, where, weights, reduction)


def hinge_loss(
    predictor_outputs: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Hinge loss of a binary score.

    ::

        ℓ = max(0, 1 − t·x)

    ``predictor_outputs`` x and ``targets`` t ∈ {−1, 1} have one shape ``[...]``; so has ℓ. Source: Cortes and
    Vapnik, "Support-Vector Networks", Machine Learning 1995.
    """
    checks.floating("hinge_loss", predictor_outputs=predictor_outputs)
    x, t = entries("hinge_loss", where, weights, predictor_outputs=predictor_outputs, targets=targets)
    return reduced("hinge_loss", jnp.maximum(0, 1 - x * t), where, weights, reduction)
