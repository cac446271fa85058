"""Losses of overlap between predicted and true regions: dice and its relatives.

Predictions and targets have one shape ``[B, ..., C]``; the unreduced loss has one value per example, ``[B]``. A
single class is a sigmoid, several are a softmax. ``where`` masks examples ``[B]`` or single pixels ``[B, ...]``,
told apart by rank; an example without any pixel left counts as masked.

[1] Milletari et al., "V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image Segmentation",
    3DV 2016, arXiv:1606.04797.
[2] Salehi et al., "Tversky loss function for image segmentation using 3D fully convolutional deep networks",
    MLMI 2017, arXiv:1706.05721.
[3] Sudre et al., "Generalised Dice overlap as a deep learning loss function for highly unbalanced
    segmentations", DLMIA 2017, arXiv:1707.03237.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from jaxopt_lite import checks
from jaxopt_lite.losses.reduce import Axis, axes_of, entries, option, reduced, split_mask

_Sums = tuple[jax.Array, jax.Array, jax.Array]
_FEW = 8  # classes; with fewer, sums along contiguous pixels take half the time


class _Overlap(NamedTuple):
    hits: jax.Array  # Σ p·t           [..., C]
    false_positives: jax.Array  # Σ p·(1 − t)
    false_negatives: jax.Array  # Σ (1 − p)·t
    frequencies: jax.Array  # [C]: Σ t over everything that counts
    where: Any  # which examples count


def _paired(predictions: Any, targets: Any) -> tuple[Any, Any]:
    """Both with a class axis: whichever has one axis less than the other gets one of length 1."""
    if jnp.ndim(predictions) == jnp.ndim(targets) - 1:
        return jnp.asarray(predictions)[..., None], targets
    if jnp.ndim(targets) == jnp.ndim(predictions) - 1:
        return predictions, jnp.asarray(targets)[..., None]
    return predictions, targets


def _softmax(x: jax.Array, pixels: Any, axis: int) -> jax.Array:
    p = jax.nn.softmax(x, axis=axis)
    return p if pixels is None else jnp.where(pixels, p, 0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _softmax_sums(axis: int, axes: tuple[int, ...], x: jax.Array, t: jax.Array, pixels: Any) -> _Sums:
    """Sums of softmax probabilities, whose own rule keeps p alone for the gradient and shares one product."""
    p = _softmax(x, pixels, axis)
    hits = p * t
    return jnp.sum(hits, axis=axes), jnp.sum(p - hits, axis=axes), jnp.sum(t - hits, axis=axes)


@functools.partial(_softmax_sums.defjvp, symbolic_zeros=True)
def _softmax_sums_jvp(axis: int, axes: tuple[int, ...], primals: Any, tangents: Any) -> Any:
    (x, t, pixels), (dx, dt, _) = primals, tangents
    p = _softmax(x, pixels, axis)
    dx = jnp.zeros_like(x) if isinstance(dx, SymbolicZero) else dx
    dp = p * (dx - jnp.sum(p * dx, axis=axis, keepdims=True))
    fixed = isinstance(dt, SymbolicZero)
    hits = t * dp if fixed else t * dp + p * dt
    total = jnp.sum(hits, axis=axes)
    negatives = -total if fixed else jnp.sum(dt - hits, axis=axes)
    return _softmax_sums(axis, axes, x, t, pixels), (total, jnp.sum(dp - hits, axis=axes), negatives)


def _sums(
    axis: int, axes: tuple[int, ...], x: jax.Array, t: jax.Array, pixels: Any, are_logits: bool
) -> _Sums:
    """Hits, false positives and false negatives over the ``pixels`` that count, of classes along ``axis``. None is
    the difference of two large sums, so a small one keeps its digits."""
    if are_logits and x.shape[axis] > 1:
        return _softmax_sums(axis, axes, x, t, pixels)
    p, not_p = (jax.nn.sigmoid(x), jax.nn.sigmoid(-x)) if are_logits else (x, 1 - x)
    p = p if pixels is None else jnp.where(pixels, p, 0)
    return jnp.sum(p * t, axis=axes), jnp.sum(p - p * t, axis=axes), jnp.sum(not_p * t, axis=axes)


def _overlap(
    name: str, predictions: Any, targets: Any, are_logits: bool, axis: Axis, where: Any, weights: Any
) -> _Overlap:
    """Check, hide what is masked, and sum over ``axis`` (``None``: all between the first and the last)."""
    predictions, targets = _paired(predictions, targets)
    checks.floating(name, predictions=predictions)
    checks.same_shape(name, predictions=predictions, targets=targets)
    last = jnp.ndim(predictions) - 1
    if last < 0:
        raise ValueError(f"{name}: predictions has shape (), expected [B, ..., C]")
    axes = tuple(range(1, last)) if axis is None else axes_of(axis, last + 1)
    if last in axes:
        raise ValueError(f"{name}: axis is {axis!r}, expected none of the class axis, which is the last")
    where, pixels = split_mask(name, where, np.broadcast_to(0, jnp.shape(predictions)[:-1]), axes)
    pixels = None if pixels is None else pixels[..., None]
    hidden = {"axis": (*axes, last), "classes": pixels, "predictions": predictions, "targets": targets}
    x, t = entries(name, where, weights, **hidden)
    frequencies = jnp.sum(t, axis=tuple(range(last)))
    place = min(1, last) if x.shape[-1] < _FEW else last
    x, t = jnp.moveaxis(x, -1, place), jnp.moveaxis(t, -1, place)
    pixels = None if pixels is None else jnp.moveaxis(pixels, -1, place)
    sums = _sums(place, tuple(i + (i >= place) for i in axes), x, t, pixels, are_logits)
    kept = place - sum(i < place for i in axes)
    hits, false_positives, false_negatives = (jnp.moveaxis(a, kept, -1) for a in sums)
    return _Overlap(hits, false_positives, false_negatives, frequencies, where)


def _mean_over_classes(
    name: str, o: _Overlap, smooth: Any, alpha: Any, beta: Any, class_weights: Any, ignore_background: bool
) -> jax.Array:
    """The loss of each example. Errors over errors plus hits: no 1 − …, so a small loss keeps its digits."""
    checks.between(name, "smooth", smooth, 0, math.inf)
    wrong = alpha * o.false_positives + beta * o.false_negatives
    all_ = o.hits + wrong + smooth
    losses = jnp.where(all_ == 0, 0, wrong / jnp.where(all_ == 0, 1, all_))
    if class_weights is not None:
        class_weights = option(name, "class_weights", class_weights, losses.shape[-1:], losses.dtype)
        losses = losses * jnp.broadcast_to(jnp.asarray(class_weights), losses.shape)
    if ignore_background and losses.shape[-1] > 1:
        losses = losses[..., 1:]
    return jnp.mean(losses, axis=-1)


def dice_loss(
    predictions: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    class_weights: jax.typing.ArrayLike | None = None,
    smooth: jax.typing.ArrayLike = 1.0,
    alpha: jax.typing.ArrayLike = 0.5,
    beta: jax.typing.ArrayLike = 0.5,
    apply_softmax: bool = True,
    ignore_background: bool = False,
    axis: Axis = None,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Soft dice loss, one minus the overlap of prediction and target, averaged over classes [1].

    ::

        TP_c = Σ p_c·t_c        FP_c = Σ p_c·(1 − t_c)        FN_c = Σ (1 − p_c)·t_c
        ℓ_c = 1 − (TP_c + s) / (TP_c + α·FP_c + β·FN_c + s)        0/0: ℓ_c = 0
        ℓ = Σ_c w_c·ℓ_c / C

    ``predictions`` are logits ``[B, ..., C]`` (probabilities p with ``apply_softmax=False``), ``targets`` t are
    one-hot rows or probabilities of the same shape, ℓ is ``[B]``; one of them may lack an axis C = 1. The sums run
    over ``axis``, by default all axes but the first and the last. s is ``smooth`` (≥ 0), w the ``class_weights``
    ``[C]``. ``ignore_background`` leaves out class 0 when there are several. ``where`` masks examples or pixels.
    A class that is in neither prediction nor target costs 0 with ``smooth=0``. No unit; ℓ is in [0, 1].

    ``reduction`` runs over examples; optax's runs over classes, whose mean (its default) is what ``"none"`` gives.
    Probabilities are not checked to sum to one. Different shapes raise ``ValueError``.

    >>> t = jnp.array([[[0.0, 1.0], [1.0, 0.0]]])
    >>> dice_loss(t, t, apply_softmax=False).tolist(), dice_loss(1 - t, t, apply_softmax=False).tolist()
    ([0.0], [0.5])
    """
    name = "dice_loss"
    overlap = _overlap(name, predictions, targets, apply_softmax, axis, where, weights)
    losses = _mean_over_classes(name, overlap, smooth, alpha, beta, class_weights, ignore_background)
    return reduced(name, losses, overlap.where, weights, reduction)


def tversky_loss(
    predictions: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    alpha: jax.typing.ArrayLike = 0.5,
    beta: jax.typing.ArrayLike = 0.5,
    smooth: jax.typing.ArrayLike = 1.0,
    apply_softmax: bool = True,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Tversky loss [2]: dice loss that weighs false positives by α and false negatives by β.

    ::

        ℓ_c = 1 − (TP_c + s) / (TP_c + α·FP_c + β·FN_c + s)        0/0: ℓ_c = 0
        ℓ = mean over classes of ℓ_c

    α = β = ½ is the dice coefficient, α = β = 1 the Jaccard index. Shapes, logits, masks and errors are those of
    :func:`dice_loss`.
    """
    name = "tversky_loss"
    overlap = _overlap(name, predictions, targets, apply_softmax, None, where, weights)
    losses = _mean_over_classes(name, overlap, smooth, alpha, beta, None, False)
    return reduced(name, losses, overlap.where, weights, reduction)


def multiclass_generalized_dice_loss(
    predictions: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    smooth: jax.typing.ArrayLike = 1.0,
    apply_softmax: bool = True,
    ignore_background: bool = False,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Dice loss whose classes weigh the more, the rarer they are in the batch.

    ::

        f_c = Σ t_c over the batch        v_c = 1 / (f_c² + 10⁻⁷)        w_c = C·v_c / Σ v
        ℓ = Σ_c w_c·ℓ_c / C        with ℓ_c of dice_loss

    ``predictions`` and ``targets`` are ``[B, ..., C]`` as in :func:`dice_loss`, ℓ is ``[B]``; its mean is optax's
    scalar. Frequencies f are of the whole batch, as in optax, so an example's loss depends on the others (those
    that ``where`` masks or whose weight is 0 left out; other ``weights`` do not change them), and a class absent
    from the batch outweighs all others. Source: after [3].
    """
    # deviation from [3], as in optax: weights are normalised and multiply each class's loss, not its overlap.
    name = "multiclass_generalized_dice_loss"
    overlap = _overlap(name, predictions, targets, apply_softmax, None, where, weights)
    rarity = 1 / (jnp.square(overlap.frequencies) + 1e-7)
    class_weights = rarity / jnp.mean(rarity)
    losses = _mean_over_classes(name, overlap, smooth, 0.5, 0.5, class_weights, ignore_background)
    return reduced(name, losses, overlap.where, weights, reduction)


def binary_dice_loss(
    predictions: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    smooth: jax.typing.ArrayLike = 1.0,
    apply_sigmoid: bool = True,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Dice loss of one foreground class; arrays whose last axis is not of length 1 get a class axis.

    ::

        ℓ = 1 − (Σ p·t + s) / (½·Σ p + ½·Σ t + s)        0/0: ℓ = 0

    ``predictions`` are logits ``[B, ...]`` or ``[B, ..., 1]`` (probabilities with ``apply_sigmoid=False``),
    ``targets`` are 0, 1 or between, ℓ is ``[B]``. Otherwise as :func:`dice_loss`.
    """
    name = "binary_dice_loss"
    if jnp.ndim(predictions) == jnp.ndim(targets) and jnp.shape(predictions)[-1:] != (1,):
        predictions, targets = jnp.asarray(predictions)[..., None], jnp.asarray(targets)[..., None]
    overlap = _overlap(name, predictions, targets, apply_sigmoid, None, where, weights)
    losses = _mean_over_classes(name, overlap, smooth, 0.5, 0.5, None, False)
    return reduced(name, losses, overlap.where, weights, reduction)
