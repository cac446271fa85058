"""What many optimizers share: moving averages of a gradient and of its square, and their bias corrections."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_lite import checks
from jaxopt_lite.tree import abs2, moment_dtype

K = 2.0**-10  # second moments are stored times K², see second_moment


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
    """ν for v = ``value`` in the leaf's shape, real also for a complex leaf."""
    return jnp.full_like(leaf, K**2 * value, dtype=jnp.finfo(moment_dtype(leaf)).dtype)


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


def squared(g: jax.Array) -> jax.Array:
    """k²·|g|²: scaled before it is squared, so finite for |g| up to 1e22 in float32."""
    # The select keeps XLA from turning (k·g)·(k·g) of a single entry into k²·(g·g), which overflows.
    return abs2(K * g if g.size > 1 else jnp.where(jnp.isnan(g), g, K * g))


def mean_squared(g: jax.Array, axis: Any = None) -> jax.Array:
    """k²·mean(|g|²) along ``axis`` (kept, with length 1), finite for n entries up to 1e22/√n; 0 without entries."""
    total = jnp.sum(squared(g), axis, keepdims=True)
    return total / max(1, g.size // max(1, total.size))


def second_moment(nu: jax.Array, g: jax.Array, b2: Any, weight: Any = None) -> jax.Array:
    """One step of v = β₂·v + (1 − β₂)·|g|², kept as ν = k²·v; ``weight`` replaces 1 − β₂.

    v itself would be infinite where |g| passes 1.8e19. What k costs at the other end are gradients below 4e-15
    (β₂ = 0.999), far below every ε in use.
    """
    return b2 * nu + (1 - b2 if weight is None else weight) * squared(g)


def root_of(nu: jax.Array, eps: Any = 0.0) -> jax.Array:
    """√(v + ε) from ν = k²·v.

    At least the root of the smallest normal number over k, 1e-16: no division by 0, and a finite derivative.
    From the new ν alone, so that XLA updates it in place.
    """
    return jnp.sqrt(jnp.maximum(nu + K**2 * eps, jnp.finfo(nu.dtype).tiny)) * (1 / K)


def running_root(root: jax.Array, x: jax.Array, b2: Any, weight: Any) -> jax.Array:
    """√(β₂·root² + weight·x²) for x ≥ 0, by the larger of the two: no magnitude overflows, such as a norm's."""
    unit = jnp.maximum(jnp.maximum(root, x), jnp.finfo(root.dtype).tiny)
    squares = b2 * (root / unit) ** 2 + weight * (x / unit) ** 2
    return unit * jnp.sqrt(jnp.maximum(squares, jnp.finfo(root.dtype).tiny))


def after(x: jax.Array, *others: jax.Array) -> jax.Array:
    """``x``, in a form that XLA computes after ``others``.

    Where x replaces a donated state array that ``others`` are computed from, it is then written in place; in
    any other order the array is copied first. The condition is never true.
    """
    never = jnp.zeros([], bool)
    for other in others:
        never = never | (other.real < -jnp.inf)
    return jnp.where(never, 0, x)


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
