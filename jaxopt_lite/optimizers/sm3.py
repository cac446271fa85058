"""SM3: AdaGrad with one accumulator per row, column, …, from which each entry's own is bounded.

[1] Anil, Gupta, Koren, Singer, "Memory-Efficient Adaptive Optimization", NeurIPS 2019, arXiv:1901.11150, Alg. SM3-II.
"""

from functools import reduce
from typing import NamedTuple

import jax.numpy as jnp

from jaxopt_lite import checks
from jaxopt_lite.compose import chain
from jaxopt_lite.optimizers import moments
from jaxopt_lite.optimizers.scale import add_decayed_weights, scale_by_learning_rate
from jaxopt_lite.transformation import elementwise, transformation
from jaxopt_lite.tree import moment_dtype
from jaxopt_lite.types import Mask, Params, Scalar, ScalarOrSchedule


class ScaleBySM3State(NamedTuple):
    """Accumulators along each axis, and momentum (the names are optax's)."""

    mu: Params  # a list per leaf: [nᵢ] for each axis i, [] for a 0-d leaf; k²·v, see moments.second_moment
    nu: Params  # like params, float32 for 16-bit ones


@transformation
def scale_by_sm3(b1: Scalar = 0.9, b2: Scalar = 1.0, eps: Scalar = 1e-8):
    """SM3's direction [1].

    ```
    vₜ[i, j, …] = β₂·min(aₜ₋₁[i], bₜ₋₁[j], …) + w·|gₜ[i, j, …]|²     w = 1 − β₂, but 1 for β₂ = 1
    aₜ[i] = max over j, … of vₜ[i, j, …]       and so on for each axis
    mₜ = β₁·mₜ₋₁ + (1 − β₁)·gₜ / √(vₜ + ε)     (0 where vₜ = 0)
    uₜ = mₜ
    ```
    """
    moments.check_rates("scale_by_sm3", decays={"b1": b1}, epsilons={"eps": eps})
    checks.between("scale_by_sm3", "b2", b2, 0, 1)
    weight = jnp.where(b2 == 1, 1, 1 - b2) if not isinstance(b2, (int, float)) else (1 - b2 or 1)

    def rule(g, p, s, accumulators, momentum):
        spread = [a.reshape(_along(i, g.shape)) for i, a in enumerate(accumulators)]
        v = moments.second_moment(reduce(jnp.minimum, spread), g, b2, weight)
        u = jnp.where(v == 0, 0, g / moments.root_of(v, eps))
        momentum = moments.ema(momentum, u, b1)
        return momentum, _largest(v), momentum

    def init(leaf):
        dtype = jnp.finfo(moment_dtype(leaf)).dtype
        shapes: list[tuple[int, ...]] = [(n,) for n in leaf.shape] or [()]
        return [jnp.zeros(shape, dtype) for shape in shapes], moments.first_moment(leaf)

    return elementwise(rule, ScaleBySM3State, init=init)


def _along(axis: int, shape: tuple) -> tuple:
    """``shape`` with 1 on every axis but one."""
    return tuple(n if i == axis else 1 for i, n in enumerate(shape))


def _largest(v):
    """For each axis the largest v along all others."""
    if v.ndim < 2:
        return [v]
    others = [tuple(i for i in range(v.ndim) if i != axis) for axis in range(v.ndim)]
    return [jnp.max(v, axes, initial=0) for axes in others]


@transformation
def sm3(
    learning_rate: ScalarOrSchedule,
    momentum: Scalar = 0.9,
    *,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
):
    """SM3-II [1] with momentum and decoupled weight decay.

    ```
    vₜ[i, j, …] = min(aₜ₋₁[i], bₜ₋₁[j], …) + |gₜ[i, j, …]|²
    aₜ[i] = max over j, … of vₜ[i, j, …]       and so on for each axis
    mₜ = μ·mₜ₋₁ + (1 − μ)·gₜ / √(vₜ + ε)       (0 where vₜ = 0; ε = 1e-8)
    uₜ = −η · (mₜ + λ·pₜ)
    ```

    Args:
      learning_rate: η, a float, a 0-d array or a schedule.
      momentum: μ in [0, 1).
      weight_decay: λ, a float, a 0-d array or a schedule.
      mask: where λ applies: a tree of bools like the parameters (or a prefix), or a function from parameters to one.

    State: one float32 value per parameter (the momentum), and one per row and per column.
    """
    return chain(
        scale_by_sm3(momentum),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
