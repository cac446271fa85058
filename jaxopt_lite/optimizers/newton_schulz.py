"""The polar factor U·Vᴴ of a matrix U·S·Vᴴ, approximately, by matrix products alone.

[1] Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
    https://kellerjordan.github.io/posts/muon: the iteration, and the coefficients "jordan".
[2] Amsel, Persson, Musco, Gower, "The Polar Express: Optimal Matrix Sign Methods and Their Application to the
    Muon Algorithm", 2025, arXiv:2505.16932: "polar_express", for singular values in [1e-3, 1.01].
[3] Ahn et al., "Dion: Distributed Orthonormalized Updates", 2025, arXiv:2504.05295: "dion".
[4] Zhang, Amsel, Chen, Dao, "Gram Newton-Schulz", 2026, https://dao-lab.ai/blog/2026/gram-newton-schulz/.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_lite import checks
from jaxopt_lite.tree import abs2, abs_bound, safe_sqrt
from jaxopt_lite.types import Array

Coefficients = tuple[tuple[float, float, float], ...]
"""One (a, b, c) per step."""

SETS: dict[str, Coefficients] = {
    "jordan": ((3.4445, -4.7750, 2.0315),),
    "polar_express": (
        (8.2051, -22.9019, 16.4607),
        (4.0664, -2.8612, 0.5184),
        (3.9096, -2.8234, 0.5250),
        (3.2856, -2.4153, 0.4853),
        (2.2779, -1.6198, 0.3985),
        (1.875, -1.25, 0.375),
    ),
    "dion": (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
}


def coefficients_of(name: str, coefficients: Any, steps: int) -> Coefficients:
    """The triples of ``steps`` steps: the first ones of a set or a sequence, its last one repeated after its end.

    ``name`` is the caller's, for messages.
    """
    if isinstance(coefficients, str):
        checks.one_of(name, "coefficients", coefficients, list(SETS))
        coefficients = SETS[coefficients]
    checks.between(name, "steps", steps, 1, float("inf"))
    rows = np.atleast_2d(np.asarray(coefficients, np.float64))
    if rows.ndim != 2 or rows.shape[1] != 3 or not len(rows):
        raise ValueError(f"{name}: coefficients have shape {rows.shape}, expected triples, [steps, 3]")
    return tuple(tuple(map(float, rows[min(k, len(rows) - 1)])) for k in range(int(steps)))  # type: ignore[misc]


@functools.partial(jax.jit, static_argnums=1)
def orthogonalize(x: Array, coefficients: Coefficients) -> Array:
    """Replace the singular values s of every matrix in ``x`` [..., m, n] by p(s / ‖x‖), p near 1.

    ```
    X ← X / ‖X‖                           the Frobenius norm, exact for entries of any magnitude; 0 stays 0
    X ← a·X + (b·A + c·A²)·X,  A = X·Xᴴ    for each (a, b, c) of the coefficients
    ```

    Where a matrix is so oblong that it saves work, the iteration runs on A alone [4], as long as what rounding adds
    stays well below what the coefficients leave: with ones that converge it never does, nor on accelerators unless
    ``jax.default_matmul_precision`` is "highest", since products in TF32 or bfloat16 would let A drift.

    # deviation from [1]: no ε in the norm, so tiny matrices get full steps; and no bfloat16 unless x is.
    """
    if not x.size:
        return x
    x, tall = normalized(x), x.shape[-2] > x.shape[-1]
    runs = gram_runs(coefficients, jnp.finfo(x.dtype).eps)
    if not gram_is_cheaper(x.shape, runs):
        return _iterate(x, coefficients, tall)
    on_gram = lambda x: _iterate_gram(x, coefficients, tall, runs)
    return jax.lax.platform_dependent(
        x,
        cpu=on_gram,
        default=on_gram if _products_are_exact(x.dtype) else lambda x: _iterate(x, coefficients, tall),
    )


def _products_are_exact(dtype: Any) -> bool:
    """Whether accelerators multiply without rounding their factors first."""
    return jnp.finfo(dtype).bits > 32 or jax.config.jax_default_matmul_precision in ("highest", "float32")


def gram_is_cheaper(shape: Sequence[int], runs: Sequence[int]) -> bool:
    """Whether the iteration on A takes fewer operations; both are counted in products of A's size.

    With aspect ratio r a step on X costs 2·r + 1. A run of k steps on A costs r to form A, r to apply the result,
    1 + 4·(k − 1) in between.
    """
    ratio = max(shape[-2:]) / min(shape[-2:])
    return sum(2 * ratio + 1 + 4 * (k - 1) for k in runs) < sum(runs) * (2 * ratio + 1)


@functools.cache
def gram_runs(coefficients: Coefficients, eps: float) -> tuple[int, ...]:
    """How many steps are taken on A before it is formed anew, as many as rounding allows.

    A, of norm 1, is off by about ε, and A′ = Q·A·Q by g²·ε where Q is largest: g is the product of the run's a's.
    That is let grow to an eighth of what the coefficients themselves leave of |p − 1|.
    """
    bound = (_shortfall(coefficients) / 8 / float(eps)) ** 0.5
    runs, gain = [0], 1.0
    for a, _, _ in coefficients:
        gain *= abs(a)
        if runs[-1] and gain > bound:
            runs, gain = [*runs, 0], abs(a)
        runs[-1] += 1
    return tuple(runs)


def _shortfall(coefficients: Coefficients) -> float:
    """The largest |p(s) − 1| for s from a hundredth of ‖X‖ to all of it."""
    s = np.geomspace(0.01, 1, 1000)
    with np.errstate(all="ignore"):  # a user's coefficients may diverge
        for a, b, c in coefficients:
            s = s * (a + b * s**2 + c * s**4)
        return float(np.max(np.abs(s - 1)))


def normalized(x: Array) -> Array:
    """x / ‖x‖ for each matrix; the largest entry is divided out first, so that no square overflows or vanishes."""
    largest = jax.lax.stop_gradient(jnp.max(abs_bound(x), axis=(-2, -1), keepdims=True))
    x = x / jnp.where(largest > 0, largest, 1)
    norm = safe_sqrt(jnp.sum(abs2(x), axis=(-2, -1), keepdims=True))
    return x / jnp.where(norm > 0, norm, 1)


def _iterate(x: Array, coefficients: Coefficients, tall: bool) -> Array:
    for abc in coefficients:
        x = _apply(_polynomial(_gram(x, tall), abc), x, tall)
    return x


def _iterate_gram(x: Array, coefficients: Coefficients, tall: bool, runs: Sequence[int]) -> Array:
    """The same polynomial through A: P = a + b·A + c·A², Q ← Q·P, A ← P·A·P, and X ← Q·X at the end of a run."""
    start = 0
    for run in runs:
        a, q = _gram(x, tall), None
        for k in range(start, start + run):
            p = _polynomial(a, coefficients[k])
            q = p if q is None else q @ p
            a = p @ (a @ p) if k + 1 < start + run else a
        x, start = _apply(q, x, tall), start + run
    return x


def _gram(x: Array, tall: bool) -> Array:
    """X·Xᴴ, or Xᴴ·X: the smaller of the two, without a transposed copy."""
    if tall:
        return jnp.einsum("...ki,...kj->...ij", x.conj(), x)
    return jnp.einsum("...ik,...jk->...ij", x, x.conj())


def _polynomial(gram: Array, abc: tuple[float, float, float]) -> Array:
    """a + b·A + c·A²."""
    a, b, c = abc
    eye = jnp.broadcast_to(jnp.eye(gram.shape[-1], dtype=gram.dtype), gram.shape)
    return a * eye + b * gram + c * (gram @ gram)


def _apply(p: Any, x: Array, tall: bool) -> Array:
    return x @ p if tall else p @ x
