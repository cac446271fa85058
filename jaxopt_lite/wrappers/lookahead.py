"""Lookahead: fast weights explore, slow weights follow part of the way.

[1] Zhang, Lucas, Hinton, Ba, "Lookahead Optimizer: k steps forward, 1 step back", NeurIPS 2019,
    arXiv:1907.08610, Alg. 1.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_lite import checks
from jaxopt_lite.batches import check_count
from jaxopt_lite.optimizers.moments import own_copy
from jaxopt_lite.transformation import transformation
from jaxopt_lite.tree import is_none, moment_dtype
from jaxopt_lite.types import Array, OptState, Params, Scalar
from jaxopt_lite.wrappers import inner as within


class LookaheadState(NamedTuple):
    """The inner state, how long ago fast and slow weights last met, and the slow weights."""

    fast_state: OptState
    steps_since_sync: Array  # [] int32
    slow_params: Params  # like params, float32 for 16-bit ones


@transformation
def lookahead(tx, *, steps: int = 6, slow_rate: Scalar = 0.5):
    """Lookahead [1] around ``tx``.

    The parameters that you train are the fast weights θ; the slow ones φ are in the state.

    ```
    θ ← θ + tx's update
    every ``steps`` steps:  φ ← φ + α·(θ − φ),  θ ← φ
    ```

    Evaluate right after such a step, or with ``state.slow_params``. ``tx``'s own state goes on through it.
    optax's ``lookahead`` asks for a pair of parameter trees instead.

    Args:
      tx: any optax-protocol transformation, a whole optimizer.
      steps: k ≥ 1.
      slow_rate: α in [0, 1], a float or a 0-d array.

    State: ``tx``'s and one float32 value per parameter. ``update`` needs ``params``.

    >>> import jaxopt_lite as jol
    >>> tx = lookahead(jol.sgd(1.0), steps=2)
    >>> params = jnp.array([0.0])
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     updates, state = tx.update(jnp.array([1.0]), state, params)
    ...     params = jol.apply_updates(params, updates)
    >>> params.tolist()  # two steps forward, one back
    [-1.0]
    """
    check_count("lookahead", "steps", steps)
    checks.between("lookahead", "slow_rate", slow_rate, 0, 1)
    inner = within.adopt("lookahead", tx)

    def init(params):
        params = within.arrays(params)
        slow = jax.tree.map(lambda p: own_copy(p, moment_dtype(p)), params)
        return LookaheadState(inner.init(params), jnp.zeros([], jnp.int32), slow)

    def update(updates, state, params=None, **extra):
        checks.require_params("lookahead", params)
        updates, fast_state = inner.update(updates, state.fast_state, params, **extra)
        count = optax.safe_increment(state.steps_since_sync)
        meets = count >= steps
        meet = lambda: _meet(updates, params, state.slow_params, slow_rate)
        updates, slow = within.either(meets, meet, lambda: (updates, state.slow_params))
        return updates, LookaheadState(fast_state, jnp.where(meets, 0, count), slow)

    return optax.GradientTransformationExtraArgs(init, update)


def _meet(updates: Any, params: Params, slow: Params, rate: Scalar) -> tuple[Any, Params]:
    """The updates that lead to the new slow weights, and those."""
    leaves, treedef = jax.tree.flatten(updates, is_leaf=is_none)
    rows = zip(leaves, treedef.flatten_up_to(params), treedef.flatten_up_to(slow), strict=True)
    new = [(None, s) if u is None else _meet_leaf(u, p, s, rate) for u, p, s in rows]
    return treedef.unflatten([u for u, _ in new]), treedef.unflatten([s for _, s in new])


@jax.jit
def _meet_leaf(u: Array, p: Array, slow: Array, rate: Any) -> tuple[Array, Array]:
    p = jnp.asarray(p).astype(slow.dtype)
    slow = slow + jnp.asarray(rate, slow.real.dtype) * (p + u.astype(slow.dtype) - slow)
    return (slow - p).astype(u.dtype), slow
