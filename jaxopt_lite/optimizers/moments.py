"""What many optimizers share: moving averages of a gradient and of its square, and their bias corrections."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_lite.tree import abs2, abs_bound, moment_dtype, safe_sqrt


def two_moments(leaf: Any) -> tuple[jax.Array, jax.Array]:
    """Zeros for a first moment of the leaf's kind and for a real second one."""
    dtype = moment_dtype(leaf)
    return jnp.zeros_like(leaf, dtype), jnp.zeros_like(leaf, jnp.finfo(dtype).dtype)


def ema(old: jax.Array, new: jax.Array, decay: Any) -> jax.Array:
    """β·old + (1 − β)·new."""
    return decay * old + (1 - decay) * new


def second_moment(nu: jax.Array, g: jax.Array, b2: Any, weight: Any = None) -> tuple[jax.Array, jax.Array]:
    """One step of v = β₂·v + (1 − β₂)·|g|², as ``(nu, √v)``, finite for gradients up to 1e37 in float32.

    v itself overflows when |g| passes 1.8e19, so ``nu`` holds v while √v ≤ T = 2⁶⁰ ≈ 1e18 and T·√v beyond
    (T = 2⁵⁰⁸ in float64); such entries are scaled before they are squared. ``weight`` replaces 1 − β₂.
    """
    top = 2.0 ** (jnp.finfo(nu.dtype).maxexp // 2 - 4)
    scale = 1 / (4 * top)  # its square is still a normal number: XLA folds x·scale·scale into x·scale²
    weight = 1 - b2 if weight is None else weight
    big = (nu > top * top / 4) | (abs_bound(g) > top / 2)
    v = b2 * nu + weight * abs2(g)
    old = jnp.where(nu > top * top, (nu * (scale / top)) ** 2, nu * scale**2)
    scaled = b2 * old + weight * abs2(g * scale)
    root = safe_sqrt(jnp.where(big, scaled, v)) * jnp.where(big, 1 / scale, 1.0)
    return jnp.where(big, root * jnp.minimum(root, top), v), root


def add_under_root(root: jax.Array, eps: Any) -> jax.Array:
    """√(root² + ε), without squaring where ε can no longer matter."""
    if isinstance(eps, (int, float)) and eps == 0:
        return root
    top = 2.0 ** (jnp.finfo(root.dtype).maxexp // 2 - 4)
    near = jnp.minimum(root, top)
    return jnp.where(root > top, root, safe_sqrt(near * near + eps))


def divide(a: jax.Array, b: jax.Array) -> jax.Array:
    """a/b, and 0 where b = 0 (a moment that never saw a gradient, with ε = 0)."""
    zero = b == 0
    return jnp.where(zero, 0, a / jnp.where(zero, 1, b))


def bias_correction(decay: Any, t: jax.Array) -> jax.Array:
    """1 − βᵗ to 2 ulp for a Python float β up to 1 − 1e-7, where 1 − β³² in float32 has no digit left.

    x = −t·log β is kept as x + low: the first factor has 12 bits, so its product with t is (nearly) exact.
    """
    dtype = jnp.result_type(float)
    t = t.astype(dtype)
    if not isinstance(decay, (int, float)):
        return _one_minus_exp(-t * jnp.log1p(decay - 1), jnp.zeros_like(t))
    if decay == 0:
        return jnp.ones_like(t)
    rate = -math.log(decay)
    mantissa, exponent = math.frexp(rate)
    high = math.ldexp(round(mantissa * 2**12), exponent - 12)
    return _one_minus_exp(t * high, t * (rate - high))


def _one_minus_exp(x: jax.Array, low: jax.Array) -> jax.Array:
    """1 − exp(−(x + low)) for x ≥ 0: by its series near 0, since XLA's ``expm1`` is off by up to 5 ulp."""
    series = [(-1) ** k / math.factorial(k + 2) for k in range(24)]
    near = x - x * x * jnp.polyval(jnp.asarray(series[::-1], x.dtype), x) + low * jnp.exp(-x)
    return jnp.where(x < 0.7, near, 1 - jnp.exp(-(x + low)))
