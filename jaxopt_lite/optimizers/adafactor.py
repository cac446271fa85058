"""Adafactor: Adam's denominator from one value per row and one per column, and steps relative to the weights.

[1] Shazeer, Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", ICML 2018, arXiv:1804.04235,
    Alg. 4 and 5.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxopt_lite import checks
from jaxopt_lite.compose import chain
from jaxopt_lite.optimizers import moments
from jaxopt_lite.optimizers.scale import add_decayed_weights, scale, scale_by_learning_rate
from jaxopt_lite.optimizers.sign import ema
from jaxopt_lite.transformation import elementwise, transformation
from jaxopt_lite.tree import abs2, moment_dtype, safe_sqrt
from jaxopt_lite.types import Array, Mask, Params, Scalar, ScalarOrSchedule


class FactoredState(NamedTuple):
    """Step count; second moments by row and column where a leaf is factored, by entry where it is not.

    All are k²·v, see moments.second_moment; what a leaf does not use has shape [1].
    """

    count: Array  # [] int32
    v_row: Params  # the leaf's shape without its largest axis
    v_col: Params  # the leaf's shape without its second largest axis
    v: Params  # like |params|


def factored_axes(shape: tuple[int, ...], min_size: int) -> tuple[int, int] | None:
    """The second largest and the largest axis, or ``None`` when one of them is shorter than ``min_size``."""
    if len(shape) < 2:
        return None
    second, largest = (int(i) for i in np.argsort(shape)[-2:])
    return (second, largest) if shape[second] >= max(1, min_size) else None


@transformation
def scale_by_factored_rms(
    factored: bool = True,
    decay_rate: Scalar = 0.8,
    step_offset: Any = 0,
    min_dim_size_to_factor: int = 128,
    epsilon: Scalar = 1e-30,
    decay_rate_fn: Callable | None = None,
):
    """Adafactor's direction [1, Alg. 4].

    ```
    β  = 1 − t^(−decay_rate)
    Rₜ = β·Rₜ₋₁ + (1 − β)·mean over columns of (|gₜ|² + ε)
    Cₜ = β·Cₜ₋₁ + (1 − β)·mean over rows of (|gₜ|² + ε)
    uₜ = gₜ / √(Rₜ·Cₜ / mean(Rₜ))
    ```

    A leaf whose two largest axes are not both as long as ``min_dim_size_to_factor`` has v per entry instead.

    Args:
      factored: whether to factor at all.
      decay_rate: exponent ≥ 0 of the decay.
      step_offset: steps that t lags behind the count, for fine-tuning.
      min_dim_size_to_factor: shortest axis that is factored.
      epsilon: ε ≥ 0.
      decay_rate_fn: ``(step, decay_rate) -> β``, in place of the power law; its step counts from 0.
    """
    name = "scale_by_factored_rms"
    checks.between(name, "decay_rate", decay_rate, 0, float("inf"))
    checks.between(name, "epsilon", epsilon, 0, float("inf"))
    axes_of = lambda shape: factored_axes(shape, min_dim_size_to_factor) if factored else None

    def scalars(t, updates):
        step = t - step_offset
        if decay_rate_fn is not None:
            decay = decay_rate_fn(step - 1, decay_rate)
            return decay, 1 - decay
        weight = jnp.maximum(step, 1).astype(jnp.result_type(float)) ** -decay_rate
        return 1 - weight, weight

    def accumulate(v, square, s):
        return s[0] * v + s[1] * (square + moments.K**2 * epsilon)

    def rule(g, p, s, v_row, v_col, v):
        axes = axes_of(g.shape)
        if axes is None:
            v = accumulate(v, moments.squared(g), s)
            return g / moments.root_of(v), v_row, v_col, v
        second, largest = axes
        v_row = accumulate(v_row, moments.mean_squared(g, largest).squeeze(largest), s)
        v_col = accumulate(v_col, moments.mean_squared(g, second).squeeze(second), s)
        row, column = jnp.expand_dims(v_row, largest), jnp.expand_dims(v_col, second)
        by_row = moments.root_of(jnp.mean(row, second, keepdims=True)) / moments.root_of(row)
        return g * by_row * (1 / moments.root_of(column)), v_row, v_col, v

    def init(leaf):
        axes, dtype = axes_of(leaf.shape), jnp.finfo(moment_dtype(leaf)).dtype
        if axes is None:
            return jnp.zeros(1, dtype), jnp.zeros(1, dtype), moments.real_moment(leaf)
        row, column = (jnp.zeros(np.delete(leaf.shape, axis), dtype) for axis in reversed(axes))
        return row, column, jnp.zeros(1, dtype)

    return elementwise(rule, FactoredState, init=init, scalars=scalars)


@transformation
def scale_by_param_block_rms(min_scale: Scalar = 1e-3):
    """u = g · max(rms(p), min_scale), for each leaf: steps relative to the size of the weights [1].

    rms(p) counts as 0 below 1e-19, and as 1.8e19/√n of n entries beyond that.
    """

    def rule(g, p, s):
        return (g * jnp.maximum(_rms(p), min_scale),)

    return elementwise(rule, reads_params=True)


@transformation
def _clip_rms(threshold: Scalar):
    """u = g / max(1, rms(g) / threshold), for each leaf."""

    def rule(g, p, s):
        return (g * (1 / jnp.maximum(1, _rms(g) / threshold)),)

    return elementwise(rule)


def _rms(x: Array) -> Array:
    """√mean(|x|²), at most 1.8e19/√n of n entries in float32: a plain sum is one pass, and held where it overflows."""
    total = jnp.minimum(jnp.sum(abs2(x), keepdims=True), float(jnp.finfo(x.dtype).max))
    return safe_sqrt(total / max(1, x.size))


@transformation
def adafactor(
    learning_rate: ScalarOrSchedule | None = None,
    min_dim_size_to_factor: int = 128,
    decay_rate: Scalar = 0.8,
    decay_offset: Any = 0,
    multiply_by_parameter_scale: bool = True,
    clipping_threshold: Scalar | None = 1.0,
    momentum: Scalar | None = None,
    dtype_momentum: Any = jnp.float32,
    weight_decay_rate: ScalarOrSchedule | None = None,
    eps: Scalar = 1e-30,
    factored: bool = True,
    weight_decay_mask: Mask | None = None,
):
    """Adafactor [1].

    ```
    dₜ = gₜ / √v̂ₜ                            v̂ₜ by rows and columns, see scale_by_factored_rms
    dₜ ← dₜ / max(1, rms(dₜ) / d)            for each leaf
    dₜ ← η · dₜ · max(rms(pₜ), 1e-3)
    uₜ = −(dₜ + λ·pₜ)                        (momentum: the average of dₜ in place of dₜ)
    ```

    Args:
      learning_rate: η, a float, a 0-d array, a schedule, or ``None`` for 1.
      min_dim_size_to_factor: shortest axis that is factored.
      decay_rate: the second moment's decay is 1 − t^(−decay_rate).
      decay_offset: steps that t lags behind the count, for fine-tuning.
      multiply_by_parameter_scale: whether steps are relative to the weights' rms.
      clipping_threshold: d > 0, or ``None`` for no clipping. An rms beyond 1.8e19/√n of n entries counts as that.
      momentum: decay in [0, 1) of an average of the steps, or ``None`` for none (and no state).
      dtype_momentum: how real leaves' momentum is stored.
      weight_decay_rate: λ, a float, a 0-d array or a schedule; not multiplied by η.
      eps: ε ≥ 0, added to squared gradients.
      factored: whether to factor at all.
      weight_decay_mask: where λ applies: a tree of bools like the parameters (or a prefix), or a function from
        parameters to one.

    State: one float32 value per row and per column of a factored leaf, one per entry of another.
    """
    if clipping_threshold is not None:
        checks.between("adafactor", "clipping_threshold", clipping_threshold, 0, float("inf"), open_low=True)
    parts = [
        scale_by_factored_rms(factored, decay_rate, decay_offset, min_dim_size_to_factor, eps),
        None if clipping_threshold is None else _clip_rms(clipping_threshold),
        None if learning_rate is None else scale_by_learning_rate(learning_rate, flip_sign=False),
        scale_by_param_block_rms() if multiply_by_parameter_scale else None,
        None if momentum is None else ema(momentum, debias=False, accumulator_dtype=dtype_momentum),
        None if weight_decay_rate is None else add_decayed_weights(weight_decay_rate, weight_decay_mask),
    ]
    return chain(*(part for part in parts if part is not None), scale(-1.0))
