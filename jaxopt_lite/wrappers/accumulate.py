"""Gradient accumulation: one step of the optimizer with the mean of several micro-batches' gradients."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_lite import tree
from jaxopt_lite.batches import check_count
from jaxopt_lite.transformation import transformation
from jaxopt_lite.types import Array, OptState, Updates
from jaxopt_lite.wrappers import inner as within


class AccumulateState(NamedTuple):
    """How far the window and the training are, the sum so far, and the state of the inner transformation."""

    mini_step: Array  # [] int32, gradients in the window; 0 right after a real step
    gradient_step: Array  # [] int32, real steps
    inner_opt_state: OptState
    acc_grads: Updates  # like params, float32 for 16-bit ones


@transformation
def accumulate(tx, steps: int | Callable[[Array], Any]):
    """Call ``tx`` once in ``steps`` updates, with the mean of their gradients; the other updates are zero.

    ```
    Gₜ = gₜ at the first of a window, else Gₜ₋₁ + gₜ
    uₜ = tx's update for Gₜ / steps at the last of it, else 0
    ```

    For a loss that is a mean over equally many examples this is, up to float32 rounding, the step with one batch
    ``steps`` times as large. Sums are float32 for 16-bit gradients, and the mean reaches ``tx`` unrounded. Only
    at the last of a window is ``tx`` run and its state touched (weight decay, schedules, averages wait too). A
    NaN spoils its own window only; ``skip_nonfinite(accumulate(tx, steps))`` drops that one micro-gradient.

    To split one batch inside the compiled step instead, see ``make_step(..., accumulate=...)``.

    Args:
      tx: any optax-protocol transformation. It gets the extra arguments of the window's last update.
      steps: ≥ 1, or a function of the number of real steps so far (a batch size that grows).

    State: ``tx``'s and one float32 value per parameter. ``state.mini_step == 0`` says that a step was real.

    >>> import jaxopt_lite as jol
    >>> tx = accumulate(jol.sgd(1.0), steps=2)
    >>> params = jnp.array([10.0])
    >>> updates, state = tx.update(jnp.array([1.0]), tx.init(params), params)
    >>> updates.tolist()
    [0.0]
    >>> updates, state = tx.update(jnp.array([3.0]), state, params)
    >>> updates.tolist()
    [-2.0]
    """
    if not callable(steps):
        check_count("accumulate", "steps", steps)
    inner = within.adopt("accumulate", tx)

    def init(params):
        params = within.arrays(params)
        return AccumulateState(
            jnp.zeros([], jnp.int32), jnp.zeros([], jnp.int32), inner.init(params), tree.zeros(params)
        )

    def update(updates, state, params=None, **extra):
        seen = optax.safe_increment(state.mini_step)
        last = seen >= (steps(state.gradient_step) if callable(steps) else steps)
        total = jax.tree.map(
            lambda g, a: a if g is None else _add(state.mini_step == 0, a, g),
            updates,
            state.acc_grads,
            is_leaf=tree.is_none,
        )
        dtypes = within.update_dtypes(inner, updates, state.inner_opt_state, params, extra)

        def real():
            mean = lambda g, a: None if g is None else a / seen.astype(a.real.dtype)
            means = jax.tree.map(mean, updates, total, is_leaf=tree.is_none)
            new, inner_state = inner.update(means, state.inner_opt_state, params, **extra)
            return within.cast_leaves(new, dtypes), inner_state

        waiting = lambda: (within.zero_leaves(updates, dtypes), state.inner_opt_state)
        new, inner_state = within.branch(last, real, waiting)
        step = jnp.where(last, optax.safe_increment(state.gradient_step), state.gradient_step)
        return new, AccumulateState(jnp.where(last, 0, seen), step, inner_state, total)

    return optax.GradientTransformationExtraArgs(init, update)


@jax.jit
def _add(first: Array, total: Array, g: Array) -> Array:
    """g at the first of a window, whatever the last one left (NaN too); else total + g."""
    g = g.astype(total.dtype)
    return jnp.where(first, g, total + g)
