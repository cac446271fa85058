"""The mechanism that every loss shares: check shapes, hide masked entries, weigh, reduce.

A loss of ours reads::

    predictions, targets = entries("huber_loss", where, weights, predictions=predictions, targets=targets)
    losses = <the formula, in float32 or better>
    return reduced("huber_loss", losses, where, weights, reduction)

``entries`` replaces what a mask hides by 0 *before* the formula, so that a NaN there can reach neither the
value nor the gradient; ``reduced`` then sets those losses to exactly 0.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_lite import checks

REDUCTIONS = ("none", "mean", "sum")


def compute_dtype(*arrays: Any) -> jnp.dtype:
    """float32 for 16-bit inputs and integers, float64 as soon as one input is float64."""
    return jnp.result_type(jnp.float32, *(jnp.result_type(a) for a in arrays))


def counted(where: Any, weights: Any) -> jax.Array | None:
    """Which entries count: those that ``where`` keeps and whose weight is not 0. ``None`` means all."""
    keep = None if where is None else jnp.asarray(where, bool)
    if weights is not None:
        heavy = jnp.asarray(weights) != 0
        keep = heavy if keep is None else keep & heavy
    return keep


def entries(
    name: str, where: Any, weights: Any, *, axis: int | tuple[int, ...] = (), fill: float = 0.0, **arrays: Any
) -> list[jax.Array]:
    """Arrays of one shape in the compute dtype, with ``fill`` wherever the mask or a zero weight hides them.

    ``axis`` names the axes that the loss sums over (the class axis, say); ``where`` and ``weights`` have the
    shape of the arrays without them.
    """
    checks.same_shape(name, **arrays)
    first = jnp.asarray(next(iter(arrays.values())))
    axes = tuple(a % first.ndim for a in ((axis,) if isinstance(axis, int) else axis))
    result = tuple(n for a, n in enumerate(first.shape) if a not in axes)
    check_mask(name, where, weights, result)
    keep = counted(where, weights)
    dtype = compute_dtype(*arrays.values())
    values = [jnp.asarray(a).astype(dtype) for a in arrays.values()]
    if keep is None:
        return values
    keep = jnp.expand_dims(keep, axes)
    return [jnp.where(keep, v, jnp.asarray(fill, dtype)) for v in values]


def check_mask(name: str, where: Any, weights: Any, expected: tuple[int, ...]) -> None:
    """Raise unless ``where`` is boolean, ``weights`` real, and both have the shape of the unreduced loss."""
    if where is not None:
        if jnp.result_type(where) != jnp.bool_:
            raise TypeError(f"{name}: where has dtype {jnp.result_type(where)}, expected bool")
        checks.shape(name, "where", where, expected)
    if weights is not None:
        if not jnp.issubdtype(jnp.result_type(weights), jnp.floating):
            raise TypeError(f"{name}: weights has dtype {jnp.result_type(weights)}, expected a floating dtype")
        checks.shape(name, "weights", weights, expected)


def reduced(
    name: str, losses: jax.Array, where: Any, weights: Any, reduction: str, *, denominator: Any = None
) -> jax.Array:
    """Weigh and reduce: ``none`` gives w·ℓ, ``sum`` Σ w·ℓ, ``mean`` Σ w·ℓ / Σ w (0 when nothing counts).

    ``denominator`` replaces each entry's 1 in Σ w·1 where a loss counts otherwise (class weights, ignored
    labels); it has the shape of ``losses``.
    """
    checks.one_of(name, "reduction", reduction, REDUCTIONS)
    check_mask(name, where, weights, losses.shape)
    keep = counted(where, weights)
    count = jnp.ones_like(losses) if denominator is None else jnp.asarray(denominator, losses.dtype)
    if weights is not None:
        weights = jnp.asarray(weights).astype(losses.dtype)
        losses, count = losses * weights, count * weights
    if keep is not None:
        losses, count = jnp.where(keep, losses, 0), jnp.where(keep, count, 0)
    if reduction == "none":
        return losses
    total = jnp.sum(losses)
    if reduction == "sum":
        return total
    size = jnp.sum(count)
    return jnp.where(size > 0, total / jnp.where(size > 0, size, 1), 0)
