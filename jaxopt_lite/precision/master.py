"""16-bit parameters with the digits that they lose kept beside them: Kahan summation and master weights.

[1] Zamirai, Zhang, Aberger, De Sa, "Revisiting BFloat16 Training", 2020, arXiv:2010.06192, Alg. 3 (Kahan).
[2] Gonzalez Ortiz, Gupta, Rinard, Renzella, "FlashOptim", 2026, arXiv:2602.23349, Sec. 3 (the correction's form).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_lite import checks, tree
from jaxopt_lite.compose import _require_transformation
from jaxopt_lite.precision.rounding import is_16_bit, nearest, spacing, step_onto, widened
from jaxopt_lite.transformation import transformation
from jaxopt_lite.types import Array, OptState, Params

CORRECTIONS = ("float32", "int8", "int16")


class CorrectionState(NamedTuple):
    """What each 16-bit parameter lacks of its exact value, and the wrapped transformation's state."""

    correction: (
        Params  # float32, or int16 or int8 in fractions of half the parameter's spacing; None elsewhere
    )
    inner: OptState


@transformation
def kahan(tx):
    """16-bit parameters that do not stall: what rounding cuts off is kept and added to the next update [1].

    ```
    yₜ = uₜ + cₜ
    pₜ₊₁ = round(pₜ + yₜ)
    cₜ₊₁ = (pₜ + yₜ) − pₜ₊₁
    ```

    c takes 2 bytes a parameter: an int16 in steps of 2⁻¹⁶ of the distance between neighbouring parameters, taken in
    float32 in between. (In bfloat16 c has steps of up to 2⁻⁹ of it, and many small updates add up wrongly.) ``tx`` sees
    the 16-bit values of the parameters, as float32; ``master_weights`` shows it p + c. The update that comes out is
    float32, and ``optax.apply_updates`` lands on pₜ₊₁ exactly. Leaves of other dtypes take ``tx``'s update as it is.

    Raises ``ValueError`` when ``update`` is called without ``params``.

    >>> import jaxopt_lite as jol
    >>> tx = kahan(jol.sgd(1.0))
    >>> params = jnp.ones(1, jnp.bfloat16)
    >>> state = tx.init(params)
    >>> for _ in range(8):  # each an eighth of the spacing, 1/128
    ...     updates, state = tx.update(jnp.full_like(params, -1 / 1024), state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> float(params[0]) == 1 + 1 / 128
    True
    """
    _require_transformation("kahan: tx", tx)
    return _corrected("kahan", tx, "int16", shown=False)


@transformation
def master_weights(tx, correction: str = "float32"):
    """``tx`` works on float32 parameters of which the 16-bit ones are the rounded values.

    ```
    wₜ = pₜ + cₜ
    pₜ₊₁ = round(wₜ + uₜ(wₜ))
    cₜ₊₁ = (wₜ + uₜ) − pₜ₊₁
    ```

    Only c is kept, not w: float32 makes w exactly the float32 trajectory (4 bytes a parameter); int16 gives w 16 more
    bits than p (2 bytes), int8 8 more (1 byte), as round(2ᵏ⁻¹−1 · c / half the distance between p's neighbours) [2].
    With int8 an update below 1/500 of that distance is lost. Parameters that are changed from outside keep their c.
    The update that comes out is float32, and ``optax.apply_updates`` lands on pₜ₊₁ exactly. Leaves of other dtypes take
    ``tx``'s update as it is and have no c.

    Args:
      tx: any optax-protocol transformation whose updates are to be added to the parameters.
      correction: how c is stored, ``"float32"``, ``"int16"`` or ``"int8"``.

    Raises ``ValueError`` for another ``correction``, or when ``update`` is called without ``params``.
    """
    _require_transformation("master_weights: tx", tx)
    checks.one_of("master_weights", "correction", correction, CORRECTIONS)
    return _corrected("master_weights", tx, correction, shown=True)


def _corrected(name: str, tx: Any, kind: str, shown: bool) -> optax.GradientTransformationExtraArgs:
    """The wrapper; ``shown`` says whether ``tx`` sees the corrected parameters or the 16-bit ones."""
    inner = optax.with_extra_args_support(tx)
    dtype = jnp.dtype(kind)

    def init(params):
        zeros = lambda p: jnp.zeros_like(p, dtype) if is_16_bit(p) else None
        return CorrectionState(jax.tree.map(zeros, params), inner.init(widened(params)))

    def update(updates, state, params=None, **extra):
        checks.require_params(name, params)
        exact = jax.tree.map(lambda p, c: _exact(p, c) if is_16_bit(p) else p, params, state.correction)
        seen = exact if shown else widened(params)
        updates, new = inner.update(widened(updates), state.inner, seen, **extra)
        leaves, treedef = jax.tree.flatten(updates, is_leaf=tree.is_none)
        columns = (treedef.flatten_up_to(x) for x in (params, exact, state.correction))
        rows = [_moved(u, *row) for u, *row in zip(leaves, *columns, strict=True)]
        moved, corrections = ([row[k] for row in rows] for k in range(2))
        return treedef.unflatten(moved), CorrectionState(treedef.unflatten(corrections), new)

    return optax.GradientTransformationExtraArgs(init, update)


def _moved(u: Any, p: Any, exact: Any, correction: Any) -> tuple[Any, Any]:
    """The float32 update that lands on the rounded sum, and the new correction."""
    if u is None or not is_16_bit(p):
        return u, correction
    target = exact + u.astype(jnp.float32)
    step = step_onto(nearest(p.dtype, target), p)
    landed = nearest(p.dtype, p.astype(jnp.float32) + step)
    return step, _stored(target, landed, p.dtype, correction.dtype)


def _exact(p: Array, correction: Array) -> Array:
    """p + c in float32."""
    wide = p.astype(jnp.float32)
    if correction.dtype == jnp.float32:
        return wide + correction
    return wide + correction.astype(jnp.float32) * (_half(wide, p.dtype) / jnp.iinfo(correction.dtype).max)


def _stored(target: Array, landed: Array, of: Any, dtype: Any) -> Array:
    """target − landed as it is kept, with ``landed`` a number of dtype ``of``; 0 where that is not finite."""
    rest = jnp.where(jnp.isfinite(landed) & jnp.isfinite(target), target - landed, 0)
    if dtype == jnp.float32:
        return rest
    top = jnp.iinfo(dtype).max
    return jnp.clip(jnp.round(rest / _half(landed, of) * top), -top, top).astype(dtype)


def _half(x: Array, dtype: Any) -> Array:
    """Half the distance between neighbours at x, for finite x."""
    return spacing(dtype, jnp.where(jnp.isfinite(x), x, 0)) / 2
