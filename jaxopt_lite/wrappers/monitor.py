"""Norms of what an optimizer sees and does, kept in its state."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_lite import checks
from jaxopt_lite.optimizers.moments import after, scalar_dtype
from jaxopt_lite.transformation import transformation
from jaxopt_lite.types import Array, OptState
from jaxopt_lite.wrappers import inner as within


class MonitorState(NamedTuple):
    """The newest norms, [] float32 (float64 for float64 parameters), and the state of the inner transformation."""

    gradient_norm: Array
    update_norm: Array
    parameter_norm: Array
    ratio: Array
    inner_state: OptState


@transformation
def monitor(tx):
    """``tx``, with the norms of its last step in the state; read them with ``monitored(state)``.

    ```
    gradient_norm = ‖g‖,  update_norm = ‖u‖,  parameter_norm = ‖p‖,  ratio = ‖u‖ / ‖p‖
    ```

    over the whole tree, in float32, right from 1e-30 to 1e30; p is from before the step. A ratio near 1e-3 is
    usual. What it wraps decides what it sees: ``monitor(chain(clip_by_global_norm(1.0), adamw(1e-3)))`` has the
    gradient's norm before clipping.

    State: ``tx``'s and four numbers. ``update`` needs ``params``.

    >>> import jaxopt_lite as jol
    >>> tx = monitor(jol.sgd(0.1))
    >>> params = jnp.array([3.0, 4.0])
    >>> _, state = tx.update(10 * params, tx.init(params), params)
    >>> {name: round(value.item(), 3) for name, value in monitored(state).items()}
    {'gradient_norm': 50.0, 'update_norm': 5.0, 'parameter_norm': 5.0, 'ratio': 1.0}
    """
    inner = within.adopt("monitor", tx)

    def init(params):
        params = within.arrays(params)
        zero = lambda: jnp.zeros([], scalar_dtype(params))
        return MonitorState(zero(), zero(), zero(), zero(), inner.init(params))

    def update(updates, state, params=None, **extra):
        checks.require_params("monitor", params)
        new, inner_state = inner.update(updates, state.inner_state, params, **extra)
        dtype = state.ratio.dtype
        g, u, p = (within.norm(t).astype(dtype) for t in (updates, new, params))
        ratio = jnp.where(u == 0, 0, u / p)
        new = jax.tree.map(lambda x: after(x, p), new)  # or XLA copies the parameters that are to be donated
        return new, MonitorState(g, u, p, ratio, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def monitored(state: OptState) -> dict[str, Array]:
    """The norms of the last step by name, from ``monitor``'s state or that of a chain with one in it.

    The keys are ``gradient_norm``, ``update_norm``, ``parameter_norm`` and ``ratio``; all 0 before the first step.
    ``ValueError`` unless exactly one monitor is in the state.
    """
    found = within.find_state("monitored", state, MonitorState)
    return {name: getattr(found, name) for name in MonitorState._fields if name != "inner_state"}
