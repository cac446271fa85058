"""Lion: the sign of a momentum that looks further back than the one it is compared with.

[1] Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023, arXiv:2302.06675, Alg. 2.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxopt_lite import checks
from jaxopt_lite.compose import chain
from jaxopt_lite.optimizers import moments
from jaxopt_lite.optimizers.scale import add_decayed_weights, scale_by_learning_rate
from jaxopt_lite.transformation import elementwise, transformation
from jaxopt_lite.types import Array, Mask, Params, Scalar, ScalarOrSchedule


class ScaleByLionState(NamedTuple):
    """Step count and momentum."""

    count: Array  # [] int32; unused, kept for optax's checkpoints
    mu: Params  # like params, float32 for 16-bit ones


@transformation
def scale_by_lion(
    b1: Scalar = 0.9,
    b2: Scalar = 0.99,
    mu_dtype: Any = None,
    *,
    mode: str = "hard",
    smooth_beta: Scalar = 1.0,
):
    """Lion's direction [1].

    ```
    uₜ = sign(β₁·mₜ₋₁ + (1 − β₁)·gₜ)
    mₜ = β₂·mₜ₋₁ + (1 − β₂)·gₜ
    ```

    A complex entry's sign is its direction, c / |c|. As in optax, ``mode`` chooses what stands for sign(c): with
    ``"smooth"`` tanh(smooth_beta·c), with ``"refined"`` c itself where |c| < 1.
    """
    checks.one_of("scale_by_lion", "mode", mode, ("hard", "smooth", "refined"))
    moments.check_rates("scale_by_lion", decays={"b1": b1, "b2": b2})
    # With m = (mₜ − (1 − β₂)·g) / β₂ the sign is that of β₁·mₜ + (β₂ − β₁)·g: the old momentum is read once
    # only, so that XLA overwrites it in place. Not for small β₂, where digits cancel.
    from_new = mode == "hard" and isinstance(b2, float) and b2 >= 0.5

    def rule(g, p, s, mu):
        new = moments.ema(mu, g, b2)
        c = b1 * new + (b2 - b1) * g if from_new else moments.ema(mu, g, b1)
        return _sign(c, mode, smooth_beta), new

    return elementwise(rule, ScaleByLionState, init=lambda leaf: (moments.first_moment(leaf, mu_dtype),))


def _sign(c: Array, mode: str, smooth_beta: Scalar) -> Array:
    """Lion's sign of c, or a continuous function in its place."""
    sign = jnp.sign(c)
    if mode == "hard":
        return sign
    size = jnp.abs(c)
    return sign * (jnp.tanh(smooth_beta * size) if mode == "smooth" else jnp.minimum(size, 1))


@transformation
def lion(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.99,
    mu_dtype: Any = None,
    weight_decay: ScalarOrSchedule = 1e-3,
    mask: Mask | None = None,
):
    """Lion [1]: every coordinate moves by η, in the direction of an interpolated momentum.

    ```
    uₜ = −η · (sign(β₁·mₜ₋₁ + (1 − β₁)·gₜ) + λ·pₜ)
    mₜ = β₂·mₜ₋₁ + (1 − β₂)·gₜ
    ```

    Its η should be 3–10 times smaller, and its λ as much larger, than AdamW's [1]. A complex entry's sign is
    its direction, c / |c|.

    Args:
      learning_rate: η, a float, a 0-d array or a schedule.
      b1: β₁ in [0, 1), weight of the momentum in the direction.
      b2: β₂ in [0, 1), decay of the momentum.
      mu_dtype: how real leaves' momentum is stored; by default float32 for 16-bit parameters.
      weight_decay: λ, a float, a 0-d array or a schedule.
      mask: where λ applies: a tree of bools like the parameters (or a prefix), or a function from parameters to one.

    State: one float32 value per parameter, 4 bytes (float64 for float64 parameters).

    >>> import jax.numpy as jnp
    >>> tx = lion(0.25, weight_decay=0.0)
    >>> params = jnp.zeros(3)
    >>> tx.update(jnp.array([1e20, -1e-30, 0.0]), tx.init(params), params)[0].tolist()
    [-0.25, 0.25, -0.0]
    """
    return chain(
        scale_by_lion(b1, b2, mu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
