"""Moving average of the parameters, to evaluate with.

[1] Polyak, Juditsky, "Acceleration of Stochastic Approximation by Averaging", SIAM J. Control Optim. 1992.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_lite import checks
from jaxopt_lite.compose import apply_updates
from jaxopt_lite.optimizers.moments import own_copy
from jaxopt_lite.optimizers.scale import value_at
from jaxopt_lite.transformation import transformation
from jaxopt_lite.tree import moment_dtype
from jaxopt_lite.types import Array, OptState, Params, ScalarOrSchedule
from jaxopt_lite.wrappers import inner as within


class EmaParamsState(NamedTuple):
    """Step count, the average, and the state of the inner transformation."""

    count: Array  # [] int32
    ema_params: Params  # like params, float32 for 16-bit ones
    inner_state: OptState


@transformation
def ema_params(tx, decay: ScalarOrSchedule):
    """``tx``, with an exponential moving average of the parameters [1] beside it; see ``ema_values``.

    ```
    e₀ = p₀
    eₜ = d·eₜ₋₁ + (1 − d)·pₜ,   pₜ = pₜ₋₁ + uₜ
    ```

    The updates are ``tx``'s own. The average is float32 for 16-bit parameters: in bfloat16, d = 0.999 would never
    move it. Put it around the whole optimizer, so that pₜ is what ``apply_updates`` gives, and inside
    ``accumulate``: ``accumulate(ema_params(adamw(1e-3), 0.999), 8)`` averages once per real step.

    Args:
      tx: any optax-protocol transformation.
      decay: d in [0, 1], a float, a 0-d array or a schedule of the step, which counts from 0; for instance
        ``lambda step: jnp.minimum(0.9999, (1 + step) / (10 + step))``.

    State: ``tx``'s and one float32 value per parameter. ``update`` needs ``params``.

    >>> import jaxopt_lite as jol
    >>> tx = ema_params(jol.sgd(1.0), decay=0.75)
    >>> params = jnp.array([4.0])
    >>> updates, state = tx.update(jnp.array([4.0]), tx.init(params), params)
    >>> jol.apply_updates(params, updates).tolist(), ema_values(state).tolist()
    ([0.0], [3.0])
    """
    checks.between("ema_params", "decay", decay, 0, 1)
    inner = within.adopt("ema_params", tx)

    def init(params):
        params = within.arrays(params)
        average = jax.tree.map(lambda p: own_copy(p, moment_dtype(p)), params)
        return EmaParamsState(jnp.zeros([], jnp.int32), average, inner.init(params))

    def update(updates, state, params=None, **extra):
        checks.require_params("ema_params", params)
        updates, inner_state = inner.update(updates, state.inner_state, params, **extra)
        count = optax.safe_increment(state.count)
        rate = 1 - value_at(decay, count)
        moved = apply_updates(params, updates)
        average = jax.tree.map(lambda e, p: _move(e, p, rate), state.ema_params, moved)
        return updates, EmaParamsState(count, average, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


@jax.jit
def _move(e: Array, p: Array, rate: Any) -> Array:
    """e + (1 − d)·(p − e): where p is e, e stays to the bit."""
    return e + jnp.asarray(rate, e.real.dtype) * (jnp.asarray(p).astype(e.dtype) - e)


def ema_values(state: OptState, *, like: Params | None = None) -> Params:
    """The averaged parameters, from the state of ``ema_params`` or of a chain with one in it.

    Args:
      state: raises ``ValueError`` unless exactly one average is in it.
      like: a tree of arrays, such as the parameters, whose dtypes the result takes; by default it is as stored,
        float32 for 16-bit parameters.
    """
    values = within.find_state("ema_values", state, EmaParamsState).ema_params
    return values if like is None else jax.tree.map(lambda e, p: e.astype(p.dtype), values, like)
