"""NovoGrad: gradients normalised layer by layer, then momentum.

[1] Ginsburg et al., "Stochastic Gradient Methods with Layer-wise Adaptive Moments for Training of Deep Networks",
    2019, arXiv:1905.11286, Alg. 1.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxopt_lite.compose import chain
from jaxopt_lite.optimizers import moments
from jaxopt_lite.optimizers.scale import scale_by_learning_rate, value_at
from jaxopt_lite.transformation import elementwise, transformation
from jaxopt_lite.tree import moment_dtype, norm
from jaxopt_lite.types import Array, Mask, Params, Scalar, ScalarOrSchedule


class ScaleByNovogradState(NamedTuple):
    """Step count, momentum, and one second moment per leaf."""

    count: Array  # [] int32
    mu: Params  # like params, float32 for 16-bit ones
    root: Params  # [] per leaf; √v, which no gradient makes overflow


@transformation
def scale_by_novograd(
    b1: Scalar = 0.9,
    b2: Scalar = 0.25,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 0.0,
    weight_decay: ScalarOrSchedule = 0.0,
    mu_dtype: Any = None,
    *,
    mask: Mask | None = None,
):
    """NovoGrad's direction [1]; see ``novograd``. ``mu_dtype`` is how real leaves' m is stored."""
    moments.check_rates(
        "scale_by_novograd", decays={"b1": b1, "b2": b2}, epsilons={"eps": eps, "eps_root": eps_root}
    )

    def scalars(t, updates):
        return jnp.where(t == 1, 0, b2), jnp.where(t == 1, 1, 1 - b2), value_at(weight_decay, t)

    def rule(g, p, s, on, mu, root):
        kept, added, decay = s
        root = moments.running_root(root, norm(g), kept, added)
        size = moments.running_root(root, jnp.sqrt(eps_root), 1, 1)
        h = g * (1 / (jnp.maximum(size, jnp.finfo(size.dtype).tiny) + eps))
        mu = b1 * mu + (h + decay * p if on else h)
        return mu, mu, root

    def init(leaf):
        return moments.first_moment(leaf, mu_dtype), jnp.zeros([], jnp.finfo(moment_dtype(leaf)).dtype)

    return elementwise(
        rule,
        ScaleByNovogradState,
        init=init,
        scalars=scalars,
        reads_params=True,
        mask=mask,
        reads_mask=True,
    )


@transformation
def novograd(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.25,
    eps: Scalar = 1e-6,
    eps_root: Scalar = 0.0,
    weight_decay: ScalarOrSchedule = 0.0,
    *,
    mask: Mask | None = None,
):
    """NovoGrad [1].

    ```
    vₜ = β₂·vₜ₋₁ + (1 − β₂)·‖gₜ‖²             one number per leaf; v₁ = ‖g₁‖²
    mₜ = β₁·mₜ₋₁ + gₜ / (√(vₜ + ε_root) + ε) + λ·pₜ
    uₜ = −η · mₜ
    ```

    Args:
      learning_rate: η, a float, a 0-d array or a schedule.
      b1: β₁ in [0, 1), decay of the momentum.
      b2: β₂ in [0, 1), decay of the average of squared norms.
      eps: ε ≥ 0, added outside the root.
      eps_root: ε_root ≥ 0, added under the root.
      weight_decay: λ, a float, a 0-d array or a schedule.
      mask: where λ applies: a tree of bools like the parameters (or a prefix), or a function from parameters to one.

    State: one float32 value per parameter, and one per leaf.
    """
    return chain(
        scale_by_novograd(b1, b2, eps, eps_root, weight_decay, mask=mask),
        scale_by_learning_rate(learning_rate),
    )
