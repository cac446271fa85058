"""Losses of classification scores that ask for a margin rather than a probability.

Binary scores have targets −1 and 1; multiclass scores ``[..., C]`` have class ids, treated as in
``jaxopt_lite.losses.classification``: a score of −∞ marks an impossible class, a label that is no class gives NaN.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_lite import checks
from jaxopt_lite.losses.classes import label_mask, pick, valid_or_nan
from jaxopt_lite.losses.reduce import entries, reduced


def _margins(name: str, predictor_outputs: Any, targets: Any, where: Any, weights: Any) -> jax.Array:
    """t·x, positive where the sign is right."""
    checks.floating(name, predictor_outputs=predictor_outputs)
    x, t = entries(name, where, weights, predictor_outputs=predictor_outputs, targets=targets)
    return x * t


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

    >>> print(hinge_loss(jnp.array([2.0, 0.5, -1.0]), jnp.array([1, 1, 1])))
    [0.  0.5 2. ]
    """
    margins = _margins("hinge_loss", predictor_outputs, targets, where, weights)
    return reduced("hinge_loss", jnp.maximum(0, 1 - margins), where, weights, reduction)


def squared_hinge_loss(
    predictor_outputs: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Square of the hinge loss, which has a derivative everywhere.

    ::

        ℓ = max(0, 1 − t·x)²

    Shapes and errors as in :func:`hinge_loss`. Source: Chapelle, "Training a Support Vector Machine in the
    Primal", Neural Computation 2007.
    """
    margins = _margins("squared_hinge_loss", predictor_outputs, targets, where, weights)
    return reduced("squared_hinge_loss", jnp.maximum(0, 1 - margins) ** 2, where, weights, reduction)


def perceptron_loss(
    predictor_outputs: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Perceptron loss of a binary score: only wrong signs cost.

    ::

        ℓ = max(0, −t·x)        ∂ℓ/∂x = −t/2 at x = 0, so that zero weights learn

    Shapes and errors as in :func:`hinge_loss`. Source: Rosenblatt, "The Perceptron", Psychological Review 1958.
    """
    margins = _margins("perceptron_loss", predictor_outputs, targets, where, weights)
    return reduced("perceptron_loss", jnp.maximum(0, -margins), where, weights, reduction)


def _race(s: jax.Array, labels: jax.Array, margin: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The strongest rival's score, its lead over the label's, and where the label's class is."""
    own = pick(s, labels)
    is_own = jax.lax.broadcasted_iota(labels.dtype, s.shape, s.ndim - 1) == labels[..., None]
    # Without a margin the own score is a rival like any other, which saves writing the rivals to memory.
    rival = jnp.max(s if margin == 0 else jnp.where(is_own, -jnp.inf, s), axis=-1)
    # No rival: −∞, and not −∞ + ∞ where the own score is −∞ too.
    lead = jnp.where((rival == -jnp.inf) | (own == jnp.inf), -jnp.inf, rival - own + margin)
    return rival, lead, is_own


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _lead(s: jax.Array, labels: jax.Array, margin: float) -> jax.Array:
    """max over classes j of s_j − s_y + margin·[j ≠ y]; classes of score −∞ are no rivals."""
    return jnp.maximum(0, _race(s, labels, margin)[1])


@_lead.defjvp
def _lead_jvp(margin: float, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    # The winners share the gradient, as in jnp.max, whose own rule would also sum it for the label's class.
    (s, labels), (ds, _) = primals, tangents
    rival, lead, is_own = _race(s, labels, margin)
    ahead, level = (lead >= 0)[..., None], (lead <= 0)[..., None]
    wins = jnp.where(is_own, level, ahead & (s == rival[..., None])).astype(s.dtype)
    share = wins / jnp.sum(wins, axis=-1, keepdims=True) - is_own
    return _lead(s, labels, margin), jnp.sum(share * ds, axis=-1)


def _multiclass(
    name: str, scores: Any, labels: Any, margin: float, where: Any, weights: Any, reduction: str
) -> jax.Array:
    checks.floating(name, scores=scores)
    *shape, num_classes = jnp.shape(scores)
    labels, _ = label_mask(name, labels, tuple(shape), where, weights)
    (s,) = entries(name, where, weights, axis=-1, scores=scores)
    losses = valid_or_nan(_lead(s, labels, margin), labels, num_classes)
    return reduced(name, losses, where, weights, reduction)


def multiclass_hinge_loss(
    scores: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Hinge loss against the strongest rival class.

    ::

        ℓ = maxⱼ (sⱼ − s_y + [j ≠ y])

    ``scores`` s are ``[..., C]``, ``labels`` y integers ``[...]``, as is ℓ. Source: Crammer and Singer, "On the
    Algorithmic Implementation of Multiclass Kernel-based Vector Machines", JMLR 2001.
    """
    return _multiclass("multiclass_hinge_loss", scores, labels, 1.0, where, weights, reduction)


def multiclass_perceptron_loss(
    scores: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """How far the best class lies above the right one.

    ::

        ℓ = maxⱼ sⱼ − s_y

    ``scores`` s are ``[..., C]``, ``labels`` y integers ``[...]``, as is ℓ. Source: Collins, "Discriminative Training
    Methods for Hidden Markov Models", EMNLP 2002.
    """
    return _multiclass("multiclass_perceptron_loss", scores, labels, 0.0, where, weights, reduction)
