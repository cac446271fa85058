"""Yogi: Adam whose second moment moves by at most (1 − β₂)·g² a step, in either direction.

[1] Zaheer, Reddi, Sachan, Kale, Kumar, "Adaptive Methods for Nonconvex Optimization", NeurIPS 2018, Alg. 2.
"""

import jax.numpy as jnp

from jaxopt_lite import checks
from jaxopt_lite.compose import chain
from jaxopt_lite.optimizers import moments
from jaxopt_lite.optimizers.adam import ScaleByAdamState
from jaxopt_lite.optimizers.scale import add_decayed_weights, scale_by_learning_rate
from jaxopt_lite.transformation import elementwise, transformation
from jaxopt_lite.types import Mask, Scalar, ScalarOrSchedule


@transformation
def scale_by_yogi(
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-3,
    eps_root: Scalar = 0.0,
    initial_accumulator_value: Scalar = 1e-6,
):
    """Yogi's direction [1].

    ```
    mₜ = β₁·mₜ₋₁ + (1 − β₁)·gₜ        (m₀ = 0)
    vₜ = vₜ₋₁ − (1 − β₂)·sign(vₜ₋₁ − |gₜ|²)·|gₜ|²       (v₀ = initial_accumulator_value)
    uₜ = (mₜ / (1 − β₁ᵗ)) / (√(vₜ / (1 − β₂ᵗ) + ε_root) + ε)
    ```

    # deviation from [1]: bias corrections, as in optax. optax also starts m at ``initial_accumulator_value``; then
    # a parameter without gradient drifts, so m₀ = 0 here, as in [1].
    """
    moments.check_rates(
        "scale_by_yogi", decays={"b1": b1, "b2": b2}, epsilons={"eps": eps, "eps_root": eps_root}
    )
    checks.between("scale_by_yogi", "initial_accumulator_value", initial_accumulator_value, 0, 1e30)

    def scalars(t, updates):
        return 1 / moments.bias_correction(b1, t), 1 / moments.bias_correction(b2, t)

    def rule(g, p, s, mu, nu):
        first, second = s
        mu = moments.ema(mu, g, b1)
        square = moments.squared(g)
        nu = nu + (1 - b2) * jnp.sign(square - nu) * square
        return first * mu / (moments.root_of(second * nu, eps_root) + eps), mu, nu

    init = lambda leaf: (
        moments.first_moment(leaf),
        moments.real_moment(leaf, initial_accumulator_value),
    )
    return elementwise(rule, ScaleByAdamState, init=init, scalars=scalars)


@transformation
def yogi(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-3,
    *,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
):
    """Yogi [1] with decoupled weight decay.

    ```
    mₜ = β₁·mₜ₋₁ + (1 − β₁)·gₜ        (m₀ = 0)
    vₜ = vₜ₋₁ − (1 − β₂)·sign(vₜ₋₁ − |gₜ|²)·|gₜ|²       (v₀ = 1e-6)
    uₜ = −η · ((mₜ / (1 − β₁ᵗ)) / (√(vₜ / (1 − β₂ᵗ)) + ε) + λ·pₜ)
    ```

    Args:
      learning_rate: η, a float, a 0-d array or a schedule.
      b1: β₁ in [0, 1), decay of the average of gradients.
      b2: β₂ in [0, 1), how little of a squared gradient enters v.
      eps: ε ≥ 0, added outside the root.
      weight_decay: λ, a float, a 0-d array or a schedule.
      mask: where λ applies: a tree of bools like the parameters (or a prefix), or a function from parameters to one.

    State: two float32 values per parameter.
    """
    return chain(
        scale_by_yogi(b1, b2, eps),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
