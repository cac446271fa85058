"""Muon: momentum whose singular values are all made about 1, for matrices; AdamW for the rest.

[1] Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
    https://kellerjordan.github.io/posts/muon.
[2] Liu et al., "Muon is Scalable for LLM Training", 2025, arXiv:2502.16982: "match_rms_adamw" and weight decay.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_lite import checks, shares, tree
from jaxopt_lite.compose import chain, partition
from jaxopt_lite.optimizers import matrices, moments
from jaxopt_lite.optimizers.adam import adamw
from jaxopt_lite.optimizers.newton_schulz import Coefficients, coefficients_of, orthogonalize
from jaxopt_lite.optimizers.scale import add_decayed_weights, scale_by_learning_rate
from jaxopt_lite.transformation import transformation
from jaxopt_lite.types import Array, Params, Scalar, ScalarOrSchedule

SCALES: dict[str, Callable[[int, int], float]] = {
    "original": lambda inputs, outputs: max(1.0, outputs / max(1, inputs)) ** 0.5,
    "match_rms_adamw": lambda inputs, outputs: 0.2 * max(inputs, outputs) ** 0.5,
}
"""What a direction of about orthonormal rows or columns is multiplied by, from a kernel's [in, out]."""

STACK_BYTES = 2**20
"""Small matrices of one shape are stacked up to this size; larger ones are faster, and take less memory, alone."""


class MuonState(NamedTuple):
    """The momentum."""

    mu: Params  # like params, float32 for 16-bit ones


@transformation
def scale_by_muon(
    momentum: Scalar = 0.95,
    nesterov: bool = True,
    steps: int = 5,
    coefficients: Any = "jordan",
    scale: str = "original",
    *,
    matrix_axes: matrices.MatrixAxes = None,
):
    """Muon's direction [1], see ``muon``; a leaf that holds no matrices gets the momentum itself."""
    name = "scale_by_muon"
    moments.check_rates(name, decays={"momentum": momentum})
    checks.one_of(name, "scale", scale, list(SCALES))
    abc = coefficients_of(name, coefficients, steps)
    average = momentum_rule(momentum, nesterov)

    def update(updates, state, params=None, **extra):
        leaves, treedef = jax.tree.flatten(updates, is_leaf=tree.is_none)
        axes = matrices.axes_of(name, matrix_axes, updates)
        u, mu = orthogonal_momentum(leaves, treedef.flatten_up_to(state.mu), axes, average, abc)
        u = [_finish(x, g, a, SCALES[scale]) for x, g, a in zip(u, leaves, axes, strict=True)]
        return treedef.unflatten(u), MuonState(treedef.unflatten(mu))

    return optax.GradientTransformationExtraArgs(lambda params: MuonState(tree.zeros(params)), update)


def _finish(u: Any, g: Any, axes: matrices.Axes | None, scale: Callable) -> Any:
    """The direction at its scale, in the gradient's dtype."""
    if u is None or axes is None:
        return u if u is None else u.astype(g.dtype)
    return (scale(*matrices.sizes(u.shape, axes)) * u).astype(g.dtype)


def momentum_rule(momentum: Scalar, nesterov: bool) -> Callable[[Array, Array], tuple[Array, Array]]:
    """``(g, m) -> (direction, new m)``, in m's dtype; traced once per shape."""

    @jax.jit
    def average(g, mu):
        wide = g.astype(mu.dtype)
        mu = shares.placed_like(mu, moments.ema(mu, wide, momentum))
        return (moments.ema(mu, wide, momentum) if nesterov else mu), mu

    return average


def orthogonal_momentum(
    grads: list, mus: list, axes: list, average: Callable, coefficients: Coefficients
) -> tuple[list, list]:
    """For each leaf its new momentum, and the momentum orthogonalised where ``axes`` say that it holds matrices."""
    rows = [(None, mu) if g is None else average(g, mu) for g, mu in zip(grads, mus, strict=True)]
    u: list[Any] = [direction for direction, _ in rows]
    chosen = [i for i, a in enumerate(axes) if a is not None and u[i] is not None]
    views = orthogonalize_all([matrices.to_matrices(u[i], axes[i]) for i in chosen], coefficients)
    for i, view in zip(chosen, views, strict=True):
        u[i] = matrices.from_matrices(view, u[i].shape, axes[i])
    return u, [mu for _, mu in rows]


def orthogonalize_all(views: list[Array], coefficients: Coefficients) -> list[Array]:
    """``orthogonalize`` of every [batch, m, n], in one call for several small ones of the same shape.

    On a mesh in one call for all of the same shape, of which each device computes its share.
    """
    done: dict[int, Array] = {}
    u = None
    for group in _groups(views, math.inf if shares.on_mesh() else STACK_BYTES):
        stack = views[group[0]] if len(group) == 1 else jnp.concatenate([views[i] for i in group])
        stack = stack if u is None else _in_turn(stack, u)
        ends = [sum(len(views[i]) for i in group[:k]) for k in range(1, len(group))]
        u = shares.share_out(lambda x: orthogonalize(x, coefficients), stack)
        done |= zip(group, jnp.split(u, ends), strict=True)
    return [done[i] for i in range(len(views))]


def _in_turn(x: Array, before: Array) -> Array:
    """``x``, on CPUs only once ``before`` is there: at once, products would take cache from each other, and memory."""
    if shares.on_mesh() or jax.sharding.get_abstract_mesh().manual_axes:  # they may lie over different axes
        return x
    wait = lambda x, before: jnp.where(tree.known_late(before), x, 0)
    return jax.lax.platform_dependent(x, before, cpu=wait, default=lambda x, before: x)


def _groups(views: list[Array], most: float = STACK_BYTES) -> list[list[int]]:
    """Places of arrays that share shape and dtype, in runs of at ``most`` so many bytes."""
    groups: list[list[int]] = []
    open_groups: dict[Any, tuple[list[int], int]] = {}
    for i, x in enumerate(views):
        key = (*x.shape[1:], x.dtype)
        group, size = open_groups.get(key, (None, 0))
        if group is None or size + _bytes(x) > most:
            group, size = [], 0
            groups.append(group)
        group.append(i)
        open_groups[key] = (group, size + _bytes(x))
    return groups


def _bytes(x: Any) -> int:
    return x.size * x.dtype.itemsize


@transformation
def muon(
    learning_rate: ScalarOrSchedule,
    *,
    momentum: Scalar = 0.95,
    nesterov: bool = True,
    steps: int = 5,
    coefficients: Any = "jordan",
    scale: str = "original",
    weight_decay: ScalarOrSchedule = 0.0,
    matrix_axes: matrices.MatrixAxes = None,
    adam_learning_rate: ScalarOrSchedule | None = None,
    adam_b1: Scalar = 0.9,
    adam_b2: Scalar = 0.999,
    adam_weight_decay: ScalarOrSchedule = 0.0,
):
    """Muon [1].

    ```
    Mₜ = μ·Mₜ₋₁ + (1 − μ)·Gₜ
    Dₜ = μ·Mₜ + (1 − μ)·Gₜ                 (without nesterov: Mₜ)
    Oₜ ≈ U·Vᴴ  of  Dₜ = U·S·Vᴴ             Newton–Schulz, see newton_schulz.orthogonalize
    Uₜ = −η · (c·Oₜ + λ·Pₜ)                c = √max(1, out/in), or 0.2·√max(in, out)
    ```

    A kernel is [in, out]; leaves of higher rank are stacks of kernels [..., in, out]. A stack of biases
    [layers, out] looks like a kernel: say so with ``matrix_axes={"bias": None}``. Embeddings and heads are
    often better off with AdamW too. On a mesh call ``update`` under ``jax.set_mesh``: matrices of one shape are then
    shared out, each to one device, instead of being multiplied in parts. Updates come back to where gradients lie.

    # deviation from [1]: its M is a sum, not an average, which is the same direction; no bfloat16.

    Args:
      learning_rate: η, a float, a 0-d array or a schedule.
      momentum: μ in [0, 1).
      nesterov: look ahead by one step of momentum.
      steps: iterations ≥ 1 of Newton–Schulz.
      coefficients: of the iteration. ``"jordan"`` [1] leaves singular values in 0.68 … 1.14; ``"dion"`` is
        closer to 1, and ``"polar_express"`` converges: after 9 steps to float32 accuracy for well-conditioned
        matrices. Or a sequence of (a, b, c) per step, the last one repeated.
      scale: ``"original"`` [1], or ``"match_rms_adamw"`` [2], with which AdamW's η and λ carry over.
      weight_decay: λ, a float, a 0-d array or a schedule.
      matrix_axes: which axes of a leaf are the matrix's inputs and outputs, the others being batch: a pair
        ``(inputs, outputs)`` of an axis or a tuple of axes each, or ``None`` to give the leaf to AdamW. One for
        all leaves of rank ≥ 2, a function ``(path, leaf) -> pair``, a dict of regular expressions
        ``{pattern: pair}`` for paths such as ``"layers/0/kernel"`` (first match; no match: the default), or a
        tree like the parameters or a prefix of it. By default ``(-2, -1)``.
      adam_learning_rate: η of AdamW, which gets the leaves of rank < 2 and those excluded; by default η.
      adam_b1: its β₁ in [0, 1).
      adam_b2: its β₂ in [0, 1).
      adam_weight_decay: its λ.

    State: one float32 value per parameter of a matrix, two of the others.

    >>> tx = muon(0.1, coefficients="polar_express", steps=9)
    >>> params = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}
    >>> grads = {"kernel": jnp.array([[3e20, 0.0], [0.0, -4e20]]), "bias": jnp.array([1.0, -2.0])}
    >>> updates, _ = tx.update(grads, tx.init(params), params)
    >>> print((10 * updates["kernel"] + 0.0).round(4), (10 * updates["bias"]).round(4))  # in units of η
    [[-1.  0.]
     [ 0.  1.]] [-1.  1.]
    """
    direction = scale_by_muon(momentum, nesterov, steps, coefficients, scale, matrix_axes=matrix_axes)
    return with_adamw(
        "muon",
        chain(direction, add_decayed_weights(weight_decay), scale_by_learning_rate(learning_rate)),
        adamw(
            learning_rate if adam_learning_rate is None else adam_learning_rate,
            adam_b1,
            adam_b2,
            weight_decay=adam_weight_decay,
        ),
        matrix_axes,
    )


def with_adamw(name: str, tx: Any, other: Any, matrix_axes: matrices.MatrixAxes) -> Any:
    """``tx`` for the leaves that hold matrices, ``other`` for the rest."""

    def labels(params):
        leaves, treedef = jax.tree.flatten(params, is_leaf=tree.is_none)
        axes = matrices.axes_of(name, matrix_axes, params)
        return treedef.unflatten(
            [None if x is None else _label(a) for x, a in zip(leaves, axes, strict=True)]
        )

    return partition({"matrix": tx, "other": other}, labels)


def _label(axes: matrices.Axes | None) -> str:
    return "other" if axes is None else "matrix"
