"""Stochastic gradient descent, with heavy-ball or Nesterov momentum.

[1] Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML 2013.
"""

from typing import Any, NamedTuple

from jaxopt_lite import checks
from jaxopt_lite.compose import chain
from jaxopt_lite.optimizers import moments
from jaxopt_lite.optimizers.scale import scale_by_learning_rate
from jaxopt_lite.transformation import elementwise, transformation
from jaxopt_lite.types import Params, Scalar, ScalarOrSchedule


class TraceState(NamedTuple):
    """The decayed sum of past gradients."""

    trace: Params  # like params, float32 for 16-bit ones


@transformation
def trace(decay: Scalar, nesterov: bool = False, accumulator_dtype: Any = None):
    """Momentum: a decayed sum (not an average) of past gradients.

    ```
    mₜ = β·mₜ₋₁ + gₜ
    uₜ = mₜ            (nesterov: gₜ + β·mₜ)
    ```

    Args:
      decay: β in [0, 1].
      nesterov: look ahead by one step of momentum.
      accumulator_dtype: how real leaves' m is stored; by default float32 for 16-bit parameters.
    """
    checks.between("trace", "decay", decay, 0, 1)

    def rule(g, p, s, m):
        m = decay * m + g
        return (g + decay * m if nesterov else m), m

    return elementwise(rule, TraceState, init=lambda leaf: (moments.first_moment(leaf, accumulator_dtype),))


@transformation
def sgd(learning_rate: ScalarOrSchedule, momentum: Scalar | None = None, nesterov: bool = False):
    """Stochastic gradient descent [1].

    ```
    uₜ = −η · gₜ                    without momentum
    mₜ = β·mₜ₋₁ + gₜ
    uₜ = −η · mₜ                    (nesterov: −η·(gₜ + β·mₜ))
    ```

    Args:
      learning_rate: η, a float, a 0-d array or a schedule.
      momentum: β in [0, 1], or ``None`` for none (and no state).
      nesterov: look ahead by one step of momentum.

    >>> import jax.numpy as jnp
    >>> tx = sgd(0.1)
    >>> updates, _ = tx.update({"w": jnp.array([1.0, -2.0])}, tx.init({"w": jnp.zeros(2)}))
    >>> [round(u, 6) for u in updates["w"].tolist()]
    [-0.1, 0.2]
    """
    step = scale_by_learning_rate(learning_rate)
    return step if momentum is None else chain(trace(momentum, nesterov), step)
