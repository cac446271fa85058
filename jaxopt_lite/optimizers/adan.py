"""Adan: Nesterov momentum in Adam's frame, from the gradients and their differences.

[1] Xie, Zhou, Li, Lin, Yan, "Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep Models",
    TPAMI 2024, arXiv:2208.06677, Alg. 1.
"""

from typing import NamedTuple

import jax.numpy as jnp

from jaxopt_lite.compose import chain
from jaxopt_lite.optimizers import moments
from jaxopt_lite.optimizers.scale import add_decayed_weights, scale_by_learning_rate
from jaxopt_lite.transformation import elementwise, transformation
from jaxopt_lite.types import Array, Mask, Params, Scalar, ScalarOrSchedule


class ScaleByAdanState(NamedTuple):
    """Three averages, the last gradient, and the step count."""

    m: Params  # like params, float32 for 16-bit ones; of gradients
    v: Params  # like m; of differences of gradients
    n: Params  # like |params|; k²·n, see moments.second_moment
    g: Params  # like m; the last gradient
    t: Array  # [] int32


@transformation
def scale_by_adan(
    b1: Scalar = 0.98, b2: Scalar = 0.92, b3: Scalar = 0.99, eps: Scalar = 1e-8, eps_root: Scalar = 0.0
):
    """Adan's direction [1].

    ```
    dₜ = gₜ − gₜ₋₁                    (d₁ = 0)
    mₜ = β₁·mₜ₋₁ + (1 − β₁)·gₜ
    vₜ = β₂·vₜ₋₁ + (1 − β₂)·dₜ
    nₜ = β₃·nₜ₋₁ + (1 − β₃)·|gₜ + β₂·dₜ|²
    uₜ = (mₜ / (1 − β₁ᵗ) + β₂·vₜ / (1 − β₂ᵗ)) / (√(nₜ / (1 − β₃ᵗ) + ε_root) + ε)
    ```

    [1] writes 1 − β for our β: its factor (1 − β₂) of the difference is our β₂. optax takes 1 − β₂ = 0.08
    where [1] and its code have 0.92; here [1] rules.
    """
    moments.check_rates(
        "scale_by_adan",
        decays={"b1": b1, "b2": b2, "b3": b3},
        epsilons={"eps": eps, "eps_root": eps_root},
    )

    def scalars(t, updates):
        c1, c2, c3 = (moments.bias_correction(b, t) for b in (b1, b2, b3))
        return 1 / c1, b2 / c2, 1 / c3, t > 1

    def rule(g, p, s, m, v, n, last):
        first, second, third, later = s
        difference = jnp.where(later, g - last, 0)
        m = moments.ema(m, g, b1)
        v = moments.ema(v, difference, b2)
        n = moments.second_moment(n, g + b2 * difference, b3)
        u = (first * m + second * v) / (moments.root_of(third * n, eps_root) + eps)
        return u, m, v, n, moments.after(g, v, n)

    zeros = moments.first_moment
    init = lambda leaf: (zeros(leaf), zeros(leaf), moments.real_moment(leaf), zeros(leaf))
    return elementwise(rule, ScaleByAdanState, init=init, scalars=scalars, counters=("t",))


@transformation
def adan(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.98,
    b2: Scalar = 0.92,
    b3: Scalar = 0.99,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
):
    """Adan [1] with decoupled weight decay.

    ```
    dₜ = gₜ − gₜ₋₁                    (d₁ = 0)
    mₜ = β₁·mₜ₋₁ + (1 − β₁)·gₜ
    vₜ = β₂·vₜ₋₁ + (1 − β₂)·dₜ
    nₜ = β₃·nₜ₋₁ + (1 − β₃)·|gₜ + β₂·dₜ|²
    uₜ = −η · ((mₜ/(1 − β₁ᵗ) + β₂·vₜ/(1 − β₂ᵗ)) / (√(nₜ/(1 − β₃ᵗ) + ε_root) + ε) + λ·pₜ)
    ```

    optax weighs the differences by 1 − β₂ where [1] has (in this notation) β₂; here [1] rules.

    # deviation from [1]: bias corrections (as in its code), and decay by −ηλp, not by division by 1 + ηλ.

    Args:
      learning_rate: η, a float, a 0-d array or a schedule.
      b1: β₁ in [0, 1), decay of the average of gradients.
      b2: β₂ in [0, 1), decay of the average of differences.
      b3: β₃ in [0, 1), decay of the average of squares.
      eps: ε ≥ 0, added outside the root.
      eps_root: ε_root ≥ 0, added under the root.
      weight_decay: λ, a float, a 0-d array or a schedule.
      mask: where λ applies: a tree of bools like the parameters (or a prefix), or a function from parameters to one.

    State: four float32 values per parameter.
    """
    return chain(
        scale_by_adan(b1, b2, b3, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
