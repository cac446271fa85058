"""AMSGrad: Adam whose denominator never shrinks.

[1] Reddi, Kale, Kumar, "On the Convergence of Adam and Beyond", ICLR 2018, arXiv:1904.09237, Alg. 2.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxopt_lite.compose import chain
from jaxopt_lite.optimizers import moments
from jaxopt_lite.optimizers.scale import add_decayed_weights, scale_by_learning_rate
from jaxopt_lite.transformation import elementwise, transformation
from jaxopt_lite.types import Array, Mask, Params, Scalar, ScalarOrSchedule


class ScaleByAmsgradState(NamedTuple):
    """Step count, both moments, and the largest second moment so far."""

    count: Array  # [] int32
    mu: Params  # like params, float32 for 16-bit ones
    nu: Params  # like |params|; k²·v, see moments.second_moment
    nu_max: Params  # like nu, of the corrected v


@transformation
def scale_by_amsgrad(
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 0.0,
    mu_dtype: Any = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
):
    """AMSGrad's direction [1].

    ```
    mₜ = β₁·mₜ₋₁ + (1 − β₁)·gₜ
    vₜ = β₂·vₜ₋₁ + (1 − β₂)·|gₜ|²
    wₜ = max(wₜ₋₁, vₜ / (1 − β₂ᵗ))
    uₜ = (mₜ / (1 − β₁ᵗ)) / (√(wₜ + ε_root) + ε)
    ```

    # deviation from [1]: bias corrections, as in optax; switched off, it is [1] with ε.
    """
    moments.check_rates(
        "scale_by_amsgrad", decays={"b1": b1, "b2": b2}, epsilons={"eps": eps, "eps_root": eps_root}
    )

    def scalars(t, updates):
        first = 1 / moments.bias_correction(b1, t) if bias_correction_mu else jnp.ones([])
        return first, 1 / moments.bias_correction(b2, t) if bias_correction_nu else jnp.ones([])

    def rule(g, p, s, mu, nu, nu_max):
        first, second = s
        mu = moments.ema(mu, g, b1)
        nu = moments.second_moment(nu, g, b2)
        nu_max = jnp.maximum(nu_max, second * nu)
        return first * mu / (moments.root_of(nu_max, eps_root) + eps), mu, nu, nu_max

    init = lambda leaf: (*moments.two_moments(leaf, mu_dtype), moments.real_moment(leaf))
    return elementwise(rule, ScaleByAmsgradState, init=init, scalars=scalars)


@transformation
def amsgrad(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 0.0,
    mu_dtype: Any = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
    *,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
):
    """AMSGrad [1] with decoupled weight decay.

    ```
    mₜ = β₁·mₜ₋₁ + (1 − β₁)·gₜ
    vₜ = β₂·vₜ₋₁ + (1 − β₂)·|gₜ|²
    wₜ = max(wₜ₋₁, vₜ / (1 − β₂ᵗ))
    uₜ = −η · ((mₜ / (1 − β₁ᵗ)) / (√(wₜ + ε_root) + ε) + λ·pₜ)
    ```

    Args:
      learning_rate: η, a float, a 0-d array or a schedule.
      b1: β₁ in [0, 1), decay of the average of gradients.
      b2: β₂ in [0, 1), decay of the average of squared gradients.
      eps: ε ≥ 0, added outside the root.
      eps_root: ε_root ≥ 0, added under the root.
      mu_dtype: how real leaves' m is stored; by default float32 for 16-bit parameters.
      bias_correction_mu: divide m by 1 − β₁ᵗ.
      bias_correction_nu: divide v by 1 − β₂ᵗ before the maximum.
      weight_decay: λ, a float, a 0-d array or a schedule.
      mask: where λ applies: a tree of bools like the parameters (or a prefix), or a function from parameters to one.

    State: three float32 values per parameter.
    """
    return chain(
        scale_by_amsgrad(b1, b2, eps, eps_root, mu_dtype, bias_correction_mu, bias_correction_nu),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
