"""AdaBelief: small steps where the gradient surprises, large ones where it is what the average predicts.

[1] Zhuang et al., "AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients", NeurIPS 2020,
    arXiv:2010.07468, Alg. 2.
"""

from typing import NamedTuple

from jaxopt_lite.compose import chain
from jaxopt_lite.optimizers import moments
from jaxopt_lite.optimizers.scale import add_decayed_weights, scale_by_learning_rate
from jaxopt_lite.transformation import elementwise, transformation
from jaxopt_lite.types import Array, Mask, Params, Scalar, ScalarOrSchedule


class ScaleByBeliefState(NamedTuple):
    """Step count, the average of gradients, and the average of squared deviations from it."""

    count: Array  # [] int32
    mu: Params  # like params, float32 for 16-bit ones
    nu: Params  # like |params|; k²·v, see moments.second_moment


@transformation
def scale_by_belief(
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-16,
    eps_root: Scalar = 1e-16,
    *,
    nesterov: bool = False,
):
    """AdaBelief's direction [1].

    ```
    mₜ = β₁·mₜ₋₁ + (1 − β₁)·gₜ
    vₜ = β₂·vₜ₋₁ + (1 − β₂)·|gₜ − mₜ|² + ε_root
    m̂ₜ = mₜ / (1 − β₁ᵗ)               (nesterov: β₁·mₜ/(1 − β₁ᵗ⁺¹) + (1 − β₁)·gₜ/(1 − β₁ᵗ))
    uₜ = m̂ₜ / (√(vₜ / (1 − β₂ᵗ)) + ε)
    ```
    """
    moments.check_rates(
        "scale_by_belief", decays={"b1": b1, "b2": b2}, epsilons={"eps": eps, "eps_root": eps_root}
    )

    def scalars(t, updates):
        c1, c2 = moments.bias_correction(b1, t), moments.bias_correction(b2, t)
        ahead = 1 / moments.bias_correction(b1, t + 1) if nesterov else None
        return 1 / c1, 1 / c2, ahead

    def rule(g, p, s, mu, nu):
        first, second, ahead = s
        mu = moments.ema(mu, g, b1)
        # Added in this order, ν is overwritten in place; in any other XLA computes it twice and copies it first.
        nu = b2 * nu + ((1 - b2) * moments.squared(g - mu) + moments.K**2 * eps_root)
        m = b1 * ahead * mu + (1 - b1) * first * g if nesterov else first * mu
        return m / (moments.root_of(second * nu) + eps), mu, nu

    return elementwise(rule, ScaleByBeliefState, init=moments.two_moments, scalars=scalars)


@transformation
def adabelief(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-16,
    eps_root: Scalar = 1e-16,
    *,
    nesterov: bool = False,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
):
    """AdaBelief [1] with decoupled weight decay.

    ```
    mₜ = β₁·mₜ₋₁ + (1 − β₁)·gₜ
    vₜ = β₂·vₜ₋₁ + (1 − β₂)·|gₜ − mₜ|² + ε_root
    uₜ = −η · ((mₜ / (1 − β₁ᵗ)) / (√(vₜ / (1 − β₂ᵗ)) + ε) + λ·pₜ)
    ```

    Args:
      learning_rate: η, a float, a 0-d array or a schedule.
      b1: β₁ in [0, 1), decay of the average of gradients.
      b2: β₂ in [0, 1), decay of the average of squared deviations.
      eps: ε ≥ 0, added outside the root.
      eps_root: ε_root ≥ 0, added to v in every step.
      nesterov: look ahead by one step of momentum.
      weight_decay: λ, a float, a 0-d array or a schedule.
      mask: where λ applies: a tree of bools like the parameters (or a prefix), or a function from parameters to one.

    State: two float32 values per parameter.
    """
    return chain(
        scale_by_belief(b1, b2, eps, eps_root, nesterov=nesterov),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
