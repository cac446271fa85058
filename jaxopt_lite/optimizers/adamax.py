"""AdaMax: Adam with the largest recent gradient in place of the root mean square.

[1] Kingma, Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, arXiv:1412.6980, Alg. 2.
[2] Loshchilov, Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, arXiv:1711.05101.
"""

import jax.numpy as jnp

from jaxopt_lite.compose import chain
from jaxopt_lite.optimizers import moments
from jaxopt_lite.optimizers.adam import ScaleByAdamState
from jaxopt_lite.optimizers.scale import add_decayed_weights, scale_by_learning_rate
from jaxopt_lite.transformation import elementwise, transformation
from jaxopt_lite.types import Mask, Scalar, ScalarOrSchedule


@transformation
def scale_by_adamax(b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-8):
    """AdaMax's direction [1]; the state's ``nu`` holds vₜ.

    ```
    mₜ = β₁·mₜ₋₁ + (1 − β₁)·gₜ
    vₜ = max(β₂·vₜ₋₁, |gₜ| + ε)
    uₜ = (mₜ / (1 − β₁ᵗ)) / vₜ
    ```

    # deviation from [1]: ε, as in optax and PyTorch; where v = 0 (ε = 0 and no gradient yet) the update is 0.
    """
    moments.check_rates("scale_by_adamax", decays={"b1": b1, "b2": b2}, epsilons={"eps": eps})

    def rule(g, p, s, mu, nu):
        mu = moments.ema(mu, g, b1)
        nu = jnp.maximum(b2 * nu, jnp.abs(g) + eps)
        return s * mu / jnp.maximum(nu, jnp.finfo(nu.dtype).tiny), mu, nu

    scalars = lambda t, updates: 1 / moments.bias_correction(b1, t)
    return elementwise(rule, ScaleByAdamState, init=moments.two_moments, scalars=scalars)


@transformation
def adamax(learning_rate: ScalarOrSchedule, b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-8):
    """AdaMax [1].

    ```
    mₜ = β₁·mₜ₋₁ + (1 − β₁)·gₜ
    vₜ = max(β₂·vₜ₋₁, |gₜ| + ε)
    uₜ = −η · (mₜ / (1 − β₁ᵗ)) / vₜ
    ```

    Args:
      learning_rate: η, a float, a 0-d array or a schedule.
      b1: β₁ in [0, 1), decay of the average of gradients.
      b2: β₂ in [0, 1), decay of the largest gradient.
      eps: ε ≥ 0.

    State: two float32 values per parameter.
    """
    return chain(scale_by_adamax(b1, b2, eps), scale_by_learning_rate(learning_rate))


@transformation
def adamaxw(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: Mask | None = None,
):
    """AdaMax [1] with decoupled weight decay [2].

    ```
    uₜ = −η · ((mₜ / (1 − β₁ᵗ)) / vₜ + λ·pₜ)     with mₜ, vₜ as in ``adamax``
    ```

    Args: those of ``adamax``, and
      weight_decay: λ, a float, a 0-d array or a schedule.
      mask: where λ applies: a tree of bools like the parameters (or a prefix), or a function from parameters to one.
    """
    return chain(
        scale_by_adamax(b1, b2, eps),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
