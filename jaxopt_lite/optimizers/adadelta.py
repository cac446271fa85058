"""AdaDelta: steps in the unit of the parameter, from the ratio of past updates to past gradients.

[1] Zeiler, "ADADELTA: An Adaptive Learning Rate Method", 2012, arXiv:1212.5701, Alg. 1.
"""

from typing import NamedTuple

import jax.numpy as jnp

from jaxopt_lite.compose import chain
from jaxopt_lite.optimizers import moments
from jaxopt_lite.optimizers.scale import add_decayed_weights, scale_by_learning_rate
from jaxopt_lite.transformation import elementwise, transformation
from jaxopt_lite.types import Mask, Params, Scalar, ScalarOrSchedule


class ScaleByAdaDeltaState(NamedTuple):
    """Averages of squared gradients and of squared updates."""

    e_g: Params  # like |params|; k²·E[g²], see moments.second_moment
    e_x: Params  # like |params|


@transformation
def scale_by_adadelta(rho: Scalar = 0.9, eps: Scalar = 1e-6):
    """AdaDelta's direction [1].

    ```
    aₜ = ρ·aₜ₋₁ + (1 − ρ)·|gₜ|²
    uₜ = gₜ · √(bₜ₋₁ + ε) / √(aₜ + ε)
    bₜ = ρ·bₜ₋₁ + (1 − ρ)·|uₜ|²
    ```
    """
    moments.check_rates("scale_by_adadelta", decays={"rho": rho}, epsilons={"eps": eps})

    def rule(g, p, s, e_g, e_x):
        e_g = moments.second_moment(e_g, g, rho)
        a = jnp.maximum(e_g + moments.K**2 * eps, jnp.finfo(e_g.dtype).tiny)
        square = moments.squared(g)
        e_x = rho * e_x + (1 - rho) * (e_x + eps) * (square / a)
        # (bₜ₋₁ + ε)/(aₜ + ε) from the new bₜ, so that XLA overwrites the old one in place.
        ratio = (e_x + rho * eps) / (rho * a + (1 - rho) * square)
        return moments.K * g * jnp.sqrt(jnp.maximum(ratio, jnp.finfo(ratio.dtype).tiny)), e_g, e_x

    zeros = lambda leaf: (moments.real_moment(leaf), moments.real_moment(leaf))
    return elementwise(rule, ScaleByAdaDeltaState, init=zeros)


@transformation
def adadelta(
    learning_rate: ScalarOrSchedule | None = None,
    rho: Scalar = 0.9,
    eps: Scalar = 1e-6,
    weight_decay: ScalarOrSchedule = 0.0,
    weight_decay_mask: Mask | None = None,
):
    """AdaDelta [1].

    ```
    hₜ = gₜ + λ·pₜ
    aₜ = ρ·aₜ₋₁ + (1 − ρ)·|hₜ|²
    dₜ = hₜ · √(bₜ₋₁ + ε) / √(aₜ + ε)
    bₜ = ρ·bₜ₋₁ + (1 − ρ)·|dₜ|²
    uₜ = −η · dₜ
    ```

    Args:
      learning_rate: η, a float, a 0-d array or a schedule; ``None`` is [1]'s 1.
      rho: ρ in [0, 1), decay of both averages.
      eps: ε ≥ 0; with 0 nothing ever moves, since b starts at 0.
      weight_decay: λ, a float, a 0-d array or a schedule. It is added to the gradient (L2), as in PyTorch and optax.
      weight_decay_mask: where λ applies: a tree of bools like the parameters (or a prefix), or a function from
        parameters to one.

    # deviation from optax: ``None`` steps downhill; there the sign of the step is lost.

    State: two float32 values per parameter.
    """
    return chain(
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_adadelta(rho, eps),
        scale_by_learning_rate(1.0 if learning_rate is None else learning_rate),
    )
