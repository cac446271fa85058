"""Losses of a ranked list: scores of N items against their graded relevance.

Scores and relevance have one shape ``[..., N]`` and the unreduced loss one value per list, ``[...]``. ``where``
masks lists ``[...]`` or single items ``[..., N]``, told apart by rank; a list without any item left counts as
masked.

[1] Burges et al., "Learning to Rank using Gradient Descent", ICML 2005.
[2] Cao et al., "Learning to Rank: From Pairwise Approach to Listwise Approach", ICML 2007.
[3] Xia et al., "Listwise Approach to Learning to Rank: Theory and Algorithm", ICML 2008.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxopt_lite import checks
from jaxopt_lite.axes import chosen_by_compiler, leading
from jaxopt_lite.losses.classes import log_probabilities
from jaxopt_lite.losses.reduce import check_mask, entries, product, reduced, split_mask
from jaxopt_lite.losses.sequence import log_add


def ranking_softmax_loss(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Softmax cross-entropy of a list: relevant items should hold the probability (ListNet's top-one loss) [2].

    ::

        ℓ = −Σᵢ vᵢ·yᵢ·log softmax(s)ᵢ        0·log 0 = 0

    ``logits`` s and ``labels`` y (relevance, ≥ 0) are ``[..., N]``, ℓ is ``[...]``. ``weights`` belong to lists
    ``[...]``, or as in optax to items ``[..., N]``: these are v, which leave an item of weight 0 in the softmax and
    do not enter the mean over lists. ``where`` masks lists or items. optax's ``reduce_fn`` is ``reduction`` here,
    ``"none"`` unless told. In nats. Different shapes raise ``ValueError``.

    >>> print(f"{ranking_softmax_loss(jnp.array([2.0, 1.0, 3.0]), jnp.array([1.0, 0.0, 0.0])):.4f}")
    1.4076
    """
    name = "ranking_softmax_loss"
    checks.floating(name, logits=logits)
    where, items = split_mask(name, where, logits, -1)
    item_weights = None
    if weights is not None and jnp.ndim(weights) == jnp.ndim(logits):
        check_mask(name, None, weights, jnp.shape(logits))
        item_weights, weights = jnp.asarray(weights), None
    s, y = entries(name, where, weights, axis=-1, classes=items, logits=logits, labels=labels)
    if item_weights is not None:
        y = y * (item_weights if items is None else jnp.where(items, item_weights, 0)).astype(y.dtype)
    if items is not None:
        s = jnp.where(items, s, -jnp.inf)
    losses = -jnp.sum(product(y, log_probabilities(s)), axis=-1)
    return reduced(name, losses, where, weights, reduction)


def pairwise_logistic_loss(
    scores: jax.typing.ArrayLike,
    relevance: jax.typing.ArrayLike,
    *,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """RankNet: every pair of items should be scored in the order of its relevance [1].

    ::

        ℓ = Σ_{i, j: yᵢ > yⱼ} log(1 + exp(sⱼ − sᵢ))

    ``scores`` s and ``relevance`` y are ``[..., N]``, ℓ is ``[...]``: the sum over a list's pairs, 0 when all are
    equally relevant. ``where`` masks lists or items, ``weights`` belong to lists. Needs N² values per list. In
    nats. Different shapes raise ``ValueError``.

    >>> print(f"{pairwise_logistic_loss(jnp.array([2.0, 1.0, 3.0]), jnp.array([1.0, 0.0, 0.0])):.4f}")
    1.6265
    """
    name = "pairwise_logistic_loss"
    checks.floating(name, scores=scores)
    where, items = split_mask(name, where, scores, -1)
    s, y = entries(name, where, weights, axis=-1, classes=items, scores=scores, relevance=relevance)

    def over_pairs(s, y, items):
        pairs = y[..., :, None] > y[..., None, :]
        if items is not None:
            pairs &= items[..., :, None] & items[..., None, :]
        gap = jnp.where(pairs, s[..., None, :] - s[..., :, None], -jnp.inf)
        return jnp.sum(log_add(jnp.zeros_like(gap), gap), axis=(-2, -1))

    losses = chosen_by_compiler(over_pairs, leading(s, s.ndim - 1), s, y, items)
    return reduced(name, losses, where, weights, reduction)


def list_mle(
    scores: jax.typing.ArrayLike,
    relevance: jax.typing.ArrayLike,
    *,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """ListMLE: the negative log-likelihood of the right order under the Plackett–Luce model [3].

    ::

        π sorts by descending relevance
        ℓ = −Σᵢ log(exp s_π(i) / Σ_{k ≥ i} exp s_π(k)) = Σᵢ log(1 + Σ_{k > i} exp(s_π(k) − s_π(i)))

    ``scores`` s and ``relevance`` y are ``[..., N]``, ℓ is ``[...]``. Equally relevant items keep the order in which
    they are given, and ℓ depends on it. ``where`` masks lists or items, ``weights`` belong to lists. In nats.
    Different shapes raise ``ValueError``.

    >>> print(f"{list_mle(jnp.array([2.0, 1.0, 3.0]), jnp.array([2.0, 0.0, 1.0])):.4f}")
    1.5345
    """
    name = "list_mle"
    checks.floating(name, scores=scores)
    where, items = split_mask(name, where, scores, -1)
    s, y = entries(name, where, weights, axis=-1, classes=items, scores=scores, relevance=relevance)
    if items is None:
        items = jnp.ones_like(y, bool)
    losses = chosen_by_compiler(_surprises, leading(s, s.ndim - 1), s, y, items)
    return reduced(name, losses, where, weights, reduction)


def _surprises(s: jax.Array, y: jax.Array, items: jax.Array) -> jax.Array:
    """ListMLE's sum over the items of each list that are there."""
    order = jnp.lexsort((-y, ~items), axis=-1)
    s, items = (jnp.take_along_axis(a, order, axis=-1) for a in (s, items))
    s = jnp.where(items, s, -jnp.inf)
    least = jnp.full_like(s[..., :1], -jnp.inf)
    following = jnp.concatenate(
        [lax.associative_scan(log_add, s, reverse=True, axis=s.ndim - 1)[..., 1:], least], axis=-1
    )
    # Nothing possible follows: a certain choice, whatever the score, −∞ included.
    gap = jnp.where(items & (following > -jnp.inf), following - s, -jnp.inf)
    return jnp.sum(log_add(jnp.zeros_like(gap), gap), axis=-1)
