"""NAdam: Adam that looks one step of momentum ahead.

[1] Dozat, "Incorporating Nesterov Momentum into Adam", ICLR 2016 workshop, Alg. 8.
[2] Loshchilov, Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, arXiv:1711.05101.
"""

from typing import Any

from jaxopt_lite.compose import chain
from jaxopt_lite.optimizers.adam import scale_by_adam
from jaxopt_lite.optimizers.scale import add_decayed_weights, scale_by_learning_rate
from jaxopt_lite.transformation import transformation
from jaxopt_lite.types import Mask, Scalar, ScalarOrSchedule


@transformation
def nadam(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
):
    """NAdam [1].

    ```
    mₜ = β₁·mₜ₋₁ + (1 − β₁)·gₜ
    vₜ = β₂·vₜ₋₁ + (1 − β₂)·|gₜ|²
    m̂ₜ = β₁·mₜ / (1 − β₁ᵗ⁺¹) + (1 − β₁)·gₜ / (1 − β₁ᵗ)
    uₜ = −η · m̂ₜ / (√(vₜ / (1 − β₂ᵗ) + ε_root) + ε)
    ```

    # deviation from [1]: β₁ is constant, and v̂ has no extra factor β₂, as in optax.

    Args: those of ``adam``; ``mu_dtype`` is how real leaves' m is stored (by default float32 for 16 bits).
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def nadamw(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 0.0,
    mu_dtype: Any = None,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: Mask | None = None,
    *,
    nesterov: bool = True,
):
    """NAdam [1] with decoupled weight decay [2].

    ```
    uₜ = −η · (m̂ₜ / (√(vₜ / (1 − β₂ᵗ) + ε_root) + ε) + λ·pₜ)     with m̂ₜ, vₜ as in ``nadam``
    ```

    Args: those of ``nadam``, and
      weight_decay: λ, a float, a 0-d array or a schedule.
      mask: where λ applies: a tree of bools like the parameters (or a prefix), or a function from parameters to one.
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
