"""Losses that pull matching embeddings together and push the others apart.

Similarities are cosines, computed as one matrix product of unit vectors: nothing of size batch × batch × features
exists. A masked or zero-weight row is out of the batch: it is no one's negative either.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_lite import checks
from jaxopt_lite.axes import chosen_by_compiler, leading
from jaxopt_lite.losses.classes import below_top, negative_log_likelihood
from jaxopt_lite.losses.reduce import counted, entries, reduced
from jaxopt_lite.losses.regression import units


def _matrix(name: str, where: Any, weights: Any, **arrays: Any) -> list[jax.Array]:
    """Unit rows of arrays that must be ``[B, D]``; masked rows become zero."""
    checks.floating(name, **arrays)
    for argument, array in arrays.items():
        if jnp.ndim(array) != 2:
            raise ValueError(f"{name}: {argument} has shape {jnp.shape(array)}, expected [B, D]")
    return [units(a, (1,)) for a in entries(name, where, weights, axis=-1, **arrays)]


def _cosines(a: jax.Array, b: jax.Array) -> jax.Array:
    # Half-precision matrix units would round the operands and undo the float32 arithmetic promised.
    return jax.lax.dot_general(a, b, (((1,), (1,)), ((), ())), precision=jax.lax.Precision.HIGHEST)


def _log_sum_exp(logits: jax.Array) -> jax.Array:
    """log Σ exp over the last axis; −∞ with gradient 0 for a row that is −∞ throughout."""
    shifted, top = below_top(logits, -1)
    return jnp.log(jnp.sum(jnp.exp(shifted), axis=-1)) + top[..., 0]


def _kept(where: Any, weights: Any, rows: int) -> jax.Array:
    keep = counted(where, weights)
    return jnp.ones(rows, bool) if keep is None else keep


def info_nce(
    queries: jax.typing.ArrayLike,
    keys: jax.typing.ArrayLike,
    *,
    temperature: jax.typing.ArrayLike = 0.07,
    symmetric: bool = True,
    axis_name: Any = None,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Contrastive loss of two towers: each query must find its own key among all keys.

    ::

        sᵢⱼ = cos(qᵢ, kⱼ) / τ
        ℓᵢ = log Σⱼ exp(sᵢⱼ) − sᵢᵢ                         symmetric=False
        ℓᵢ = ½·(log Σⱼ exp(sᵢⱼ) + log Σⱼ exp(sⱼᵢ)) − sᵢᵢ    symmetric=True, as in CLIP

    ``queries`` and ``keys`` are ``[B, D]``, ℓ is ``[B]``; ``temperature`` τ > 0 is a number and may be learned. Inside
    ``jax.shard_map`` ``axis_name`` names the mesh axes whose devices each hold B rows: all of them serve as
    negatives, and ℓ and its reduction are those of the device's own rows. Sources: van den Oord et al.,
    arXiv:1807.03748; Radford et al., arXiv:2103.00020.
    """
    name = "info_nce"
    checks.between(name, "temperature", temperature, 0, math.inf, open_low=True)
    q, k = _matrix(name, where, weights, queries=queries, keys=keys)
    keep = _kept(where, weights, q.shape[0])
    first: Any = 0
    all_q, all_k = q, k
    if axis_name is not None:
        first = q.shape[0] * jax.lax.axis_index(axis_name)
        all_q, all_k, keep = (jax.lax.all_gather(a, axis_name, tiled=True) for a in (q, k, keep))

    def towers(q, k, all_q, all_k, keep, temperature):
        similarities = _cosines(q, all_k)
        losses = _own_column(similarities / temperature, keep, first)
        if symmetric:
            back = similarities.T if axis_name is None else _cosines(k, all_q)
            losses = 0.5 * (losses + _own_column(back / temperature, keep, first))
        return losses

    losses = chosen_by_compiler(towers, leading(q, 1), q, k, all_q, all_k, keep, temperature)
    return reduced(name, losses, where, weights, reduction)


def _own_column(logits: jax.Array, keep: jax.Array, first: Any) -> jax.Array:
    """Cross-entropy of each row for the class ``first`` + its own index, among the columns kept."""
    labels = first + jnp.arange(logits.shape[0], dtype=jnp.int32)
    logits = jnp.where(keep[None, :], logits, -jnp.inf)
    return negative_log_likelihood(logits, labels, None, 0, 0, None, None)


def siglip_loss(
    images: jax.typing.ArrayLike,
    texts: jax.typing.ArrayLike,
    *,
    temperature: jax.typing.ArrayLike,
    bias: jax.typing.ArrayLike,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Contrastive loss of two towers that judges every pair on its own, with no softmax over the batch.

    ::

        ℓᵢ = −Σⱼ log σ(zᵢⱼ·(t·cos(xᵢ, yⱼ) + b))        zᵢⱼ = 1 if i = j else −1

    ``images`` x and ``texts`` y are ``[B, D]``, ℓ is ``[B]``. ``temperature`` t *multiplies*, as in the source (learn
    its logarithm, from log 10), ``bias`` b starts at −10. Source: Zhai et al., "Sigmoid Loss for Language Image
    Pre-Training", arXiv:2303.15343.
    """
    name = "siglip_loss"
    x, y = _matrix(name, where, weights, images=images, texts=texts)

    def towers(x, y, keep, temperature, bias):
        logits = temperature * _cosines(x, y) + bias
        pairs = jax.nn.softplus(jnp.where(jnp.eye(x.shape[0], dtype=bool), -logits, logits))
        return jnp.sum(jnp.where(keep[None, :], pairs, 0), axis=-1)

    keep = _kept(where, weights, x.shape[0])
    losses = chosen_by_compiler(towers, leading(x, 1), x, y, keep, temperature, bias)
    return reduced(name, losses, where, weights, reduction)


def ntxent(
    embeddings: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    temperature: jax.typing.ArrayLike = 0.07,
    *,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Normalised temperature-scaled cross-entropy: rows of one label attract, all other rows repel.

    ::

        sᵢⱼ = cos(eᵢ, eⱼ) / τ
        nᵢ = log Σ exp(sᵢₖ)                     over the rows k of other labels
        ℓᵢ = Σ log(1 + exp(nᵢ − sᵢⱼ))           over the rows j ≠ i of i's label; 0 if there is none

    ``embeddings`` are ``[B, D]``, ``labels`` integers ``[B]`` (any; equal ones belong together), ℓ is ``[B]``.
    ``"mean"`` divides by the number of positive pairs (i, j), which is optax's result. Source: Chen et al., "A
    Simple Framework for Contrastive Learning of Visual Representations", arXiv:2002.05709.
    """
    name = "ntxent"
    checks.integer(name, labels=labels)
    checks.between(name, "temperature", temperature, 0, math.inf, open_low=True)
    (e,) = _matrix(name, where, weights, embeddings=embeddings)
    checks.shape(name, "labels", labels, e.shape[:1])

    def rows(e, labels, keep, temperature):
        same = labels[:, None] == labels[None, :]
        positive = same & keep[None, :] & ~jnp.eye(e.shape[0], dtype=bool)
        logits = _cosines(e, e) / temperature
        repulsion = _log_sum_exp(jnp.where(~same & keep[None, :], logits, -jnp.inf))
        pairs = jax.nn.softplus(repulsion[:, None] - logits)
        losses = jnp.sum(jnp.where(positive, pairs, 0), axis=-1)
        return losses, jnp.sum(positive, axis=-1).astype(losses.dtype)

    keep, own = _kept(where, weights, e.shape[0]), leading(e, 1)
    losses, count = chosen_by_compiler(rows, (own, own), e, jnp.asarray(labels), keep, temperature)
    return reduced(name, losses, where, weights, reduction, denominator=count)


def triplet_margin_loss(
    anchors: jax.typing.ArrayLike,
    positives: jax.typing.ArrayLike,
    negatives: jax.typing.ArrayLike,
    axis: int = -1,
    norm_degree: jax.typing.ArrayLike = 2,
    margin: jax.typing.ArrayLike = 1.0,
    eps: jax.typing.ArrayLike = 1e-6,
    *,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """An anchor must be nearer to its positive than to its negative, by a margin.

    ::

        d(x, y) = (Σ |x − y|ⁿ + ε)^(1/n)        n = norm_degree ≥ 1
        ℓ = max(0, d(a, p) − d(a, n) + margin)

    The three arrays have one shape ``[..., D]``, ℓ the shape without ``axis``. Source: Balntas et al., "Learning
    Shallow Convolutional Feature Descriptors with Triplet Losses", BMVC 2016.
    """
    name = "triplet_margin_loss"
    checks.floating(name, anchors=anchors, positives=positives, negatives=negatives)
    checks.between(name, "norm_degree", norm_degree, 1, math.inf, open_high=True)
    checks.between(name, "eps", eps, 0, math.inf)
    arrays: dict[str, Any] = {"anchors": anchors, "positives": positives, "negatives": negatives}
    a, p, n = entries(name, where, weights, axis=axis, **arrays)
    near, far = _distance(a - p, axis, norm_degree, eps), _distance(a - n, axis, norm_degree, eps)
    return reduced(name, jnp.maximum(near - far + margin, 0), where, weights, reduction)


def _distance(difference: jax.Array, axis: int, degree: Any, eps: Any) -> jax.Array:
    # The plain square for degree 2, as |x| has no second derivative at 0; not jnp.abs, whose first is 1 there.
    euclidean = isinstance(degree, (int, float)) and degree == 2
    powers = difference * difference if euclidean else jnp.maximum(difference, -difference) ** degree
    total = jnp.sum(powers, axis=axis) + eps
    apart = total > 0
    total = jnp.where(apart, total, 1)
    return jnp.where(apart, jnp.sqrt(total) if euclidean else total ** (1 / degree), 0)
