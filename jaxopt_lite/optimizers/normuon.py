"""NorMuon: Muon with a learning rate for each neuron.

[1] Li, Liu, Liang, Chen, Zhao, "NorMuon: Making Muon more efficient and scalable", 2025, arXiv:2510.05491, Alg. 1.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_lite import checks, tree
from jaxopt_lite.axes import chosen_by_compiler, is_typed
from jaxopt_lite.compose import chain
from jaxopt_lite.optimizers import matrices, moments
from jaxopt_lite.optimizers.adam import adamw
from jaxopt_lite.optimizers.muon import SCALES, momentum_rule, orthogonal_momentum, with_adamw
from jaxopt_lite.optimizers.newton_schulz import coefficients_of
from jaxopt_lite.optimizers.scale import add_decayed_weights, scale_by_learning_rate
from jaxopt_lite.transformation import transformation
from jaxopt_lite.types import Array, Params, Scalar, ScalarOrSchedule


class NorMuonState(NamedTuple):
    """The momentum, and a second moment per neuron."""

    mu: Params  # like params, float32 for 16-bit ones
    nu: Params  # the leaf's shape with 1 on the input axes; [0] for a leaf that holds no matrices


@transformation
def scale_by_normuon(
    momentum: Scalar = 0.95,
    b2: Scalar = 0.95,
    eps: Scalar = 1e-8,
    nesterov: bool = True,
    steps: int = 5,
    coefficients: Any = "jordan",
    scale: str = "original",
    *,
    matrix_axes: matrices.MatrixAxes = None,
):
    """NorMuon's direction [1], see ``normuon``; a leaf that holds no matrices gets the momentum itself."""
    name = "scale_by_normuon"
    moments.check_rates(name, decays={"momentum": momentum, "b2": b2}, epsilons={"eps": eps})
    checks.one_of(name, "scale", scale, list(SCALES))
    abc = coefficients_of(name, coefficients, steps)
    average = momentum_rule(momentum, nesterov)
    rates = {"b2": b2, "eps": eps}

    def init(params):
        leaves, treedef = jax.tree.flatten(params, is_leaf=tree.is_none)
        axes = matrices.axes_of(name, matrix_axes, params)
        nu = [x if x is None else _neurons(x, a) for x, a in zip(leaves, axes, strict=True)]
        return NorMuonState(tree.zeros(params), treedef.unflatten(nu))

    def update(updates, state, params=None, **extra):
        leaves, treedef = jax.tree.flatten(updates, is_leaf=tree.is_none)
        axes = matrices.axes_of(name, matrix_axes, updates)
        mu, nu = (treedef.flatten_up_to(x) for x in state)
        u, mu = orthogonal_momentum(leaves, mu, axes, average, abc)
        done = [_leaf(*row) for row in zip(u, nu, leaves, axes, strict=True)]
        u, nu = [x for x, _ in done], [x for _, x in done]
        return treedef.unflatten(u), NorMuonState(treedef.unflatten(mu), treedef.unflatten(nu))

    def _leaf(u, nu, g, a):
        if u is None or a is None:
            return u if u is None else u.astype(g.dtype), nu
        f = lambda u, nu, typed: normalized_neurons(u, nu, a, **rates | typed)
        u, nu = chosen_by_compiler(f, (u, nu), u, nu, {k: x for k, x in rates.items() if is_typed(x)})
        return (SCALES[scale](*matrices.sizes(u.shape, a)) * u).astype(g.dtype), nu

    return optax.GradientTransformationExtraArgs(init, update)


def _neurons(leaf: Any, axes: matrices.Axes | None) -> Array:
    """Zeros, one per neuron of the leaf's matrices."""
    leaf = leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf)
    shape = (0,) if axes is None else [1 if i in axes.inputs else n for i, n in enumerate(leaf.shape)]
    return jnp.zeros(shape, jnp.finfo(tree.moment_dtype(leaf)).dtype)


def normalized_neurons(
    o: Array, nu: Array, axes: matrices.Axes, b2: Scalar, eps: Scalar
) -> tuple[Array, Array]:
    """O divided by the root of each neuron's averaged mean square, at O's Frobenius norm; and the new average."""
    square = tree.abs2(o)
    count = max(1, matrices.sizes(o.shape, axes)[0])
    nu = moments.ema(nu, jnp.sum(square, axes.inputs, keepdims=True) / count, b2)
    scaled = o / (tree.safe_sqrt(nu) + jnp.maximum(jnp.asarray(eps, nu.dtype), jnp.finfo(nu.dtype).tiny))
    norm = lambda x: tree.safe_sqrt(jnp.sum(x, axes.inputs + axes.outputs, keepdims=True))
    after = norm(tree.abs2(scaled))
    return scaled * (norm(square) / jnp.where(after > 0, after, 1)), nu


@transformation
def normuon(
    learning_rate: ScalarOrSchedule,
    *,
    momentum: Scalar = 0.95,
    b2: Scalar = 0.95,
    eps: Scalar = 1e-8,
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
    """NorMuon [1].

    ```
    Mₜ = μ·Mₜ₋₁ + (1 − μ)·Gₜ
    Oₜ ≈ U·Vᴴ  of  μ·Mₜ + (1 − μ)·Gₜ = U·S·Vᴴ              as in muon
    vₜ = β₂·vₜ₋₁ + (1 − β₂)·mean over the inputs of |Oₜ|²   one per neuron, a column of [in, out]
    Dₜ = Oₜ / (√vₜ + ε)
    Uₜ = −η · (c·Dₜ·‖Oₜ‖/‖Dₜ‖ + λ·Pₜ)                       Frobenius norms of each matrix
    ```

    # deviation from [1]: c is Muon's own factor by default; [1] makes every update's rms 0.2, about what
    # ``scale="match_rms_adamw"`` does.

    Args: those of ``muon``, and
      b2: β₂ in [0, 1), decay of the average per neuron.
      eps: ε ≥ 0, added outside the root.

    State: one float32 value per parameter of a matrix and one per neuron, two per parameter of the other leaves.
    """
    direction = scale_by_normuon(
        momentum, b2, eps, nesterov, steps, coefficients, scale, matrix_axes=matrix_axes
    )
    adam_rate = learning_rate if adam_learning_rate is None else adam_learning_rate
    return with_adamw(
        "normuon",
        chain(direction, add_decayed_weights(weight_decay), scale_by_learning_rate(learning_rate)),
        adamw(adam_rate, adam_b1, adam_b2, weight_decay=adam_weight_decay),
        matrix_axes,
    )
