"""The mechanism of losses over classes: stable logarithms of probabilities, and labels that may be wrong.

Nothing here is exported. ``axes`` are class axes, labels are class ids of the leading axes.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_lite import checks
from jaxopt_lite.axes import chosen_by_compiler, spec
from jaxopt_lite.losses.reduce import Axis, axes_of, counted, entries, product, split_mask


def below_top(logits: jax.Array, axes: Any) -> tuple[jax.Array, jax.Array]:
    """Logits minus their largest, and that largest (a constant to autodiff, keeping ``axes``).

    An infinite largest gives 0 where it is attained and −∞ elsewhere, the limit of growing logits.
    """
    top = jnp.max(jax.lax.stop_gradient(logits), axis=axes, keepdims=True)
    return jnp.where(jnp.isinf(top) & (logits == top), 0, logits - top), top


def log_probabilities(logits: jax.Array, axes: Any = -1) -> jax.Array:
    """log softmax over ``axes``; 0 throughout a row that is −∞ throughout, since no class is left there."""
    shifted, top = below_top(logits, axes)
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


@jax.custom_jvp
def pick(values: jax.Array, labels: jax.Array) -> jax.Array:
    """``values[..., label]``; 0 for a label that is no class."""

    def picked(values, labels):
        inside = jnp.clip(labels, 0, values.shape[-1] - 1)
        found = jnp.take_along_axis(values, inside[..., None], axis=-1)[..., 0]
        return jnp.where(inside == labels, found, 0)

    return chosen_by_compiler(picked, spec(labels), values, labels)


@pick.defjvp
def _pick_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    # A sum over a select rather than the gather: it transposes to a select, the gather to a scatter.
    (values, labels), (dv, _) = primals, tangents
    ids = jax.lax.broadcasted_iota(labels.dtype, values.shape, values.ndim - 1)
    return pick(values, labels), jnp.sum(jnp.where(ids == labels[..., None], dv, 0), axis=-1)


def soft_targets(
    name: str, logits: Any, labels: Any, axis: Axis, where: Any, weights: Any
) -> tuple[jax.Array, jax.Array, jax.Array, Any]:
    """−log softmax, targets with masked classes at 0, −Σ y·log softmax, and the mask of results."""
    checks.floating(name, logits=logits)
    where, classes = split_mask(name, where, logits, axis)
    z, y = entries(name, where, weights, axis=axis, logits=logits, labels=labels)
    if classes is not None:
        z, y = jnp.where(classes, z, -jnp.inf), jnp.where(classes, y, 0)
    axes = axes_of(axis, z.ndim)
    shifted, top = below_top(z, axes)
    surprise = jnp.log(jnp.sum(jnp.exp(shifted), axis=axes, keepdims=True)) - shifted
    losses = jnp.sum(product(y, surprise), axis=axes)
    return surprise, y, jnp.where(jnp.squeeze(top, axes) == -jnp.inf, 0, losses), where


def weights_of(
    name: str, argument: str, class_weights: Any, labels: jax.Array, num_classes: int, dtype: Any
) -> Any:
    """The weight of each class and that of each label's class (1 for a label that is no class)."""
    if class_weights is None:
        return None, None
    checks.shape(name, argument, class_weights, (num_classes,))
    class_weights = jnp.asarray(class_weights).astype(dtype)
    valid = (labels >= 0) & (labels < num_classes)
    return class_weights, jnp.where(valid, class_weights[jnp.clip(labels, 0, num_classes - 1)], 1)


def _off(value: Any) -> bool:
    """Whether an option is the number 0, so that its term can be left out of the program."""
    return isinstance(value, (int, float)) and value == 0


def negative_log_likelihood(
    z: jax.Array, labels: jax.Array, classes: Any, smoothing: Any, z_loss: Any, class_weights: Any, w_y: Any
) -> jax.Array:
    """The formula of the loss above for logits ``[..., C]`` that are −∞ where a class is masked."""
    shifted, top = below_top(z, -1)
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
