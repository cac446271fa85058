"""RAdam: Adam that waits with its adaptive step until the variance of that step is finite.

[1] Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", ICLR 2020, arXiv:1908.03265, Alg. 2.
"""

import math
from typing import Any

import jax.numpy as jnp

from jaxopt_lite.compose import chain
from jaxopt_lite.optimizers import moments
from jaxopt_lite.optimizers.adam import ScaleByAdamState
from jaxopt_lite.optimizers.scale import add_decayed_weights, scale_by_learning_rate
from jaxopt_lite.transformation import elementwise, transformation
from jaxopt_lite.types import Array, Mask, Scalar, ScalarOrSchedule


@transformation
def scale_by_radam(
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 0.0,
    threshold: Scalar = 5.0,
    *,
    nesterov: bool = False,
):
    """RAdam's direction [1].

    ```
    mₜ = β₁·mₜ₋₁ + (1 − β₁)·gₜ
    vₜ = β₂·vₜ₋₁ + (1 − β₂)·|gₜ|²
    m̂ₜ = mₜ / (1 − β₁ᵗ)               (nesterov: β₁·mₜ/(1 − β₁ᵗ⁺¹) + (1 − β₁)·gₜ/(1 − β₁ᵗ))
    ρ∞ = 2 / (1 − β₂) − 1
    ρₜ = ρ∞ − 2·t·β₂ᵗ / (1 − β₂ᵗ)
    rₜ = √((ρₜ − 4)·(ρₜ − 2)·ρ∞ / ((ρ∞ − 4)·(ρ∞ − 2)·ρₜ))
    uₜ = rₜ·m̂ₜ / (√(vₜ / (1 − β₂ᵗ) + ε_root) + ε)   if ρₜ ≥ threshold, else m̂ₜ
    ```

    # deviation from [1]: the threshold is 5, as in the authors' code, not 4; and ε.
    """
    moments.check_rates(
        "scale_by_radam", decays={"b1": b1, "b2": b2}, epsilons={"eps": eps, "eps_root": eps_root}
    )

    def scalars(t, updates):
        c1, c2 = moments.bias_correction(b1, t), moments.bias_correction(b2, t)
        ahead = 1 / moments.bias_correction(b1, t + 1) if nesterov else None
        return 1 / c1, 1 / c2, ahead, *rectification(b2, t, threshold)

    def rule(g, p, s, mu, nu):
        first, second, ahead, ready, r = s
        mu = moments.ema(mu, g, b1)
        nu = moments.second_moment(nu, g, b2)
        m = b1 * ahead * mu + (1 - b1) * first * g if nesterov else first * mu
        denominator = moments.root_of(second * nu, eps_root) + eps
        return m * jnp.where(ready, r / denominator, 1), mu, nu

    return elementwise(rule, ScaleByAdamState, init=moments.two_moments, scalars=scalars)


def rectification(b2: Any, t: Array, threshold: Any) -> tuple[Array, Array]:
    """Whether ρₜ has reached the threshold, and rₜ.

    ρ∞ − 2tβᵗ/(1 − βᵗ) loses all digits while t is small against 1/(1 − β). With a = −log β it is
    t + L(a/2) − t·L(ta/2), where L(x) = coth x − 1/x is near x/3.
    """
    limit = 2 / (1 - b2) - 1
    rate = -math.log(b2) if isinstance(b2, float) and b2 > 0 else -jnp.log(jnp.maximum(b2, 1e-30))
    t, c2 = t.astype(jnp.result_type(float)), moments.bias_correction(b2, t)
    early = t * rate < 2
    x = jnp.where(early, t * rate / 2, 0.5)
    rho = jnp.where(early, t + _langevin(rate / 2) - t * _langevin(x), limit - 2 * t * (1 - c2) / c2)
    ready = rho >= threshold
    safe = jnp.where(ready & (rho > 4), rho, 5)
    ratio = (safe - 4) * (safe - 2) * limit / ((limit - 4) * (limit - 2) * safe)
    return ready, jnp.sqrt(jnp.where(ready & (rho > 4), ratio, 1))


def _langevin(x: Any) -> Any:
    """coth x − 1/x by its series, to 1e-8 for x ≤ 1."""
    coefficients = (1 / 3, -1 / 45, 2 / 945, -1 / 4725, 2 / 93555, -1382 / 638512875, 4 / 18243225)
    total = 0.0
    for c in reversed(coefficients):
        total = c + x * x * total
    return x * total


@transformation
def radam(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 0.0,
    threshold: Scalar = 5.0,
    *,
    nesterov: bool = False,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
):
    """RAdam [1] with decoupled weight decay: plain momentum first, then Adam's step times rₜ, which grows to 1.

    ```
    ρₜ = ρ∞ − 2·t·β₂ᵗ / (1 − β₂ᵗ)     with ρ∞ = 2 / (1 − β₂) − 1
    rₜ = √((ρₜ − 4)·(ρₜ − 2)·ρ∞ / ((ρ∞ − 4)·(ρ∞ − 2)·ρₜ))
    dₜ = rₜ·m̂ₜ / (√(v̂ₜ + ε_root) + ε)   if ρₜ ≥ threshold, else m̂ₜ     (m̂, v̂ as in ``adam``)
    uₜ = −η · (dₜ + λ·pₜ)
    ```

    Args:
      learning_rate: η, a float, a 0-d array or a schedule.
      b1: β₁ in [0, 1), decay of the average of gradients.
      b2: β₂ in [0, 1), decay of the average of squared gradients.
      eps: ε ≥ 0, added outside the root.
      eps_root: ε_root ≥ 0, added under the root.
      threshold: the ρₜ from which on the step is adaptive.
      nesterov: look ahead by one step of momentum.
      weight_decay: λ, a float, a 0-d array or a schedule.
      mask: where λ applies: a tree of bools like the parameters (or a prefix), or a function from parameters to one.

    State: two float32 values per parameter.
    """
    return chain(
        scale_by_radam(b1, b2, eps, eps_root, threshold, nesterov=nesterov),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
