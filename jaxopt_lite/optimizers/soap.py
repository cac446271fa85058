"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner.

[1] Vyas, Morwani, Zhao, Shapira, Brandfonbrener, Janson, Kakade, "SOAP: Improving and Stabilizing Shampoo using
    Adam", ICLR 2025, arXiv:2409.11321, Alg. 3 and 4; first step and order of eigenvectors as in its code.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_lite import checks, shares
from jaxopt_lite.compose import chain
from jaxopt_lite.optimizers import kronecker, moments
from jaxopt_lite.optimizers.scale import add_decayed_weights, scale_by_learning_rate, value_at
from jaxopt_lite.transformation import elementwise, transformation
from jaxopt_lite.types import Array, Params, Scalar, ScalarOrSchedule


class SoapState(NamedTuple):
    """Step count; both moments in the eigenbasis; the averages and the basis that comes from them.

    For a leaf [..., m, n]; [..., 0, 0] on a side without a basis. The averages are divided by scale².
    """

    count: Array  # [] int32
    mu: Params  # like params, float32 for 16-bit ones
    nu: Params  # like |params|; k²·v, see moments.second_moment
    left: Params  # [..., m, m]
    right: Params  # [..., n, n]
    scale: Params  # [..., 1, 1], or a 0-d one beside a vector
    left_basis: Params  # [..., m, m], eigenvectors in columns
    right_basis: Params  # [..., n, n]


KEEP, BUILD, REFRESH = range(3)


@transformation
def scale_by_soap(
    b1: Scalar = 0.95,
    b2: Scalar = 0.95,
    eps: Scalar = 1e-8,
    precondition_every: int = 10,
    max_dim: int = 10_000,
):
    """SOAP's direction [1]; see ``soap``."""
    name = "scale_by_soap"
    moments.check_rates(name, decays={"b1": b1, "b2": b2}, epsilons={"eps": eps})
    checks.between(name, "precondition_every", precondition_every, 1, float("inf"))
    checks.between(name, "max_dim", max_dim, 0, float("inf"))

    def scalars(t, updates):
        k = jnp.maximum(t - 1, 1)  # Adam's steps: the first gradient is none
        due = jnp.where((t - 1) % precondition_every == 0, REFRESH, KEEP)
        action = jnp.where(t == 1, BUILD, due)
        return action, 1 / moments.bias_correction(b1, k), 1 / moments.bias_correction(b2, k)

    def rule(g, p, s, mu, nu, left, right, scale, *bases):
        action, first, second = s
        with kronecker.HIGHEST:
            rotated = kronecker.both_sides(bases[0], g, bases[1], adjoint="left")
            new_mu = moments.ema(mu, rotated, b1)
            new_nu = moments.second_moment(nu, rotated, b2)
            u = first * new_mu / (moments.root_of(second * new_nu) + eps)
            u = kronecker.both_sides(bases[0], u, bases[1], adjoint="right")
            building = action == BUILD
            u = jnp.where(building, 0 * g, u)  # a NaN stays one
            mu, nu = (jnp.where(building, 0, x) for x in (new_mu, new_nu))
            if not any(side.size for side in bases):
                return u, mu, nu, left, right, scale, *bases
            left, right, scale = kronecker.average(g, left, right, scale, b2)
            mu, nu, bases = _new_bases(action, mu, nu, (left, right), bases)
        return u, mu, nu, left, right, scale, *bases

    def init(leaf):
        sides = [n if n <= max_dim else None for n in leaf.shape[-2:]]
        sides = sides if leaf.ndim > 1 and leaf.size else [None, None]
        squares = lambda: [kronecker.empty_side(leaf, n) for n in sides]
        return *moments.two_moments(leaf), *squares(), kronecker.empty_scale(leaf), *squares()

    return elementwise(shares.rule_by_matrix(rule), SoapState, init=init, scalars=scalars, together=True)


def _new_bases(action: Array, mu: Array, nu: Array, averages: tuple, bases: tuple) -> tuple:
    """The moments and the bases after this step: as they are, built anew, or refreshed."""
    kept = mu, nu, tuple(bases)

    def refresh():
        m, v, new = mu, nu, list(bases)
        for side, (average, old) in enumerate(zip(averages, bases, strict=True)):
            if old.size:
                new[side], order = shares.by_matrix(_refreshed, average, old)
                m = _turned(m, old, new[side], side)
                v = jnp.take_along_axis(v, order[..., None] if side == 0 else order[..., None, :], side - 2)
        return jax.tree.map(lambda old, new: _in_memory_as(old, new, action), kept, (m, v, tuple(new)))

    def build():
        return mu, nu, tuple(shares.by_matrix(_eigenvectors, a) if a.size else a for a in averages)

    return jax.lax.switch(action, (lambda: kept, build, refresh))


def _eigenvectors(average: Array) -> Array:
    """In columns, the largest eigenvalue's first."""
    return kronecker.one_by_one(lambda a: jnp.linalg.eigh(a)[1], average)[..., ::-1]


def _refreshed(average: Array, basis: Array) -> tuple[Array, Array]:
    """One power iteration and QR [1, Alg. 4], and the order into which estimates of the eigenvalues put the columns."""
    power = average @ basis
    order = jnp.argsort(-jnp.sum((basis.conj() * power).real, -2), axis=-1, stable=True)
    return kronecker.orthogonal_factor(jnp.take_along_axis(power, order[..., None, :], -1)), order


def _in_memory_as(old: Array, new: Array, action: Array) -> Array:
    """``new``, in the order in memory of ``old``: a choice between them that XLA cannot know to be made already.

    LAPACK's matrices lie in memory by columns, and all branches of a conditional take the order of the largest, so
    that every step, whatever it does, would turn the state over twice: a fifth of its time at [768, 3072].
    """
    return jnp.where(action < 0, old, new)


def _turned(x: Array, old: Array, new: Array, side: int) -> Array:
    """What stands in the old basis, in the new one; in the cheaper order of the two products."""
    short = x.shape[-1 - side] <= x.shape[side - 2]  # the other axis
    if side == 0:
        return _adjoint(new) @ (old @ x) if short else (_adjoint(new) @ old) @ x
    return (x @ _adjoint(old)) @ new if short else x @ (_adjoint(old) @ new)


def _adjoint(x: Array) -> Array:
    return jnp.swapaxes(x, -2, -1).conj()


@transformation
def soap(
    learning_rate: ScalarOrSchedule,
    *,
    b1: Scalar = 0.95,
    b2: Scalar = 0.95,
    eps: Scalar = 1e-8,
    weight_decay: ScalarOrSchedule = 0.01,
    precondition_every: int = 10,
    max_dim: int = 10_000,
):
    """SOAP [1].

    ```
    G′ₜ = Q_Lᴴ·Gₜ·Q_R
    M′ₜ = β₁·M′ₜ₋₁ + (1 − β₁)·G′ₜ            the momentum, in the basis
    Vₜ  = β₂·Vₜ₋₁ + (1 − β₂)·|G′ₜ|²
    Uₜ  = −η · (Q_L·[(M′ₜ/(1 − β₁ᵏ)) / (√(Vₜ/(1 − β₂ᵏ)) + ε)]·Q_Rᴴ + λ·Pₜ)        k = t − 1
    Lₜ  = β₂·Lₜ₋₁ + (1 − β₂)·Gₜ·Gₜᴴ,  Rₜ = β₂·Rₜ₋₁ + (1 − β₂)·Gₜᴴ·Gₜ
    Q_L = the orthogonal factor of Lₜ·Q_L, every so many steps; M′ turns with it
    ```

    The first gradient only builds the basis, from eigenvectors in descending order: its update is 0.
    Leaves of rank < 2 have no basis: plain Adam, from the second step on. In leaves of higher rank the last two
    axes are the matrix, the others a batch.

    On a mesh over which gradients and state are split call ``update`` under ``jax.set_mesh``: each device then works
    on whole matrices with their state, its share of a batch and of all leaves of one shape. Nothing is exchanged where
    a batch is split over all devices already; where rows or columns are split, in whatever order of mesh axes,
    gradients and state travel there and back every step, in at most two exchanges for each axis, and axes that hold
    copies take part in the work. A matrix of a shape of its own stays split; of it XLA gathers what each product
    needs, one basis included, and to refresh them the averages and bases, since only a whole matrix can be decomposed.
    On automatic axes, state that each device holds whole is best updated outside ``jax.set_mesh``, where all of them
    do all the work, as they do on explicit ones.

    # deviation from [1]: it has one basis per axis of a leaf of higher rank.

    Args:
      learning_rate: η, a float, a 0-d array or a schedule.
      b1: β₁ in [0, 1), decay of the momentum.
      b2: β₂ in [0, 1), decay of V, L and R.
      eps: ε ≥ 0, added outside the root.
      weight_decay: λ, a float, a 0-d array or a schedule.
      precondition_every: steps ≥ 1 between refreshes of the basis.
      max_dim: an axis longer than this has no basis.

    State: for a matrix [m, n] 2·(m·n + m² + n²) float32 values; two per parameter otherwise. No derivative
    passes through the basis.
    """
    return chain(
        scale_by_soap(b1, b2, eps, precondition_every, max_dim),
        add_decayed_weights(_not_at_first(weight_decay)),
        scale_by_learning_rate(learning_rate),
    )


def _not_at_first(value: ScalarOrSchedule) -> ScalarOrSchedule:
    """0 in the first step, then ``value``."""
    if isinstance(value, (int, float)) and value == 0:
        return value
    return lambda step: jnp.where(step == 0, 0, value_at(value, step + 1))
