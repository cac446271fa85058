"""LARS: each layer's step is proportional to the norm of its weights.

[1] You, Gitman, Ginsburg, "Large Batch Training of Convolutional Networks", 2017, arXiv:1708.03888, Alg. 1.
"""

import jax.numpy as jnp

from jaxopt_lite import checks, tree
from jaxopt_lite.compose import chain
from jaxopt_lite.optimizers.scale import add_decayed_weights, scale_by_learning_rate
from jaxopt_lite.optimizers.sgd import trace
from jaxopt_lite.transformation import elementwise, transformation
from jaxopt_lite.types import Array, Mask, Scalar, ScalarOrSchedule


def trust_ratio(p_norm: Array, u_norm: Array, coefficient: Scalar = 1.0, eps: Scalar = 0.0) -> Array:
    """c·‖p‖ / (‖u‖ + ε); 1 where a norm is 0 (else such a layer would never move)."""
    usable = (p_norm > 0) & (u_norm > 0)
    return jnp.where(usable, coefficient * p_norm / (jnp.where(usable, u_norm, 1) + eps), 1)


@transformation
def scale_by_trust_ratio(
    min_norm: Scalar = 0.0,
    trust_coefficient: Scalar = 1.0,
    eps: Scalar = 0.0,
    *,
    mask: Mask | None = None,
):
    """Scale each leaf's update to the norm of its parameter [1].

    ```
    u = g · c·max(‖p‖, min_norm) / (max(‖g‖, min_norm) + ε)       (u = g where a norm is 0)
    ```

    Args:
      min_norm: ≥ 0; smaller norms count as this.
      trust_coefficient: c ≥ 0.
      eps: ε ≥ 0.
      mask: which leaves to scale: a tree of bools like the parameters (or a prefix), or a function from
        parameters to one.
    """
    for name, value in {"min_norm": min_norm, "trust_coefficient": trust_coefficient, "eps": eps}.items():
        checks.between("scale_by_trust_ratio", name, value, 0, float("inf"))

    def rule(g, p, s):
        p_norm, g_norm = (jnp.maximum(tree.norm(x), min_norm) for x in (p, g))
        return (g * trust_ratio(p_norm, g_norm, trust_coefficient, eps),)

    return elementwise(rule, reads_params=True, mask=mask)


@transformation
def lars(
    learning_rate: ScalarOrSchedule,
    weight_decay: ScalarOrSchedule = 0.0,
    weight_decay_mask: Mask = True,
    trust_coefficient: Scalar = 0.001,
    eps: Scalar = 0.0,
    trust_ratio_mask: Mask = True,
    momentum: Scalar = 0.9,
    nesterov: bool = False,
):
    """LARS [1].

    ```
    hₜ = gₜ + λ·pₜ
    dₜ = η · hₜ · c·‖pₜ‖ / (‖hₜ‖ + ε)       for each leaf
    mₜ = μ·mₜ₋₁ + dₜ
    uₜ = −mₜ                                (nesterov: −(dₜ + μ·mₜ))
    ```

    A leaf that is 0, or whose gradient is 0, takes hₜ as it is.

    # deviation from [1]: its denominator ‖g‖ + λ‖p‖ is ‖g + λp‖ here, as in optax.

    Args:
      learning_rate: η, a float, a 0-d array or a schedule.
      weight_decay: λ, a float, a 0-d array or a schedule.
      weight_decay_mask: where λ applies: a tree of bools like the parameters (or a prefix), or a function from
        parameters to one.
      trust_coefficient: c ≥ 0.
      eps: ε ≥ 0.
      trust_ratio_mask: which leaves are scaled by their norms, in the same forms; biases are often left out.
      momentum: μ in [0, 1].
      nesterov: look ahead by one step of momentum.

    State: one float32 value per parameter.
    """
    return chain(
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_trust_ratio(0.0, trust_coefficient, eps, mask=trust_ratio_mask),
        scale_by_learning_rate(learning_rate),
        trace(momentum, nesterov),
    )
