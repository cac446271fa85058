"""Hyperball: every matrix keeps the Frobenius norm that it began with.

[1] Wen, Dang, Lyu, Ma, Liang, "Fantastic Pretraining Optimizers and Where to Find Them 2.1: Hyperball
    Optimization", 2025, https://tinyurl.com/muonh; arXiv:2606.16899.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_lite import checks, tree
from jaxopt_lite.optimizers import matrices
from jaxopt_lite.transformation import transformation
from jaxopt_lite.types import Array, Params


class HyperballState(NamedTuple):
    """The first norms, and the state of the wrapped transformation."""

    radius: Params  # the leaf's shape with 1 on its matrices' axes; [0] for a leaf that holds none
    inner: Any


@transformation
def hyperball(tx, *, matrix_axes: matrices.MatrixAxes = None):
    """Move the parameters by the update of ``tx``, then back to the sphere of their first norm [1].

    ```
    Rᵢ = ‖Pᵢ‖ at init
    P′ = Pᵢ + Dᵢ                   Dᵢ the update of tx, learning rate included
    Uᵢ = P′·Rᵢ/‖P′‖ − Pᵢ           for each matrix i; other leaves take Dᵢ
    ```

    It takes the place of weight decay, which would only change ‖P′‖. In [1] the step is relative to the norm too,
    η·R·D/‖D‖: put ``scale_by_trust_ratio`` into ``tx``, as in
    ``hyperball(chain(scale_by_muon(), scale_by_trust_ratio(), scale_by_learning_rate(0.02)))``.
    A matrix that begins as 0 takes Dᵢ, and so does one whose step is 0 or ends at 0.

    Args:
      tx: any transformation; the updates need ``params``.
      matrix_axes: which leaves are matrices, along which axes, as in ``muon``; by default the last two axes of
        every leaf of rank ≥ 2.

    State: one float32 value per matrix.

    >>> import jaxopt_lite as jol
    >>> tx = hyperball(jol.sgd(1.0))
    >>> params = jnp.array([[3.0, 0.0], [0.0, 4.0]])
    >>> updates, _ = tx.update(jnp.array([[3.0, 0.0], [0.0, 0.0]]), tx.init(params), params)
    >>> (params + updates).tolist()
    [[0.0, 0.0], [0.0, 5.0]]
    """
    name, inner = "hyperball", optax.with_extra_args_support(tx)

    def init(params):
        leaves, treedef = jax.tree.flatten(params, is_leaf=tree.is_none)
        axes = matrices.axes_of(name, matrix_axes, params)
        radius = [p if p is None else _radius(p, a) for p, a in zip(leaves, axes, strict=True)]
        return HyperballState(treedef.unflatten(radius), inner.init(params))

    def update(updates, state, params=None, **extra):
        checks.require_params("hyperball", params)
        updates, new = inner.update(updates, state.inner, params, **extra)
        leaves, treedef = jax.tree.flatten(updates, is_leaf=tree.is_none)
        axes = matrices.axes_of(name, matrix_axes, updates)
        columns = leaves, treedef.flatten_up_to(params), treedef.flatten_up_to(state.radius), axes
        u = [d if d is None or a is None else _back(d, p, r, a) for d, p, r, a in zip(*columns, strict=True)]
        return treedef.unflatten(u), HyperballState(state.radius, new)

    return optax.GradientTransformationExtraArgs(init, update)


def _radius(p: Any, axes: matrices.Axes | None) -> Array:
    """The norm of each matrix of a leaf; zeros for a ``ShapeDtypeStruct``."""
    p = p if hasattr(p, "dtype") else jnp.asarray(p)
    dtype = jnp.finfo(tree.moment_dtype(p)).dtype
    if axes is None:
        return jnp.zeros(0, dtype)
    if isinstance(p, jax.ShapeDtypeStruct):
        within = axes.inputs + axes.outputs
        return jnp.zeros([1 if i in within else n for i, n in enumerate(p.shape)], dtype)
    return _norm(p.astype(tree.moment_dtype(p)), axes)


def _norm(x: Array, axes: matrices.Axes) -> Array:
    """‖x‖ of each matrix, the largest entry divided out before squaring."""
    within = axes.inputs + axes.outputs
    largest = jax.lax.stop_gradient(jnp.max(tree.abs_bound(x), within, keepdims=True, initial=0))
    safe = jnp.where(largest > 0, largest, 1)
    return tree.safe_sqrt(jnp.sum(tree.abs2(x / safe), within, keepdims=True)) * largest


def _back(d: Array, p: Array, radius: Array, axes: matrices.Axes) -> Array:
    """The update that ends on the sphere, in d's dtype."""
    dtype = jnp.result_type(radius, tree.moment_dtype(p))
    step, p = d.astype(dtype), p.astype(dtype)
    norm = _norm(p + step, axes)
    moves = jnp.any(d != 0, axes.inputs + axes.outputs, keepdims=True) & (radius > 0) & (norm > 0)
    factor = jnp.where(moves, radius / jnp.where(moves, norm, 1), 1)
    return (p * (factor - 1) + step * factor).astype(d.dtype)
