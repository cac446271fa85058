"""Rprop: every coordinate has its own step size, which grows while the gradient keeps its sign.

[1] Riedmiller, Braun, "A Direct Adaptive Method for Faster Backpropagation Learning: The RPROP Algorithm", ICNN 1993.
[2] Igel, Hüsken, "Improving the Rprop Learning Algorithm", NC 2000, Alg. 4 (iRprop−).
"""

from typing import NamedTuple

import jax.numpy as jnp

from jaxopt_lite import checks
from jaxopt_lite.compose import chain
from jaxopt_lite.optimizers import moments
from jaxopt_lite.optimizers.scale import scale
from jaxopt_lite.transformation import elementwise, transformation
from jaxopt_lite.tree import moment_dtype
from jaxopt_lite.types import Params, Scalar, ScalarOrSchedule


class ScaleByRpropState(NamedTuple):
    """Step sizes, and the last update."""

    step_sizes: Params  # like |params|, float32 for 16-bit ones
    prev_updates: Params  # like params, float32 for 16-bit ones; 0 after a change of sign


@transformation
def scale_by_rprop(
    learning_rate: ScalarOrSchedule,
    eta_minus: Scalar = 0.5,
    eta_plus: Scalar = 1.2,
    min_step_size: Scalar = 1e-6,
    max_step_size: Scalar = 50.0,
):
    """Rprop's direction [2]; see ``rprop``. It is not scaled any further."""
    name = "scale_by_rprop"
    checks.between(name, "eta_minus", eta_minus, 0, 1, open_low=True)
    checks.between(name, "eta_plus", eta_plus, 1, float("inf"))
    checks.between(name, "min_step_size", min_step_size, 0, float("inf"))
    checks.between(name, "max_step_size", max_step_size, 0, float("inf"))

    def rule(g, p, s, size, last):
        direction = jnp.sign(g)
        # −1, 0 or 1 for real entries; from signs, since products of gradients overflow.
        agreement = (direction * jnp.sign(last).conj()).real
        factor = jnp.where(agreement < 0, eta_minus, eta_plus)
        size = jnp.where(agreement == 0, size, jnp.clip(size * factor, min_step_size, max_step_size))
        last = jnp.where(agreement < 0, 0, size * direction)
        return last, size, last

    def init(leaf):
        first = learning_rate(jnp.zeros([], jnp.int32)) if callable(learning_rate) else learning_rate
        sizes = jnp.full_like(leaf, first, dtype=jnp.finfo(moment_dtype(leaf)).dtype)
        return sizes, moments.first_moment(leaf)

    return elementwise(rule, ScaleByRpropState, init=init)


@transformation
def rprop(
    learning_rate: ScalarOrSchedule,
    eta_minus: Scalar = 0.5,
    eta_plus: Scalar = 1.2,
    min_step_size: Scalar = 1e-6,
    max_step_size: Scalar = 50.0,
):
    """Rprop [1] in the variant iRprop− [2], which is also PyTorch's; for full-batch gradients.

    ```
    sₜ = sign(gₜ)·sign(uₜ₋₁)                where uₜ₋₁ = 0 (also after a change of sign): 0
    Δₜ = min(η₊·Δₜ₋₁, Δmax)  if sₜ > 0;   max(η₋·Δₜ₋₁, Δmin)  if sₜ < 0;   Δₜ₋₁  else       (Δ₀ = η)
    uₜ = −Δₜ·sign(gₜ)  if sₜ ≥ 0;   0  if sₜ < 0
    ```

    optax emits each update one step late, and not at all when the sign changes then; here [2] rules. For a complex
    entry the sign is g / |g|, and sₜ is the real part of the product of one with the other's conjugate.

    Args:
      learning_rate: η, the first step size: a float, a 0-d array, or a schedule (its value at step 0).
      eta_minus: η₋ in (0, 1].
      eta_plus: η₊ ≥ 1.
      min_step_size: Δmin ≥ 0.
      max_step_size: Δmax.

    State: two float32 values per parameter. Step sizes adapt by themselves: there is no weight decay.
    """
    return chain(
        scale_by_rprop(learning_rate, eta_minus, eta_plus, min_step_size, max_step_size), scale(-1.0)
    )
