"""Schedule-Free: averaging of the iterates in place of a decreasing learning rate, around any optimizer.

[1] Defazio et al., "The Road Less Scheduled", NeurIPS 2024, arXiv:2405.15682, eqs. 2–4 and Alg. 1.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_lite import checks
from jaxopt_lite.optimizers import moments
from jaxopt_lite.optimizers.adam import ScaleByAdamState
from jaxopt_lite.optimizers.scale import ScaleByScheduleState, value_at
from jaxopt_lite.transformation import transformation
from jaxopt_lite.tree import is_none, moment_dtype
from jaxopt_lite.types import Array, Params, Scalar, ScalarOrSchedule


class ScheduleFreeState(NamedTuple):
    """What the averages need, the state of the inner optimizer, and the sequence it moves."""

    b1: Array  # [] float32 (float64 beside float64 parameters)
    weight_sum: Array  # [] like b1
    step_count: Array  # [] int32, from 1
    max_lr: Array  # [] like b1
    base_optimizer_state: Any
    z: Params  # like params, float32 for 16-bit ones


@transformation
def schedule_free(tx, learning_rate: ScalarOrSchedule, b1: Scalar = 0.9, weight_lr_power: Scalar = 2.0):
    """Schedule-Free learning [1] around ``tx``, which should have no momentum of its own.

    The parameters that you train, and take gradients at, are y. Evaluate with x, from
    ``schedule_free_eval_params(state, params)``.

    ```
    zₜ₊₁ = zₜ + tx's update for the gradient at yₜ
    wₜ   = (largest η so far)^r,  cₜ = wₜ / (w₁ + … + wₜ)
    xₜ₊₁ = (1 − cₜ)·xₜ + cₜ·zₜ₊₁
    yₜ₊₁ = (1 − β)·zₜ₊₁ + β·xₜ₊₁
    ```

    x is not stored: with dₜ = zₜ₊₁ − zₜ the update is uₜ = cₜ·(zₜ₊₁ − yₜ) + (1 − cₜ)·(1 − β)·dₜ.

    Args:
      tx: any transformation, with the same learning rate.
      learning_rate: η, a float, a 0-d array or a schedule (read at 1, 2, …): a constant one or one with warm-up.
      b1: β in (0, 1]. With 0 the gradients would be taken at z, and x could not be recovered.
      weight_lr_power: r; 0 weighs all steps alike.

    >>> import jaxopt_lite as jol
    >>> tx = schedule_free(jol.sgd(0.5), 0.5)
    >>> params = jnp.array([1.0])
    >>> updates, state = tx.update(jnp.array([1.0]), tx.init(params), params)
    >>> schedule_free_eval_params(state, jol.apply_updates(params, updates)).tolist()
    [0.5]
    """
    checks.between("schedule_free", "b1", b1, 0, 1, open_low=True)
    inner = optax.with_extra_args_support(tx)

    def init(params):
        z = jax.tree.map(lambda p: moments.own_copy(p, moment_dtype(p)), params)
        dtype = moments.scalar_dtype(params)
        return ScheduleFreeState(
            b1=jnp.array(b1, dtype, copy=True),
            weight_sum=jnp.zeros([], dtype),
            step_count=jnp.ones([], jnp.int32),
            max_lr=jnp.zeros([], dtype),
            base_optimizer_state=inner.init(params),
            z=z,
        )

    def update(updates, state, params=None, **extra):
        checks.require_params("schedule_free", params)
        rate = jnp.asarray(value_at(learning_rate, state.step_count + 1), state.max_lr.dtype)
        top = jnp.maximum(state.max_lr, rate)
        weight = top**weight_lr_power
        total = state.weight_sum + weight
        c = weight / jnp.where(total > 0, total, 1)
        d, inner_state = inner.update(updates, state.base_optimizer_state, params, **extra)
        same_d = _once_more(inner, d, updates, state, params, extra)
        leaves, treedef = jax.tree.flatten(d, is_leaf=is_none)
        columns = [treedef.flatten_up_to(x) for x in (same_d, params, state.z)]
        rows = zip(leaves, *columns, strict=True)
        new = [(None, row[-1]) if row[0] is None else _move(*row, c, (1 - c) * (1 - b1)) for row in rows]
        u, z = (treedef.unflatten([row[k] for row in new]) for k in range(2))
        count = optax.safe_increment(state.step_count)
        return u, ScheduleFreeState(state.b1, total, count, top, inner_state, z)

    return optax.GradientTransformationExtraArgs(init, update)


def _once_more(inner, d, updates, state, params, extra):
    """``d``, computed a second time where that is cheaper than to store it: from Adam's moments.

    XLA stores a root or a quotient that is used twice: one more array of the parameters' size. It must not see
    that both are equal, so for all it knows the step counts may differ.
    """
    if not _is_adams(state.base_optimizer_state):
        return d
    disguised = lambda x: jnp.where(state.step_count < 0, 0, x) if jnp.ndim(x) == 0 else x
    return inner.update(updates, jax.tree.map(disguised, state.base_optimizer_state), params, **extra)[0]


def _is_adams(state: Any) -> bool:
    """Whether this is the state of a chain of one of the Adams and stages without slots."""
    kinds = {type(part) for part in jax.tree.leaves(state, is_leaf=lambda x: hasattr(x, "_fields"))}
    return ScaleByAdamState in kinds <= {ScaleByAdamState, ScaleByScheduleState, optax.EmptyState}


@jax.jit
def _move(d, same_d, y, z, c, rest):
    """The update of one leaf and its new z; from the new z alone, so that it replaces the old one in place."""
    z = z + d.astype(z.dtype)
    return (c * (z - y.astype(z.dtype)) + rest * same_d.astype(z.dtype)).astype(d.dtype), z


def schedule_free_eval_params(state: Any, params: Params) -> Params:
    """x = (y − (1 − β)·z) / β, the parameters to evaluate with, from the trained ones y.

    ``state`` is that of ``schedule_free``, or of a chain with one in it; else ``ValueError``.
    """
    is_ours = lambda x: isinstance(x, ScheduleFreeState)
    found = [x for x in jax.tree.leaves(state, is_leaf=is_ours) if is_ours(x)]
    if len(found) != 1:
        raise ValueError(
            f"schedule_free_eval_params: state holds {len(found)} ScheduleFreeState, expected one"
        )
    b1 = found[0].b1
    average = lambda y, z: ((y.astype(z.dtype) - (1 - b1) * z) / b1).astype(y.dtype)
    return jax.tree.map(average, params, found[0].z)
