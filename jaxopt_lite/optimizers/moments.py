"""What many optimizers share: moving averages of a gradient and of its square, and their bias corrections."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_lite import checks
from jaxopt_lite.tree import abs2, moment_dtype


def check_rates(name: str, *, decays: dict[str, Any], epsilons: dict[str, Any] | None = None) -> None:
    """Raise ``ValueError`` unless every decay lies in [0, 1) and every ε in [0, ∞] (arrays and schedules pass)."""
    for argument, value in decays.items():
        checks.between(name, argument, value, 0, 1, open_high=True)
    for argument, value in (epsilons or {}).items():
        checks.between(name, argument, value, 0, float("inf"))


def first_moment(leaf: Any, dtype: Any = None, value: float = 0.0) -> jax.Array:
    """``value`` in the leaf's shape; ``dtype`` is the caller's choice of storage (real leaves only)."""
    chosen = None if jnp.issubdtype(leaf.dtype, jnp.complexfloating) else dtype
    return jnp.full_like(leaf, value, dtype=chosen or moment_dtype(leaf))


def real_moment(leaf: Any, value: Any = 0.0) -> jax.Array:
    """``value`` in the leaf's shape, real also for a complex leaf."""
    return jnp.full_like(leaf, value, dtype=jnp.finfo(moment_dtype(leaf)).dtype)


def two_moments(leaf: Any, dtype: Any = None) -> tuple[jax.Array, jax.Array]:
    """Zeros for a first moment of the leaf's kind and for a real second one."""
    return first_moment(leaf, dtype), real_moment(leaf)


def own_copy(leaf: Any, dtype: Any) -> jax.Array:
    """The leaf in a buffer of its own, so that both can be donated; zeros for a ``ShapeDtypeStruct``."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jnp.zeros_like(leaf, dtype)
    return jnp.array(leaf, dtype, copy=True)


def scalar_dtype(params: Any) -> Any:
    """The widest real dtype among the leaves' moments, float32 at least: for numbers of the whole tree."""
    return jnp.result_type(jnp.float32, *(jnp.finfo(moment_dtype(x)).dtype for x in jax.tree.leaves(params)))


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
    top, s = _limits(nu)
    weight = 1 - b2 if weight is None else weight
    # The select keeps XLA from turning (g·s)·(g·s) of a single entry into g·g·s², which overflows.
    small = g * s if g.size > 1 else jnp.where(jnp.isnan(g), g, g * s)
    scaled = b2 * jnp.where(nu < 0, -nu, nu * s**2) + weight * abs2(small)
    v = jnp.where(nu < 0, scaled / s**2, b2 * nu + weight * abs2(g))
    nu = jnp.where(v <= top**2, v, -scaled)
    return nu, root_of(nu)


def root_of(nu: jax.Array) -> jax.Array:
    """√v from what ``second_moment`` stores; from the new value alone, so that XLA updates it in place."""
    _, s = _limits(nu)
    return jnp.sqrt(jnp.maximum(jnp.abs(nu), jnp.finfo(nu.dtype).tiny)) * jnp.where(nu < 0, 1 / s, 1.0)


def scaled_moment(nu: jax.Array, factor: Any) -> jax.Array:
    """factor·v in the form of ``second_moment``; ``factor`` ≥ 0."""
    top, s = _limits(nu)
    scaled = jnp.where(nu < 0, -nu, nu * s**2) * factor
    return jnp.where(scaled > (top * s) ** 2, -scaled, jnp.where(nu < 0, scaled / s**2, nu * factor))


def larger_moment(a: jax.Array, b: jax.Array) -> jax.Array:
    """The larger of two v in the form of ``second_moment``."""
    low, high = jnp.minimum(a, b), jnp.maximum(a, b)
    return jnp.where(low < 0, low, high)


def smaller_moment(a: jax.Array, b: jax.Array) -> jax.Array:
    """The smaller of two v in the form of ``second_moment``."""
    low, high = jnp.minimum(a, b), jnp.maximum(a, b)
    return jnp.where(low < 0, high, low)


def _limits(nu: jax.Array) -> tuple[float, float]:
    """T and s of ``second_moment``: beyond T² it stores −(v·s²)."""
    top = 2.0 ** (jnp.finfo(nu.dtype).maxexp // 2 - 4)
    return top, 1 / (4 * top)


def finite_range(nu: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``(k, v·k²)`` with k a power of two, 1 but for huge v, such that v·k² and (g·k)² are finite."""
    _, s = _limits(nu)
    return jnp.where(nu < 0, s, 1.0), jnp.abs(nu)


def after(x: jax.Array, *others: jax.Array) -> jax.Array:
    """``x``, in a form that XLA computes after ``others``.

    Where x replaces a donated state array that ``others`` are computed from, it is then written in place; in
    any other order the array is copied first. The condition is never true.
    """
    never = jnp.zeros([], bool)
    for other in others:
        never = never | (other.real < -jnp.inf)
    return jnp.where(never, 0, x)


def add_under_root(root: jax.Array, eps: Any) -> jax.Array:
    """√(root² + ε), without squaring where ε can no longer matter."""
    if isinstance(eps, (int, float)) and eps == 0:
        return root
    top = 2.0 ** (jnp.finfo(root.dtype).maxexp // 2 - 4)
    near = jnp.minimum(root, top)
    return jnp.where(root > top, root, jnp.sqrt(jnp.maximum(near * near + eps, jnp.finfo(root.dtype).tiny)))


def bias_correction(decay: Any, t: jax.Array) -> jax.Array:
    """1 − βᵗ to 2 ulp for a Python float β up to 1 − 1e-7, where 1 − β³² in float32 has no digit left.

    x = −t·log β is kept as x + low: the first factor has half the bits, so its product with t is (nearly) exact.
    """
    dtype = jnp.result_type(float)
    t = t.astype(dtype)
    if not isinstance(decay, (int, float)):
        return _one_minus_exp(-t * jnp.log1p(decay - 1), jnp.zeros_like(t))
    if decay == 0:
        return jnp.ones_like(t)
    rate = -math.log(decay)
    mantissa, exponent = math.frexp(rate)
    bits = jnp.finfo(dtype).nmant // 2 + 1
    high = math.ldexp(round(mantissa * 2**bits), exponent - bits)
    return _one_minus_exp(t * high, t * (rate - high))


def _one_minus_exp(x: jax.Array, low: jax.Array) -> jax.Array:
    """1 − exp(−(x + low)) for x ≥ 0: by its tail near 0, since XLA's ``expm1`` is off by up to 5 ulp."""
    tail = 0.0
    for k in reversed(range(15)):  # Σ (−x)ᵏ / (k + 2)!
        tail = 1 / math.factorial(k + 2) - x * tail
    far = jnp.exp(-x)
    return jnp.where(x < 0.7, x - x * x * tail + low * far, 1 - far * (1 - low))
