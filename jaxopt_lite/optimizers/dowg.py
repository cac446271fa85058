"""DoWG: a learning rate from the distance travelled and the gradients weighed by it.

[1] Khaled, Mishchenko, Jin, "DoWG Unleashed: An Efficient Universal Parameter-Free Gradient Descent Method",
    NeurIPS 2023, arXiv:2305.16284, Alg. 1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_lite import checks, tree
from jaxopt_lite.compose import chain
from jaxopt_lite.optimizers import moments
from jaxopt_lite.optimizers.scale import add_decayed_weights, identity, scale_by_learning_rate
from jaxopt_lite.transformation import transformation
from jaxopt_lite.types import Array, Mask, Params, Scalar, ScalarOrSchedule


class DoWGState(NamedTuple):
    """The initial parameters, the root of the weighted sum of squared gradient norms, the squared distance."""

    init_params: Params  # a copy
    weighted_norm_grads: Array  # [] float32; √v, which no gradient makes overflow
    estim_sq_dist: Array  # [] float32


@transformation
def scale_by_dowg(init_estim_sq_dist: Scalar | None = None, eps: Scalar = 1e-4):
    """DoWG's step [1]; see ``dowg``."""
    checks.between("scale_by_dowg", "eps", eps, 0, float("inf"))
    start = eps if init_estim_sq_dist is None else init_estim_sq_dist

    def init(params):
        dtype = moments.scalar_dtype(params)
        copies = jax.tree.map(lambda p: moments.own_copy(p, p.dtype), params)
        return DoWGState(copies, jnp.zeros([], dtype), jnp.array(start, dtype))

    def update(updates, state, params=None, **extra):
        checks.require_params("dowg", params)
        dtype = state.estim_sq_dist.dtype
        distance = tree.norm(params, minus=state.init_params).astype(dtype)
        squared = jnp.maximum(state.estim_sq_dist, distance * distance)
        size = jnp.sqrt(squared) * tree.norm(updates).astype(dtype)
        root = moments.running_root(state.weighted_norm_grads, size, 1, 1)
        rate = squared / (root + eps)
        updates = jax.tree.map(lambda g: (rate * g.astype(tree.moment_dtype(g))).astype(g.dtype), updates)
        return updates, DoWGState(state.init_params, root, squared)

    return optax.GradientTransformationExtraArgs(init, update)


@transformation
def dowg(
    learning_rate: ScalarOrSchedule = 1.0,
    init_estim_sq_dist: Scalar | None = None,
    eps: Scalar = 1e-4,
    weight_decay: ScalarOrSchedule | None = None,
    mask: Mask | None = None,
):
    """DoWG [1]: gradient descent without a learning rate to tune.

    ```
    hₜ  = gₜ + λ·pₜ
    r²ₜ = max(r²ₜ₋₁, ‖pₜ − p₁‖²)                r²₀ = init_estim_sq_dist
    vₜ  = vₜ₋₁ + r²ₜ·‖hₜ‖²
    uₜ  = −η · r²ₜ / (√vₜ + ε) · hₜ              norms over all leaves
    ```

    Args:
      learning_rate: η, 1 or a schedule around 1.
      init_estim_sq_dist: r²₀ > 0, a low guess of the squared distance to the solution; by default ε.
      eps: ε ≥ 0.
      weight_decay: λ, a float, a 0-d array or a schedule, added to the gradient (L2), as in optax; ``None`` for none.
      mask: where λ applies: a tree of bools like the parameters (or a prefix), or a function from parameters to one.

    State: a copy of the parameters.
    """
    return chain(
        identity() if weight_decay is None else add_decayed_weights(weight_decay, mask),
        scale_by_dowg(init_estim_sq_dist, eps),
        scale_by_learning_rate(learning_rate),
    )
