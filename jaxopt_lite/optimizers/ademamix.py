"""AdEMAMix: AdamW with a second, very slow momentum, in which old gradients still count.

[1] Pagliardini, Ablin, Grangier, "The AdEMAMix Optimizer: Better, Faster, Older", ICLR 2025, arXiv:2409.03137, Alg. 1.
"""

from typing import Any, NamedTuple

from jaxopt_lite.compose import chain
from jaxopt_lite.optimizers import moments
from jaxopt_lite.optimizers.scale import add_decayed_weights, scale_by_learning_rate, value_at
from jaxopt_lite.transformation import elementwise, transformation
from jaxopt_lite.types import Array, Mask, Params, Scalar, ScalarOrSchedule


class ScaleByAdemamixState(NamedTuple):
    """Two step counts (as optax has them), two momenta, a second moment."""

    count: Array  # [] int32
    count_m2: Array  # [] int32, for the schedules of b3 and alpha
    m1: Params  # like params, float32 for 16-bit ones; fast
    m2: Params  # like m1; slow
    nu: Params  # like |params|; k²·v, see moments.second_moment


@transformation
def scale_by_ademamix(
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    b3: ScalarOrSchedule = 0.9999,
    alpha: ScalarOrSchedule = 6.0,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 0.0,
    mu_dtype: Any = None,
):
    """AdEMAMix's direction [1]; see ``ademamix``."""
    moments.check_rates(
        "scale_by_ademamix",
        decays={"b1": b1, "b2": b2, "b3": b3},
        epsilons={"alpha": alpha, "eps": eps, "eps_root": eps_root},
    )

    def scalars(t, updates):
        c1, c2 = moments.bias_correction(b1, t), moments.bias_correction(b2, t)
        return 1 / c1, 1 / c2, value_at(alpha, t), value_at(b3, t) if callable(b3) else None

    def rule(g, p, s, m1, m2, nu):
        first, second, mix, slow = s
        m1 = moments.ema(m1, g, b1)
        m2 = moments.ema(m2, g, slow if callable(b3) else b3)
        nu = moments.second_moment(nu, g, b2)
        return (first * m1 + mix * m2) / (moments.root_of(second * nu, eps_root) + eps), m1, m2, nu

    def init(leaf):
        m1, nu = moments.two_moments(leaf, mu_dtype)
        return m1, moments.first_moment(leaf, mu_dtype), nu

    return elementwise(rule, ScaleByAdemamixState, init=init, scalars=scalars, counters=("count", "count_m2"))


@transformation
def ademamix(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    b3: ScalarOrSchedule = 0.9999,
    alpha: ScalarOrSchedule = 5.0,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 0.0,
    mu_dtype: Any = None,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
):
    """AdEMAMix [1].

    ```
    mₜ = β₁·mₜ₋₁ + (1 − β₁)·gₜ
    sₜ = β₃·sₜ₋₁ + (1 − β₃)·gₜ          no bias correction: it fills slowly
    vₜ = β₂·vₜ₋₁ + (1 − β₂)·|gₜ|²
    uₜ = −η · ((mₜ/(1 − β₁ᵗ) + α·sₜ) / (√(vₜ/(1 − β₂ᵗ) + ε_root) + ε) + λ·pₜ)
    ```

    [1] warms α and β₃ up over the training: pass schedules.

    Args:
      learning_rate: η, a float, a 0-d array or a schedule.
      b1: β₁ in [0, 1), decay of the fast momentum.
      b2: β₂ in [0, 1), decay of the average of squared gradients.
      b3: β₃ in [0, 1), decay of the slow momentum, or a schedule of it.
      alpha: α ≥ 0, weight of the slow momentum, or a schedule of it.
      eps: ε ≥ 0, added outside the root.
      eps_root: ε_root ≥ 0, added under the root.
      mu_dtype: how real leaves' momenta are stored; by default float32 for 16-bit parameters.
      weight_decay: λ, a float, a 0-d array or a schedule.
      mask: where λ applies: a tree of bools like the parameters (or a prefix), or a function from parameters to one.

    State: three float32 values per parameter.
    """
    return chain(
        scale_by_ademamix(b1, b2, b3, alpha, eps, eps_root, mu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
