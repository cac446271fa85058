"""Cross-entropies that weigh easy and hard examples differently: focal losses and PolyLoss."""

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
from jaxopt_lite.losses.reduce import Axis, axes_of, entries, option, product, reduced


def _focal(ce: jax.Array, mistake: jax.Array, gamma: Any) -> jax.Array:
    """mistakeᵞ·ce; 0 where there is no mistake left to differentiate, ∞ where ``ce`` is (there mistake = 1)."""
    certain, hopeless = mistake < jnp.finfo(ce.dtype).tiny, jnp.isinf(ce)
    modulation = jnp.where(certain, 0, jnp.where(certain, 1, mistake) ** gamma)
    return jnp.where(hopeless, ce, jnp.where(hopeless, 0, ce) * modulation)


def sigmoid_focal_loss(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    alpha: jax.typing.ArrayLike | None = None,
    gamma: jax.typing.ArrayLike = 2.0,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Binary cross-entropy that turns away from what is already classified well.

    ::

        q = (1 − y)·σ(x) + y·σ(−x)        the probability of a mistake
        ℓ = αₜ·qᵞ·(−y·log σ(x) − (1 − y)·log σ(−x))
        αₜ = α·y + (1 − α)·(1 − y)        1 when α is left out

    ``logits`` x and ``labels`` y (probabilities in [0, 1]) have one shape ``[...]``; so has ℓ. ``alpha`` and
    ``gamma`` ≥ 0 are numbers or have that shape. In nats. Source: Lin et al., "Focal Loss for Dense Object
    Detection", arXiv:1708.02002.
    """
    name = "sigmoid_focal_loss"
    checks.floating(name, logits=logits)
    checks.between(name, "gamma", gamma, 0, math.inf)
    checks.between(name, "alpha", alpha, 0, 1)
    x, y = entries(name, where, weights, logits=logits, labels=labels)
    gamma = option(name, "gamma", gamma, x.shape, x.dtype)
    ce = product(y, jax.nn.softplus(-x)) + product(1 - y, jax.nn.softplus(x))
    losses = _focal(ce, (1 - y) * jax.nn.sigmoid(x) + y * jax.nn.sigmoid(-x), gamma)
    if alpha is not None:
        alpha = option(name, "alpha", alpha, x.shape, x.dtype)
        losses = product(alpha * y + (1 - alpha) * (1 - y), losses)
    return reduced(name, losses, where, weights, reduction)


def softmax_focal_loss(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    alpha: jax.typing.ArrayLike | None = None,
    gamma: jax.typing.ArrayLike = 2.0,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Softmax cross-entropy that turns away from what is already classified well.

    ::

        ℓ = α_y·(1 − p_y)ᵞ·(−log p_y)        p = softmax(z)

    ``logits`` z are ``[..., C]``, ``labels`` y integers ``[...]``; ``alpha`` holds one weight per class ``[C]`` (or
    one number for all), ``gamma`` ≥ 0 is a number or has the shape of ``labels``. In nats. Source: as
    :func:`sigmoid_focal_loss`.
    """
    name = "softmax_focal_loss"
    checks.floating(name, logits=logits)
    checks.between(name, "gamma", gamma, 0, math.inf)
    *shape, num_classes = jnp.shape(logits)
    labels, _ = label_mask(name, labels, tuple(shape), where, weights)
    (z,) = entries(name, where, weights, axis=-1, logits=logits)
    ce = negative_log_likelihood(z, labels, None, 0, 0, None, None)
    gamma = option(name, "gamma", gamma, ce.shape, ce.dtype)
    losses = _focal(ce, -jnp.expm1(-ce), gamma)
    if alpha is not None:
        alpha = jnp.broadcast_to(alpha, (num_classes,)) if jnp.ndim(alpha) == 0 else alpha
        losses = product(weights_of(name, "alpha", alpha, labels, num_classes, z.dtype)[1], losses)
    return reduced(name, valid_or_nan(losses, labels, num_classes), where, weights, reduction)


def poly_loss_cross_entropy(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    epsilon: jax.typing.ArrayLike = 2.0,
    axis: Axis = -1,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Softmax cross-entropy with another weight on the first term of its expansion in 1 − p.

    ::

        ℓ = −Σ y·log p + ε·Σ y·(1 − p)        p = softmax(z)

    Shapes, ``axis``, ``where`` and errors as in :func:`softmax_cross_entropy`. In nats. Source: Leng et al.,
    "PolyLoss", arXiv:2204.12511.
    """
    name = "poly_loss_cross_entropy"
    surprise, y, losses, where = soft_targets(name, logits, labels, axis, where, weights)
    mistakes = -jnp.sum(y * jnp.expm1(-surprise), axis=axes_of(axis, y.ndim))
    losses = losses + epsilon * jnp.where(losses > 0, mistakes, 0)
    return reduced(name, losses, where, weights, reduction)
