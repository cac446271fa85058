"""MARS: AdamW on gradients whose variance is reduced by the difference to the last one.

[1] Yuan, Liu, Wu, Zhou, Gu, "MARS: Unleashing the Power of Variance Reduction for Training Large Models",
    ICML 2025, arXiv:2411.10438, Alg. 2 (MARS-AdamW), in its approximate form: the last step's gradient.
"""

from typing import NamedTuple

import jax.numpy as jnp

from jaxopt_lite import checks
from jaxopt_lite.compose import chain
from jaxopt_lite.optimizers import moments
from jaxopt_lite.optimizers.scale import add_decayed_weights, scale_by_learning_rate
from jaxopt_lite.transformation import elementwise, transformation
from jaxopt_lite.tree import abs2, safe_sqrt, scaled_magnitude
from jaxopt_lite.types import Array, Mask, Params, Scalar, ScalarOrSchedule


class ScaleByMarsState(NamedTuple):
    """Step count, both moments, and the last gradient."""

    count: Array  # [] int32
    mu: Params  # like params, float32 for 16-bit ones
    nu: Params  # like |params|; k²·v, see moments.second_moment
    previous: Params  # like mu


@transformation
def scale_by_mars(b1: Scalar = 0.95, b2: Scalar = 0.99, gamma: Scalar = 0.025, eps: Scalar = 1e-8):
    """MARS-AdamW's direction [1]; see ``mars``."""
    moments.check_rates("scale_by_mars", decays={"b1": b1, "b2": b2}, epsilons={"eps": eps})
    checks.between("scale_by_mars", "gamma", gamma, 0, float("inf"))

    def scalars(t, updates):
        c1, c2 = moments.bias_correction(b1, t), moments.bias_correction(b2, t)
        return 1 / c1, 1 / c2, jnp.where(t == 1, 0, gamma * b1 / (1 - b1))

    def rule(g, p, s, mu, nu, previous):
        first, second, ahead = s
        c = g + ahead * (g - previous)
        c = c * _shrink(c)
        mu = moments.ema(mu, c, b1)
        nu = moments.second_moment(nu, c, b2)
        return first * mu / (moments.root_of(second * nu) + eps), mu, nu, moments.after(g, mu, nu)

    init = lambda leaf: (*moments.two_moments(leaf), moments.first_moment(leaf))
    return elementwise(rule, ScaleByMarsState, init=init, scalars=scalars)


def _shrink(c: Array) -> Array:
    """1 / max(1, ‖c‖). Scaled down before squaring: what underflows then is no part of a norm above 1."""
    s = 2.0 ** -(jnp.finfo(c.dtype).maxexp // 4)
    return 1 / jnp.maximum(1, safe_sqrt(jnp.sum(abs2(scaled_magnitude(c, s)))) / s)


@transformation
def mars(
    learning_rate: ScalarOrSchedule,
    *,
    b1: Scalar = 0.95,
    b2: Scalar = 0.99,
    gamma: Scalar = 0.025,
    eps: Scalar = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
):
    """MARS-AdamW [1].

    ```
    cₜ = gₜ + γ·β₁/(1 − β₁)·(gₜ − gₜ₋₁)        the first difference is 0
    cₜ ← cₜ / max(1, ‖cₜ‖)                    for each leaf
    mₜ = β₁·mₜ₋₁ + (1 − β₁)·cₜ
    vₜ = β₂·vₜ₋₁ + (1 − β₂)·|cₜ|²
    uₜ = −η · ((mₜ / (1 − β₁ᵗ)) / (√(vₜ / (1 − β₂ᵗ)) + ε) + λ·pₜ)
    ```

    Args:
      learning_rate: η, a float, a 0-d array or a schedule.
      b1: β₁ in [0, 1), decay of the average of gradients.
      b2: β₂ in [0, 1), decay of the average of squared gradients.
      gamma: γ ≥ 0, how much of the difference is added.
      eps: ε ≥ 0, added outside the root.
      weight_decay: λ, a float, a 0-d array or a schedule.
      mask: where λ applies: a tree of bools like the parameters (or a prefix), or a function from parameters to one.

    State: three float32 values per parameter.
    """
    return chain(
        scale_by_mars(b1, b2, gamma, eps),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
