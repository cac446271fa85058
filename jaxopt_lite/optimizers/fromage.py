"""Fromage: every layer turns by the same angle, and keeps its norm in check.

[1] Bernstein, Vahdat, Yue, Liu, "On the distance between two neural networks and the stability of learning",
    NeurIPS 2020, arXiv:2002.03432, Alg. 1.
"""

import jax.numpy as jnp

from jaxopt_lite.compose import chain
from jaxopt_lite.optimizers.lars import scale_by_trust_ratio
from jaxopt_lite.optimizers.scale import add_decayed_weights, scale_by_learning_rate
from jaxopt_lite.transformation import transformation
from jaxopt_lite.types import Scalar, ScalarOrSchedule


@transformation
def fromage(learning_rate: ScalarOrSchedule, min_norm: Scalar = 1e-6):
    """Fromage [1].

    ```
    c  = 1 / √(1 + η²)
    uₜ = −η·c · gₜ · max(‖pₜ‖, min_norm) / max(‖gₜ‖, min_norm) + (c − 1)·pₜ       for each leaf
    ```

    It moves every leaf towards 0 by (1 − c)·pₜ, also where the gradient is 0, so it takes no weight decay.

    Args:
      learning_rate: η, a float, a 0-d array or a schedule.
      min_norm: ≥ 0; smaller norms count as this.

    No state.
    """
    if callable(learning_rate):
        rate = lambda step: _turn(jnp.asarray(learning_rate(step)))[0]
        shrink = lambda step: _turn(jnp.asarray(learning_rate(step)))[1]
    else:
        rate, shrink = _turn(learning_rate)
    return chain(scale_by_trust_ratio(min_norm), scale_by_learning_rate(rate), add_decayed_weights(shrink))


def _turn(rate):
    """η·c and c − 1, the latter without the cancellation that would make it 0 for small η."""
    root = (1 + rate * rate) ** 0.5
    return rate / root, -rate * rate / (root * (1 + root))
