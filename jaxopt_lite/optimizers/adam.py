"""Adam, with decoupled weight decay (AdamW) and Nesterov momentum (NAdam) as options.

[1] Kingma, Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, arXiv:1412.6980, Alg. 1.
[2] Loshchilov, Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, arXiv:1711.05101, Alg. 2.
[3] Dozat, "Incorporating Nesterov Momentum into Adam", ICLR 2016 workshop, Alg. 8.
"""

from typing import Any, NamedTuple

from jaxopt_lite.compose import chain
from jaxopt_lite.optimizers.moments import (
    bias_correction,
    check_rates,
    ema,
    root_of,
    second_moment,
    two_moments,
)
from jaxopt_lite.optimizers.scale import add_decayed_weights, scale_by_learning_rate
from jaxopt_lite.transformation import elementwise, transformation
from jaxopt_lite.types import Array, Mask, Params, Scalar, ScalarOrSchedule


class ScaleByAdamState(NamedTuple):
    """Step count and both moments."""

    count: Array  # [] int32
    mu: Params  # like params, float32 for 16-bit ones
    nu: Params  # like |params|; k²·v, see moments.second_moment


@transformation
def scale_by_adam(
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
):
    """Adam's direction [1].

    ```
    mₜ = β₁·mₜ₋₁ + (1 − β₁)·gₜ
    vₜ = β₂·vₜ₋₁ + (1 − β₂)·|gₜ|²
    m̂ₜ = mₜ / (1 − β₁ᵗ)               (nesterov [3]: β₁·mₜ/(1 − β₁ᵗ⁺¹) + (1 − β₁)·gₜ/(1 − β₁ᵗ))
    uₜ = m̂ₜ / (√(vₜ/(1 − β₂ᵗ) + ε_root) + ε)
    ```

    Where m̂ₜ = 0 the update is 0, also with ε = 0. ``mu_dtype`` is how real leaves' m is stored.
    """
    check_rates("scale_by_adam", decays={"b1": b1, "b2": b2}, epsilons={"eps": eps, "eps_root": eps_root})

    def scalars(t, updates):
        c1, c2 = bias_correction(b1, t), bias_correction(b2, t)
        ahead = 1 / bias_correction(b1, t + 1) if nesterov else None
        return 1 / c1, 1 / c2, ahead

    def rule(g, p, s, mu, nu):
        first, second, ahead = s
        mu = ema(mu, g, b1)
        nu = second_moment(nu, g, b2)
        m = b1 * ahead * mu + (1 - b1) * first * g if nesterov else first * mu
        return m / (root_of(second * nu, eps_root) + eps), mu, nu

    init = lambda leaf: two_moments(leaf, mu_dtype)
    return elementwise(rule, ScaleByAdamState, init=init, scalars=scalars)


@transformation
def adam(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 0.0,
    *,
    nesterov: bool = False,
):
    """Adam [1]: a step of about η per coordinate, in the direction of the averaged gradient.

    ```
    mₜ = β₁·mₜ₋₁ + (1 − β₁)·gₜ
    vₜ = β₂·vₜ₋₁ + (1 − β₂)·|gₜ|²
    uₜ = −η · (mₜ / (1 − β₁ᵗ)) / (√(vₜ / (1 − β₂ᵗ) + ε_root) + ε)
    ```

    Args:
      learning_rate: η, a float, a 0-d array or a schedule.
      b1: β₁ in [0, 1), decay of the average of gradients.
      b2: β₂ in [0, 1), decay of the average of squared gradients.
      eps: ε ≥ 0, added outside the root.
      eps_root: ε_root ≥ 0, added under the root.
      nesterov: NAdam's look-ahead [3].

    State: two float32 values per parameter, 8 bytes (float64 for float64 parameters). Right, with a finite
    state, for gradients of magnitude 0 to 1e22.

    >>> import jax.numpy as jnp
    >>> tx = adam(0.1)
    >>> params = {"w": jnp.array([1.0, 2.0])}
    >>> updates, state = tx.update({"w": jnp.array([1e20, -1e-3])}, tx.init(params), params)
    >>> [round(u, 4) for u in updates["w"].tolist()]
    [-0.1, 0.1]
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, nesterov=nesterov),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def adamw(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 0.0,
    *,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: Mask | None = None,
    nesterov: bool = False,
):
    """Adam with decoupled weight decay [2]: parameters shrink by ηλ a step, whatever their gradients.

    ```
    mₜ = β₁·mₜ₋₁ + (1 − β₁)·gₜ
    vₜ = β₂·vₜ₋₁ + (1 − β₂)·|gₜ|²
    uₜ = −η · ((mₜ / (1 − β₁ᵗ)) / (√(vₜ / (1 − β₂ᵗ) + ε_root) + ε) + λ·pₜ)
    ```

    Args: those of ``adam``, and
      weight_decay: λ, a float, a 0-d array or a schedule.
      mask: where λ applies: a tree of bools like the parameters (or a prefix of theirs), or a function from
        parameters to one, for example ``lambda params: jax.tree.map(lambda p: p.ndim > 1, params)``.

    # deviation from [2]: λ is multiplied by η, as in optax and PyTorch, not by the schedule's multiplier alone.
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, nesterov=nesterov),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
