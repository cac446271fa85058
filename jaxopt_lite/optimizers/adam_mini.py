"""Adam-mini: Adam with one second moment per neuron, or per tensor, in place of one per entry.

[1] Zhang et al., "Adam-mini: Use Fewer Learning Rates To Gain More", ICLR 2025, arXiv:2406.16793, Alg. 2.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxopt_lite.compose import chain
from jaxopt_lite.optimizers import moments
from jaxopt_lite.optimizers.scale import add_decayed_weights, scale_by_learning_rate
from jaxopt_lite.transformation import elementwise, transformation
from jaxopt_lite.tree import moment_dtype
from jaxopt_lite.types import Array, Mask, Params, Scalar, ScalarOrSchedule


class ScaleByAdamMiniState(NamedTuple):
    """Step count, a momentum per entry and a second moment per block."""

    count: Array  # [] int32
    mu: Params  # like params, float32 for 16-bit ones
    nu: Params  # the leaf's shape with 1 on every shared axis; k²·v, see moments.second_moment


def neurons(leaf: Any) -> tuple[int, ...]:
    """The axes of a leaf along which every index has its own v: the outputs of a matrix [in, out], else none."""
    return (1,) if leaf.ndim == 2 else ()


@transformation
def scale_by_adam_mini(
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    *,
    blocks: Callable[[Any], tuple[int, ...]] | None = None,
):
    """Adam-mini's direction [1]; see ``adam_mini``."""
    moments.check_rates("scale_by_adam_mini", decays={"b1": b1, "b2": b2}, epsilons={"eps": eps})

    def shared(leaf):
        kept = {axis % leaf.ndim for axis in (blocks or neurons)(leaf)}
        return tuple(axis for axis in range(leaf.ndim) if axis not in kept)

    def scalars(t, updates):
        return 1 / moments.bias_correction(b1, t), 1 / moments.bias_correction(b2, t)

    def rule(g, p, s, mu, nu):
        first, second = s
        mu = moments.ema(mu, g, b1)
        nu = moments.ema(nu, moments.mean_squared(g, shared(g)), b2)
        return mu * (first / (moments.root_of(second * nu) + eps)), mu, nu

    def init(leaf):
        axes = shared(leaf)
        shape = tuple(1 if axis in axes else n for axis, n in enumerate(leaf.shape))
        return moments.first_moment(leaf), jnp.zeros(shape, jnp.finfo(moment_dtype(leaf)).dtype)

    return elementwise(rule, ScaleByAdamMiniState, init=init, scalars=scalars)


@transformation
def adam_mini(
    learning_rate: ScalarOrSchedule,
    *,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
    blocks: Callable[[Any], tuple[int, ...]] | None = None,
):
    """Adam-mini [1] with decoupled weight decay.

    ```
    mₜ = β₁·mₜ₋₁ + (1 − β₁)·gₜ
    vₜ = β₂·vₜ₋₁ + (1 − β₂)·mean over the block of |gₜ|²
    uₜ = −η · ((mₜ / (1 − β₁ᵗ)) / (√(vₜ / (1 − β₂ᵗ)) + ε) + λ·pₜ)
    ```

    A block is an output neuron (a column) of a matrix [in, out], and the whole of any other tensor.

    # deviation from [1]: it splits queries and keys by head and embeddings by token; say so with ``blocks``.

    Args:
      learning_rate: η, a float, a 0-d array or a schedule.
      b1: β₁ in [0, 1), decay of the average of gradients.
      b2: β₂ in [0, 1), decay of the average of squared gradients.
      eps: ε ≥ 0, added outside the root.
      weight_decay: λ, a float, a 0-d array or a schedule.
      mask: where λ applies: a tree of bools like the parameters (or a prefix), or a function from parameters to one.
      blocks: ``leaf -> axes`` along which every index has its own v, called with each leaf (or its
        ``ShapeDtypeStruct``): ``(0,)`` for one per row of an embedding, ``(1,)`` for one per head of a kernel
        [in, heads, size], ``()`` for one in all.

    State: one float32 value per parameter, and one per block.
    """
    return chain(
        scale_by_adam_mini(b1, b2, eps, blocks=blocks),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
