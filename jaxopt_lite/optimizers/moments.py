"""What many optimizers share: moving averages of a gradient and of its square, and their bias corrections."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_lite.tree import abs2, abs_bound, moment_dtype


def two_moments(leaf: Any) -> tuple[jax.Array, jax.Array]:
    """Zeros for a first moment of the leaf's kind and for a real second one."""
    dtype = moment_dtype(leaf)
    return jnp.zeros_like(leaf, dtype), jnp.zeros_like(leaf, jnp.finfo(dtype).dtype)


def ema(old: jax.Array, new: jax.Array, decay: Any) -> jax.Array:
    """β·old + (1 − β)·new."""
    return decay * old + (1 - decay) * new


def second_moment(nu: jax.Array, g: jax.Array, b2: Any, weight: Any = None) -> tuple[jax.Array, jax.Array]:
    """One step of v = β₂·v + (1 − β₂)·|g|², as ``(nu, √v)``, finite for gradients up to 1e37 in float32.

    v itself overflows when |g| passes 1.8e19. So ``nu`` is v while v ≤ T² and −(v·s²) beyond, where T = 2⁶⁰
    ≈ 1e18 and s = 2⁻⁶² (2⁵⁰⁸, 2⁻⁵¹⁰ in float64): such entries are scaled before they are squared, and the
    sign says so. √v is at least the root of the smallest normal number, 1e-19: no division by 0, and a finite
    derivative. ``weight`` replaces 1 − β₂.
    """
    info = jnp.finfo(nu.dtype)
    top = 2.0 ** (info.maxexp // 2 - 4)
    s = 1 / (4 * top)
    weight = 1 - b2 if weight is None else weight
    far = (nu < 0) | (abs_bound(g) > top / 2)
    v = b2 * nu + weight * abs2(g)
    scaled = b2 * jnp.where(nu < 0, -nu, nu * s**2) + weight * abs2(g * s)
    nu = jnp.where(far, jnp.where(scaled > (top * s) ** 2, -scaled, scaled / s**2), v)
    return nu, root_of(nu)


def root_of(nu: jax.Array) -> jax.Array:
    """√v from what ``second_moment`` stores; from the new value alone, so that XLA updates it in place."""
    info = jnp.finfo(nu.dtype)
    return jnp.sqrt(jnp.maximum(jnp.abs(nu), info.tiny)) * jnp.where(
        nu < 0, 2.0 ** (info.maxexp // 2 - 2), 1.0
    )


def add_under_root(root: jax.Array, eps: Any) -> jax.Array:
    """√(root² + ε), without squaring where ε can no longer matter."""
    if isinstance(eps, (int, float)) and eps == 0:
        return root
    top = 2.0 ** (jnp.finfo(root.dtype).maxexp // 2 - 4)
    near = jnp.minimum(root, top)
    return jnp.where(root > top, root, jnp.sqrt(jnp.maximum(near * near + eps, jnp.finfo(root.dtype).tiny)))


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
    """1 − exp(−(x + low)) for x ≥ 0: by its tail near 0, since XLA's ``expm1`` is off by up to 5 ulp."""
    tail = 0.0
    for k in reversed(range(15)):  # Σ (−x)ᵏ / (k + 2)!
        tail = 1 / math.factorial(k + 2) - x * tail
    far = jnp.exp(-x)
    return jnp.where(x < 0.7, x - x * x * tail + low * far, 1 - far * (1 - low))
