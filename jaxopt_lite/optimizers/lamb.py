"""LAMB: Adam's direction, scaled in each layer to the norm of its weights.

[1] You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", ICLR 2020,
    arXiv:1904.00962, Alg. 2.
"""

from jaxopt_lite.compose import chain
from jaxopt_lite.optimizers.adam import scale_by_adam
from jaxopt_lite.optimizers.lars import scale_by_trust_ratio
from jaxopt_lite.optimizers.scale import add_decayed_weights, scale_by_learning_rate
from jaxopt_lite.transformation import transformation
from jaxopt_lite.types import Mask, Scalar, ScalarOrSchedule


@transformation
def lamb(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-6,
    eps_root: Scalar = 0.0,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
):
    """LAMB [1].

    ```
    mₜ = β₁·mₜ₋₁ + (1 − β₁)·gₜ
    vₜ = β₂·vₜ₋₁ + (1 − β₂)·|gₜ|²
    dₜ = (mₜ / (1 − β₁ᵗ)) / (√(vₜ / (1 − β₂ᵗ) + ε_root) + ε) + λ·pₜ
    uₜ = −η · dₜ · ‖pₜ‖ / ‖dₜ‖              for each leaf
    ```

    A leaf that is 0, or whose dₜ is 0, takes dₜ as it is.

    # deviation from [1]: φ, the function of the norm, is the identity.

    Args:
      learning_rate: η, a float, a 0-d array or a schedule.
      b1: β₁ in [0, 1), decay of the average of gradients.
      b2: β₂ in [0, 1), decay of the average of squared gradients.
      eps: ε ≥ 0, added outside the root.
      eps_root: ε_root ≥ 0, added under the root.
      weight_decay: λ, a float, a 0-d array or a schedule.
      mask: where λ applies: a tree of bools like the parameters (or a prefix), or a function from parameters to one.

    State: two float32 values per parameter.
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_trust_ratio(),
        scale_by_learning_rate(learning_rate),
    )
