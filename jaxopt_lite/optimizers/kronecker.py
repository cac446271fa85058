"""Averages of G·Gᴴ and Gᴴ·G, which Shampoo and SOAP precondition with, for gradients of any magnitude; and QR.

[1] Schreiber, Van Loan, "A Storage-Efficient WY Representation for Products of Householder Transformations", SIAM J.
    Sci. Stat. Comput. 10(1), 1989: reflections put together.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_lite.tree import abs_bound, moment_dtype
from jaxopt_lite.types import Array

HIGHEST = jax.default_matmul_precision("highest")
PANEL = 384


def empty_side(leaf: Any, size: int | None) -> Array:
    """Zeros [..., size, size] beside a leaf [..., m, n]; [..., 0, 0] for a side that is left alone."""
    return jnp.zeros((*leaf.shape[:-2], size or 0, size or 0), moment_dtype(leaf))


def empty_scale(leaf: Any) -> Array:
    """Zeros [..., 1, 1] beside a leaf [..., m, n]."""
    return jnp.zeros((*leaf.shape[:-2], 1, 1), jnp.finfo(moment_dtype(leaf)).dtype)


def average(g: Array, left: Array, right: Array, scale: Array, b2: Any) -> tuple[Array, Array, Array]:
    """One step of L = β₂·L + (1 − β₂)·G·Gᴴ and R = β₂·R + (1 − β₂)·Gᴴ·G; a side of size 0 stays so.

    L and R are kept divided by c², where c = ``scale`` = max(max|G|, √β₂·c): so no entry overflows or vanishes
    however large or small G is, and the largest is never far from 1. No derivative passes through them.
    """
    g = jax.lax.stop_gradient(g)
    new = jnp.maximum(jnp.max(abs_bound(g), axis=(-2, -1), keepdims=True), b2**0.5 * scale)
    safe = jnp.where(new > 0, new, 1)
    kept, g = b2 * jnp.square(scale / safe), g / safe
    h = jnp.swapaxes(g, -2, -1).conj()
    left = kept * left + (1 - b2) * (g @ h) if left.size else left
    right = kept * right + (1 - b2) * (h @ g) if right.size else right
    return left, right, new


def both_sides(left: Array, x: Array, right: Array, adjoint: str | None = None) -> Array:
    """L·X·R, where a side of size 0 stands for the identity.

    With ``adjoint="left"`` Lᴴ·X·R, with ``"right"`` L·X·Rᴴ, read as they lie: a transposed copy takes time, and on
    a mesh it is gathered once more.
    """
    if left.size and adjoint == "left":
        x = jnp.einsum("...ji,...jk->...ik", left.conj(), x)
    elif left.size:
        x = left @ x
    if right.size and adjoint == "right":
        x = jnp.einsum("...ij,...kj->...ik", x, right.conj())
    elif right.size:
        x = x @ right
    return x


def one_by_one(f: Callable, x: Array) -> Any:
    """A decomposition ``f`` of matrices [..., n, n]; of one after the other where a device of a CPU has its share.

    LAPACK's loop over a batch waits for threads, and other devices, which wait in a collective for this one, hold them.
    """
    batch = x.shape[:-2]
    if not jax.sharding.get_abstract_mesh().manual_axes or math.prod(batch) < 2:
        return f(x)

    def in_turn(x):
        done = jax.lax.map(f, x.reshape(-1, *x.shape[-2:]))
        return jax.tree.map(lambda y: y.reshape(*batch, *y.shape[1:]), done)

    return jax.lax.platform_dependent(x, cpu=in_turn, default=f)


def orthogonal_factor(x: Array) -> Array:
    """Q of X = Q·R for square matrices [..., n, n], orthogonal also where X has not full rank. No derivative passes.

    On CPUs large real ones are reduced panel by panel: most of the work is then products, which XLA gives all threads.
    """
    x = jax.lax.stop_gradient(x)
    whole = lambda x: jnp.linalg.qr(x)[0]
    if x.shape[-1] <= 2 * PANEL or jnp.iscomplexobj(x):
        return one_by_one(whole, x)
    return one_by_one(lambda x: jax.lax.platform_dependent(x, cpu=_by_panels, default=whole), x)


@functools.partial(jnp.vectorize, signature="(n,n)->(n,n)")
def _by_panels(x: Array) -> Array:
    """The product of I − V·T·Vᵀ, the reflections of each panel put together [1]."""
    reflections = []
    while x.size:
        packed, tau = jnp.linalg.qr(x[:, :PANEL], mode="raw")
        v = jnp.tril(packed.T, -1) + jnp.eye(len(x), len(tau), dtype=x.dtype)
        diagonal = jnp.where(tau == 0, 1e18, 1 / tau)  # τ = 0 reflects nothing
        inverse = jnp.triu(v.T @ v, 1) + jnp.diag(diagonal)  # of T
        x = _reflected(v, inverse, x[:, PANEL:], transposed=True)[PANEL:]
        reflections.append((v, inverse))
    q = x  # without rows and columns
    for v, inverse in reversed(reflections):
        new = len(v) - len(q)
        q = jnp.pad(q, ((new, 0), (new, 0))) + jnp.diag((jnp.arange(len(v)) < new).astype(x.dtype))
        q = _reflected(v, inverse, q, transposed=False)
    return q


def _reflected(v: Array, inverse: Array, x: Array, transposed: bool) -> Array:
    """(I − V·T·Vᵀ)·X, or that with Tᵀ, from T⁻¹."""
    solve = jax.lax.linalg.triangular_solve
    return x - v @ solve(inverse, v.T @ x, left_side=True, lower=False, transpose_a=transposed)
