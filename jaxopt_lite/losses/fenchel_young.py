"""Fenchel–Young losses: a convex function Ω* of the scores less the score of the target.

[1] Blondel, Martins and Niculae, "Learning with Fenchel-Young Losses", JMLR 2020, arXiv:1901.02324.
[2] Martins and Astudillo, "From Softmax to Sparsemax", ICML 2016, arXiv:1602.02068.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_lite import checks
from jaxopt_lite.axes import chosen_by_compiler
from jaxopt_lite.losses.classes import below_top, label_mask, pick, valid_or_nan
from jaxopt_lite.losses.reduce import entries, product, reduced


def make_fenchel_young_loss(max_fun: Callable[..., Any]) -> Callable[..., jax.Array]:
    """The Fenchel–Young loss of a max function [1].

    ::

        ℓ = max_fun(s) − Σ y·s

    ``max_fun(scores [C], *args, **kwargs)`` returns a number. The loss takes ``scores`` and ``targets`` of one
    shape ``[..., C]``, then ``max_fun``'s further arguments, then ``where``, ``weights`` and ``reduction`` by name.

    >>> loss = make_fenchel_young_loss(jax.nn.logsumexp)  # softmax cross-entropy
    >>> print(loss(jnp.array([0.0, 0.0]), jnp.array([1.0, 0.0])).round(4))
    0.6931
    """

    def fenchel_young_loss(
        scores: jax.typing.ArrayLike,
        targets: jax.typing.ArrayLike,
        *args: Any,
        where: jax.typing.ArrayLike | None = None,
        weights: jax.typing.ArrayLike | None = None,
        reduction: str = "none",
        **kwargs: Any,
    ) -> jax.Array:
        """Fenchel–Young loss of the max function that it was made from."""
        name = "fenchel_young_loss"
        checks.floating(name, scores=scores)
        s, y = entries(name, where, weights, axis=-1, scores=scores, targets=targets)
        rows = s.reshape(math.prod(s.shape[:-1]), s.shape[-1])
        values = jax.vmap(lambda row: max_fun(row, *args, **kwargs))(rows).reshape(s.shape[:-1])
        return reduced(name, values - jnp.sum(product(y, s), axis=-1), where, weights, reduction)

    return fenchel_young_loss


@jax.custom_jvp
def _sparse_plus(u: jax.Array) -> jax.Array:
    return jnp.where(u <= -1, 0, jnp.where(u >= 1, u, jnp.square(u + 1) / 4))


# Also where u is infinite, which the square would turn into NaN.
_sparse_plus.defjvps(lambda du, ans, u: du * jnp.clip((u + 1) / 2, 0, 1))


def sparsemax_loss(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Sparsemax loss of a binary score: logistic at heart, yet exactly 0 from a margin of 1 on.

    ::

        u = −x where y = 1, x where y = 0
        ℓ = 0 for u ≤ −1,  (u + 1)²/4 between,  u for u ≥ 1

    ``logits`` x and ``labels`` y (0 or 1, integer or boolean; anything else gives NaN) have one shape ``[...]``.
    Source: [1], section 4.4.
    """
    name = "sparsemax_loss"
    checks.floating(name, logits=logits)
    checks.same_shape(name, logits=logits, labels=labels)
    ids = jnp.asarray(labels)
    ids = ids.astype(jnp.int32) if ids.dtype == jnp.bool_ else ids
    ids, _ = label_mask(name, ids, jnp.shape(logits), where, weights)
    (x,) = entries(name, where, weights, logits=logits)
    u = x * jnp.where(ids == 1, -1, jnp.where(ids == 0, 1, jnp.nan)).astype(x.dtype)
    return reduced(name, _sparse_plus(u), where, weights, reduction)


def _sparsemax(s: jax.Array) -> jax.Array:
    """The point of the simplex nearest to s [2, Alg. 1], for scores whose largest is 0."""
    return chosen_by_compiler(_nearest, s, s)


def _nearest(s: jax.Array) -> jax.Array:
    descending = -jnp.sort(-s, axis=-1)
    ranks = 1 + jax.lax.broadcasted_iota(s.dtype, s.shape, s.ndim - 1)
    excess = jnp.cumsum(jnp.maximum(descending, -1), axis=-1) - 1
    size = jnp.sum((ranks * descending > excess) & (descending > -1), axis=-1, keepdims=True)
    support = s >= jnp.take_along_axis(descending, size - 1, axis=-1)
    support = jax.lax.stop_gradient(support)
    count = jnp.sum(support, axis=-1, keepdims=True).astype(s.dtype)
    threshold = (jnp.sum(jnp.where(support, s, 0), axis=-1, keepdims=True) - 1) / count
    return jnp.where(support, s - threshold, 0)


@jax.custom_jvp
def _sparsemax_conjugate(s: jax.Array) -> jax.Array:
    """Ω*(s) = p·s + ½·(1 − ‖p‖²) with p = sparsemax(s), whose gradient is p."""
    p = _sparsemax(s)
    return jnp.sum(product(p, s), axis=-1) + 0.5 * (1 - jnp.sum(p * p, axis=-1))


@_sparsemax_conjugate.defjvp
def _sparsemax_conjugate_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (s,), (ds,) = primals, tangents
    return _sparsemax_conjugate(s), jnp.sum(_sparsemax(s) * ds, axis=-1)


def multiclass_sparsemax_loss(
    scores: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Sparsemax loss against class ids: exactly 0 once the right class leads by 1.

    ::

        p = sparsemax(s)                    the point of the simplex nearest to s
        ℓ = p·s + ½·(1 − ‖p‖²) − s_y        ∂ℓ/∂s = p − onehot(y)

    ``scores`` s are ``[..., C]``, ``labels`` y integers ``[...]``, as is ℓ. Source: [2].
    """
    name = "multiclass_sparsemax_loss"
    checks.floating(name, scores=scores)
    *shape, num_classes = jnp.shape(scores)
    labels, _ = label_mask(name, labels, tuple(shape), where, weights)
    (s,) = entries(name, where, weights, axis=-1, scores=scores)
    shifted, _ = below_top(s, -1)
    losses = _sparsemax_conjugate(shifted) - pick(shifted, labels)
    return reduced(name, valid_or_nan(losses, labels, num_classes), where, weights, reduction)
