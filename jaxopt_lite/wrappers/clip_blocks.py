"""Bound each leaf's update by its root mean square, or each unit's by the norm of the unit's parameters.

[1] Brock, De, Smith, Simonyan, "High-Performance Large-Scale Image Recognition Without Normalization", ICML 2021,
    arXiv:2102.06171, Sec. 4.1.
"""

import math
from typing import Any

import jax.numpy as jnp

from jaxopt_lite import checks
from jaxopt_lite.optimizers.norms import rms
from jaxopt_lite.transformation import elementwise, transformation
from jaxopt_lite.types import Array, Scalar


@transformation
def clip_by_block_rms(threshold: Scalar):
    """Scale each leaf so that its root mean square is at most ``threshold``, as Adafactor does.

    ```
    u = g / max(1, rms(g) / threshold),  rms(g) = √(Σ |gᵢ|² / size)
    ```

    Right for entries of any magnitude. A leaf with a NaN or infinity cannot be clipped and passes as it is.

    Args:
      threshold: ≥ 0.

    >>> tx = clip_by_block_rms(1.0)
    >>> g = {"a": jnp.array([3.0, 3.0]), "b": jnp.array([0.5, 0.5])}
    >>> updates, _ = tx.update(g, tx.init(g))
    >>> updates["a"].tolist(), updates["b"].tolist()
    ([1.0, 1.0], [0.5, 0.5])
    """
    checks.between("clip_by_block_rms", "threshold", threshold, 0, float("inf"))

    def rule(g, p, s):
        return (g * _factor(rms(g), threshold),)

    return elementwise(rule)


@transformation
def adaptive_grad_clip(clipping: Scalar, eps: Scalar = 1e-3, axis: Any = None):
    """Scale each unit's gradient to at most a part of the norm of the unit's parameters [1].

    ```
    u = g · min(1, λ·max(‖p‖, ε) / ‖g‖)      for each unit
    ```

    A unit is what feeds one output: a vector as a whole (also one with axes of length 1), else all entries that
    share the indices on the other axes than the first (rank 2 and 3), or the last index (rank 4 and more:
    convolution kernels). A unit with a NaN or infinity cannot be clipped and passes as it is.

    Args:
      clipping: λ ≥ 0; [1] uses 0.01 to 0.16.
      eps: ε ≥ 0, so that parameters of zero can move.
      axis: the axes over which norms are taken, where units lie otherwise: −2 for stacked ``[layer, in, out]``.

    ``update`` needs ``params``.

    >>> tx = adaptive_grad_clip(0.1)
    >>> kernel = jnp.array([[3.0, 300.0], [4.0, 400.0]])  # [in, out]: units of norm 5 and 500
    >>> updates, _ = tx.update(jnp.full((2, 2), 2.0), tx.init(kernel), kernel)
    >>> [round(x, 1) for x in jnp.linalg.norm(updates, axis=0).tolist()]
    [0.5, 2.8]
    """
    checks.between("adaptive_grad_clip", "clipping", clipping, 0, float("inf"))
    checks.between("adaptive_grad_clip", "eps", eps, 0, float("inf"))

    def rule(g, p, s):
        axes = _unit_axes(g) if axis is None else (axis if isinstance(axis, tuple) else (axis,))
        root = math.sqrt(max(1, math.prod(g.shape[a] for a in axes)))  # ‖x‖ = rms(x)·root
        bound = clipping * jnp.maximum(rms(p, axes), eps / root)
        return (g * _factor(rms(g, axes), bound),)

    return elementwise(rule, reads_params=True)


def _unit_axes(x: Array) -> tuple[int, ...]:
    """The axes within a unit."""
    if sum(length != 1 for length in x.shape) <= 1:
        return tuple(range(x.ndim))
    return (0,) if x.ndim in (2, 3) else tuple(range(x.ndim - 1))


def _factor(size: Array, bound: Any) -> Array:
    """bound / size where that shrinks, else 1; a size that is not finite cannot be bounded."""
    over = (size > bound) & jnp.isfinite(size)
    return jnp.where(over, bound / jnp.where(over, size, 1), 1)
