"""The mechanism that every loss shares: check shapes, hide masked entries, weigh, reduce.

A loss of ours reads::

    predictions, targets = entries("huber_loss", where, weights, predictions=predictions, targets=targets)
    losses = <the formula, in float32 or better>
    return reduced("huber_loss", losses, where, weights, reduction)

``entries`` replaces what a mask hides by 0 *before* the formula, so that a NaN there can reach neither the
value nor the gradient; ``reduced`` then sets those losses to exactly 0. A loss over classes, whose ``where``
may also be a mask of classes, first parts the two with ``split_mask``.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from numpy.lib.array_utils import normalize_axis_tuple

from jaxopt_lite import checks

Axis = int | tuple[int, ...] | None

REDUCTIONS = ("none", "mean", "sum")


def compute_dtype(*arrays: Any) -> jnp.dtype:
    """float32 for 16-bit inputs and integers, float64 as soon as one input is float64."""
    return jnp.result_type(jnp.float32, *(jnp.result_type(a) for a in arrays))


def axes_of(axis: Axis, ndim: int) -> tuple[int, ...]:
    """The axes that a loss sums over as non-negative numbers; ``None`` means all of them."""
    return tuple(range(ndim)) if axis is None else normalize_axis_tuple(axis, ndim, "axis")


def counted(where: Any, weights: Any) -> jax.Array | None:
    """Which entries count: those that ``where`` keeps and whose weight is not 0. ``None`` means all."""
    keep = None if where is None else jnp.asarray(where, bool)
    if weights is not None:
        heavy = jnp.asarray(weights) != 0
        keep = heavy if keep is None else keep & heavy
    return keep


def split_mask(name: str, where: Any, array: Any, axis: Axis) -> tuple[Any, jax.Array | None]:
    """Part ``where`` into a mask of the results and one of the classes, told apart by rank.

    A ``where`` of ``array``'s rank is a mask of classes: it must have ``array``'s shape, and a result counts
    when any of its classes is kept. Anything else is a mask of results and is returned as it came.
    """
    if where is None or jnp.ndim(where) != jnp.ndim(array):
        return where, None
    check_mask(name, where, None, jnp.shape(array))
    return jnp.any(where, axis=axes_of(axis, jnp.ndim(array))), jnp.asarray(where)


def entries(
    name: str,
    where: Any,
    weights: Any,
    *,
    axis: Axis = (),
    classes: jax.Array | None = None,
    fill: float = 0.0,
    **arrays: Any,
) -> list[jax.Array]:
    """Arrays of one shape in the compute dtype, with ``fill`` wherever the mask or a zero weight hides them.

    ``axis`` names the axes that the loss sums over (the class axis, say); ``where`` and ``weights`` have the
    shape of the arrays without them, ``classes`` (a mask of single classes) the shape of the arrays.
    """
    checks.same_shape(name, **arrays)
    shape = jnp.shape(next(iter(arrays.values())))
    axes = axes_of(axis, len(shape))
    check_mask(name, where, weights, tuple(n for a, n in enumerate(shape) if a not in axes))
    keep = counted(where, weights)
    dtype = compute_dtype(*arrays.values())
    values = [jnp.asarray(a).astype(dtype) for a in arrays.values()]
    if keep is not None:
        keep = jnp.expand_dims(keep, axes)
    if classes is not None:
        keep = classes if keep is None else classes & keep
    if keep is None:
        return values
    return [jnp.where(keep, v, jnp.asarray(fill, dtype)) for v in values]


def check_mask(name: str, where: Any, weights: Any, expected: tuple[int, ...]) -> None:
    """Raise unless ``where`` is boolean, ``weights`` real, and both have the shape of the unreduced loss."""
    if where is not None:
        if jnp.result_type(where) != jnp.bool_:
            raise TypeError(f"{name}: where has dtype {jnp.result_type(where)}, expected bool")
        checks.shape(name, "where", where, expected)
    if weights is not None:
        if not jnp.issubdtype(jnp.result_type(weights), jnp.floating):
            raise TypeError(
                f"{name}: weights has dtype {jnp.result_type(weights)}, expected a floating dtype"
            )
        checks.shape(name, "weights", weights, expected)


def option(name: str, argument: str, value: Any, expected: tuple[int, ...], dtype: Any) -> Any:
    """``value`` as it came when it is a number, else as an array that must have the shape ``expected``."""
    if jnp.ndim(value) == 0:
        return value if isinstance(value, (int, float)) else jnp.asarray(value).astype(dtype)
    checks.shape(name, argument, value, expected)
    return jnp.asarray(value).astype(dtype)


def _hidden(a: Any, b: Any) -> jax.Array:
    return (a == 0) & jnp.isinf(b)


@jax.custom_jvp
def product(a: Any, b: Any) -> jax.Array:
    """a·b with 0·(±∞) = 0, as in 0·log 0 = 0; there the derivative to either factor is 0 too.

    >>> product(jnp.array([0.0, 0.5]), jnp.array([-jnp.inf, 3.0])).tolist()
    [0.0, 1.5]
    """
    return jnp.where(_hidden(a, b), 0, a * b)


@functools.partial(product.defjvp, symbolic_zeros=True)
def _product_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    # A factor that is not differentiated must not bring 0·∞ back, nor the select that would avoid it.
    (a, b), (da, db) = primals, tangents
    value = product(a, b)
    tangent = jnp.zeros_like(value)
    if not isinstance(db, SymbolicZero):
        tangent += a * db
    if not isinstance(da, SymbolicZero):
        tangent += jnp.where(_hidden(a, b), 0, b) * da
    return value, tangent


def reduced(
    name: str, losses: Any, where: Any, weights: Any, reduction: str, *, denominator: Any = None
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
    return jnp.where(size == 0, 0, total / jnp.where(size == 0, 1, size))
