"""AdaGrad: each coordinate's step shrinks with the sum of its squared gradients.

[1] Duchi, Hazan, Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization",
    JMLR 12, 2011, Fig. 1 (diagonal matrices).
"""

from typing import NamedTuple

import jax.numpy as jnp

from jaxopt_lite import checks
from jaxopt_lite.compose import chain
from jaxopt_lite.optimizers import moments
from jaxopt_lite.optimizers.scale import add_decayed_weights, scale_by_learning_rate
from jaxopt_lite.transformation import elementwise, transformation
from jaxopt_lite.types import Mask, Params, Scalar, ScalarOrSchedule


class ScaleByRssState(NamedTuple):
    """The sum of squared gradients."""

    sum_of_squares: Params  # like |params|; k²·v, see moments.second_moment


@transformation
def scale_by_rss(initial_accumulator_value: Scalar = 0.1, eps: Scalar = 1e-7):
    """AdaGrad's direction [1].

    ```
    vₜ = vₜ₋₁ + |gₜ|²                 (v₀ = initial_accumulator_value)
    uₜ = gₜ / √(vₜ + ε)               (0 where vₜ = 0)
    ```
    """
    moments.check_rates("scale_by_rss", decays={}, epsilons={"eps": eps})
    checks.between("scale_by_rss", "initial_accumulator_value", initial_accumulator_value, 0, 1e30)

    def rule(g, p, s, total):
        total = moments.second_moment(total, g, 1, 1)
        return jnp.where(total == 0, 0, g / moments.root_of(total, eps)), total

    init = lambda leaf: (moments.real_moment(leaf, initial_accumulator_value),)
    return elementwise(rule, ScaleByRssState, init=init)


@transformation
def adagrad(
    learning_rate: ScalarOrSchedule,
    initial_accumulator_value: Scalar = 0.1,
    eps: Scalar = 1e-7,
    *,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
):
    """AdaGrad [1] with decoupled weight decay.

    ```
    vₜ = vₜ₋₁ + |gₜ|²                 (v₀ = initial_accumulator_value)
    uₜ = −η · (gₜ / √(vₜ + ε) + λ·pₜ)
    ```

    # deviation from [1]: ε stands under the root and v₀ > 0, as in optax.

    Args:
      learning_rate: η, a float, a 0-d array or a schedule.
      initial_accumulator_value: v₀ ≥ 0.
      eps: ε ≥ 0.
      weight_decay: λ, a float, a 0-d array or a schedule.
      mask: where λ applies: a tree of bools like the parameters (or a prefix), or a function from parameters to one.

    State: one float32 value per parameter.
    """
    return chain(
        scale_by_rss(initial_accumulator_value, eps),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
