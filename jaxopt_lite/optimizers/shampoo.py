"""Shampoo: gradients multiplied by inverse roots of their averaged Gram matrices, from the left and the right.

[1] Gupta, Koren, Singer, "Shampoo: Preconditioned Stochastic Tensor Optimization", ICML 2018, arXiv:1802.09568.
[2] Shi et al., "A Distributed Data-Parallel PyTorch Implementation of the Distributed Shampoo Optimizer for
    Training Neural Networks At-Scale", 2023, arXiv:2309.06497: averages, grafting, blocks.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_lite import checks, shares
from jaxopt_lite.compose import chain
from jaxopt_lite.optimizers import kronecker, moments
from jaxopt_lite.optimizers.blocks import fit, in_blocks, norm, norms, to_blocks
from jaxopt_lite.optimizers.newton_schulz import normalized
from jaxopt_lite.optimizers.scale import add_decayed_weights, scale_by_learning_rate
from jaxopt_lite.transformation import elementwise, transformation
from jaxopt_lite.types import Array, Params, Scalar, ScalarOrSchedule

GRAFT_EPS = 1e-8


class ShampooState(NamedTuple):
    """Step count; Adam's moments; for each block of a matrix the averages and their inverse roots.

    A leaf [..., m, n] is cut into blocks of at most [a, b], row by row. The averages are divided by scale².
    """

    count: Array  # [] int32
    mu: Params  # like params, float32 for 16-bit ones
    nu: Params  # like |params|; k²·v, see moments.second_moment
    left: Params  # [..., blocks, a, a], [0, 0] beside a vector
    right: Params  # [..., blocks, b, b]
    scale: Params  # [..., blocks, 1, 1]
    left_root: Params  # like left
    right_root: Params  # like right


@transformation
def scale_by_shampoo(
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-12,
    precondition_every: int = 10,
    block_size: int = 1024,
    graft: str | None = "adam",
):
    """Shampoo's direction; see ``shampoo``."""
    name = "scale_by_shampoo"
    moments.check_rates(name, decays={"b1": b1, "b2": b2}, epsilons={"eps": eps})
    checks.between(name, "precondition_every", precondition_every, 1, float("inf"))
    checks.between(name, "block_size", block_size, 1, float("inf"))
    checks.one_of(name, "graft", graft, ["adam", "sgd", None])

    def scalars(t, updates):
        c1, c2 = moments.bias_correction(b1, t), moments.bias_correction(b2, t)
        return (t - 1) % precondition_every == 0, 1 / c1, 1 / jnp.sqrt(c2)

    def rule(g, p, s, mu, nu, *sides):
        _, first, second = s
        mu = moments.ema(mu, g, b1)
        nu = moments.second_moment(nu, g, b2)
        m = first * mu
        adam = m / (moments.root_of(second**2 * nu) + GRAFT_EPS)
        if not sides[0].size:
            return adam, mu, nu, *sides
        other = adam if graft == "adam" else None
        if other is not None and fit(g.shape, block_size):
            other = norms(other, block_size)  # less to send, and taken where the moments lie
        u, *sides = in_blocks(of_blocks, block_size)(s, g, m, other, *sides)
        return u, mu, nu, *sides

    def of_blocks(s, g, m, other, left, right, scale, *roots):
        """``other`` is Adam's direction, or its norms."""
        due, _, second = s
        with kronecker.HIGHEST:
            left, right, scale = kronecker.average(g, left, right, scale, b2)
            root = lambda a, c: inverse_root(a, c, eps)
            fresh = lambda: tuple(shares.by_matrix(root, a, second * scale) for a in (left, right))
            roots = jax.lax.cond(due, fresh, lambda: roots)
            u = kronecker.both_sides(roots[0], m, roots[1])
        if graft is not None:
            u = normalized(u) * norm(m if other is None else other)
        return u, left, right, scale, *roots

    init = lambda leaf: _first_slots(leaf, block_size)
    return elementwise(rule, ShampooState, init=init, scalars=scalars, together=True)


def _first_slots(leaf: Any, size: int) -> tuple:
    """Zeros: the moments, and for a matrix the squares and numbers of its blocks."""
    is_matrix = leaf.ndim > 1 and leaf.size > 0
    like = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    blocks = jax.eval_shape(lambda x: to_blocks(x, size), like) if is_matrix else leaf
    sides = blocks.shape[-2:] if is_matrix else (None, None)
    squares = lambda: [kronecker.empty_side(blocks, n) for n in sides]
    return *moments.two_moments(leaf), *squares(), kronecker.empty_scale(blocks), *squares()


def inverse_root(average: Array, scale: Array, eps: Scalar) -> Array:
    """(c²·A + ε)^(−1/4), c = ``scale``; where that is infinite, 0.

    Eigenvalues below the rounding error of the largest one count as that error, or the root would amplify noise.
    """
    values, vectors = kronecker.one_by_one(lambda a: tuple(jnp.linalg.eigh(a)), average)
    noise = values[..., -1:] * (jnp.finfo(values.dtype).eps * values.shape[-1])
    unit = jnp.maximum(scale, eps**0.5)[
        ..., 0
    ]  # of the result's argument: no overflow however large c or 1/c
    safe = jnp.where(unit > 0, unit, 1)
    values = jnp.maximum(values, noise) * (scale[..., 0] / safe) ** 2 + (eps**0.5 / safe) ** 2
    positive = values > 0
    powers = jnp.where(positive, jnp.where(positive, values, 1) ** -0.25, 0) / jnp.sqrt(safe)
    return (vectors * powers[..., None, :]) @ jnp.swapaxes(vectors, -2, -1).conj()


@transformation
def shampoo(
    learning_rate: ScalarOrSchedule,
    *,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-12,
    weight_decay: ScalarOrSchedule = 0.0,
    precondition_every: int = 10,
    block_size: int = 1024,
    graft: str | None = "adam",
):
    """Shampoo [1] with averages, grafting and blocks [2].

    ```
    Mₜ = β₁·Mₜ₋₁ + (1 − β₁)·Gₜ
    Lₜ = β₂·Lₜ₋₁ + (1 − β₂)·Gₜ·Gₜᴴ,  Rₜ = β₂·Rₜ₋₁ + (1 − β₂)·Gₜᴴ·Gₜ
    Dₜ = (L̂ + ε)^(−1/4) · M̂ₜ · (R̂ + ε)^(−1/4)      hats: divided by 1 − βᵗ
    Uₜ = −η · (Dₜ·‖Aₜ‖/‖Dₜ‖ + λ·Pₜ)
    ```

    Each block of a matrix has its own L, R and norms. The roots are taken in steps 1, 1 + k, 1 + 2k, …. Aₜ is
    Adam's direction with the same decays, or M̂ₜ; without grafting Uₜ = −η·(Dₜ + λ·Pₜ). Leaves of rank < 2 take
    Adam's. In leaves of higher rank the last two axes are the matrix, the others a batch.

    On a mesh call ``update`` under ``jax.set_mesh``: each device then works on whole blocks with their L, R and roots,
    its share, exchanged as in ``soap``. As many blocks as devices, or a multiple, stay where ``state_shardings`` puts
    them: only gradient and momentum travel, and Adam's direction where parts that devices hold may end within blocks.
    Of a matrix of a shape of its own they do so in up to three exchanges each way; in none where devices hold just
    their blocks. Of one block and a shape of its own XLA gathers what the products need, every step.

    # deviation from [2]: eigenvalues below the rounding error of the largest count as that error; and the roots
    # are used from the first step on.

    Args:
      learning_rate: η, a float, a 0-d array or a schedule.
      b1: β₁ in [0, 1), decay of the momentum.
      b2: β₂ in [0, 1), decay of L and R, and of Adam's second moment.
      eps: ε ≥ 0, added to the eigenvalues.
      weight_decay: λ, a float, a 0-d array or a schedule.
      precondition_every: k ≥ 1, steps between new roots.
      block_size: longest side of a block.
      graft: whose norm the update takes: ``"adam"``, ``"sgd"``, or ``None`` for its own.

    State: for a matrix [m, n] in one block 2·(m·n + m² + n²) float32 values; two per parameter otherwise. No
    derivative passes through the roots.
    """
    return chain(
        scale_by_shampoo(b1, b2, eps, precondition_every, block_size, graft),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(learning_rate),
    )
