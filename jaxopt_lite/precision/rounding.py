"""Stochastic rounding: up or down at random, with probabilities such that the mean is right.

[1] Zamirai, Zhang, Aberger, De Sa, "Revisiting BFloat16 Training", 2020, arXiv:2010.06192, Alg. 2.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxopt_lite import checks, tree
from jaxopt_lite.compose import _require_transformation
from jaxopt_lite.transformation import transformation
from jaxopt_lite.types import Array, OptState


def dither(key: Any, shape: tuple[int, ...]) -> Array:
    """Numbers in (0, 1), multiples of 2⁻¹⁶ plus 2⁻¹⁷: a hash of key and position, cheap enough to fuse.

    32-bit words through two rounds of multiply and shift; not for cryptography, nor where a stream of numbers
    must pass a test suite.
    """
    data = jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
    first, last = data.reshape(-1)[0], data.reshape(-1)[-1]
    position = jnp.zeros(shape, jnp.uint32)
    for axis, stride in enumerate(_strides(shape)):
        position = position + lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride)
    mixed = _mix(_mix(position * jnp.uint32(0x9E3779B1) + last) ^ first)
    return ((mixed >> 16).astype(jnp.int32).astype(jnp.float32) + 0.5) * 2.0**-16


def _mix(x: Array) -> Array:
    """A bijection of 32-bit words in which every input bit flips about half the output bits."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def _strides(shape: tuple[int, ...]) -> list[int]:
    strides, size = [], 1
    for length in reversed(shape):
        strides.append(size % 2**32)
        size *= length
    return strides[::-1]


def nearest(dtype: Any, x: Array) -> Array:
    """``x`` rounded to the nearest number of a narrower dtype, ties to even, and still float32.

    ``x.astype(dtype).astype(float32)`` is not that: compilers for GPUs and TPUs keep the excess precision and drop
    both casts where they meet in one program. After this one a cast changes nothing, dropped or not.
    """
    dtype, x = jnp.dtype(dtype), x.astype(jnp.float32)
    if dtype in (jnp.float32, jnp.bfloat16):
        return lax.reduce_precision(x, 8, jnp.finfo(dtype).nmant)
    ulp, top = spacing(dtype, x), float(jnp.finfo(dtype).max)  # reduce_precision knows no subnormal numbers
    rounded = jnp.round(x / ulp) * ulp
    beyond = jnp.where(jnp.abs(rounded) > top, jnp.copysign(jnp.inf, x), rounded)
    return jnp.where(jnp.isfinite(x), beyond, x)


def round_to(dtype: Any, x: Array, key: Any) -> Array:
    """``x`` (float32 or wider) in a 16-bit dtype, up or down such that the mean over keys is x.

    Exact values stay; beyond the largest number it is rounded to nearest, NaN and inf stay.
    """
    dtype = jnp.dtype(dtype)
    x = x.astype(jnp.float32)
    if dtype == jnp.float32:
        return x
    noise = dither(key, x.shape)
    if dtype == jnp.bfloat16:  # the upper half of a float32: a carry out of the lower half is the rounding up
        bits = lax.bitcast_convert_type(x, jnp.uint32) + jnp.floor(noise * 2.0**16).astype(jnp.uint32)
        rounded = lax.bitcast_convert_type(bits & jnp.uint32(0xFFFF0000), jnp.float32)
    else:
        ulp = spacing(dtype, x)
        low = jnp.floor(x / ulp)  # its distance is exact, where x / ulp + noise would be rounded
        rounded = (low + (noise < x / ulp - low)) * ulp
    inside = jnp.abs(x) <= float(jnp.finfo(dtype).max)
    return jnp.where(inside, jnp.clip(rounded, *_range(dtype)), x).astype(dtype)


def _range(dtype: Any) -> tuple[float, float]:
    return float(jnp.finfo(dtype).min), float(jnp.finfo(dtype).max)


def spacing(dtype: Any, x: Array) -> Array:
    """The distance from |x| to the next larger number of a 16-bit dtype, as float32; x is float32.

    For bfloat16 at least the smallest normal float32, as XLA takes anything smaller for 0.
    """
    info = jnp.finfo(dtype)
    power = lax.bitcast_convert_type(
        lax.bitcast_convert_type(x, jnp.uint32) & jnp.uint32(0x7F800000), jnp.float32
    )
    return jnp.maximum(
        jnp.maximum(power, float(info.tiny)) * 2.0**-info.nmant, float(jnp.finfo(x.dtype).tiny)
    )


def is_16_bit(leaf: Any) -> bool:
    """Whether a leaf is real floating point of 16 bits."""
    return leaf is not None and jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype.itemsize == 2


def widened(params: Any) -> Any:
    """16-bit leaves in float32; the others as they are. Takes ``ShapeDtypeStruct``s and ``None`` too."""

    def leaf(x):
        if not is_16_bit(x):
            return x
        if isinstance(x, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(x.shape, jnp.float32, sharding=x.sharding)
        return x.astype(jnp.float32)

    return jax.tree.map(leaf, params)


def step_onto(target: Array, p: Array) -> Array:
    """The float32 u for which p + u, taken in float32 and rounded to p's dtype, is the 16-bit ``target``.

    Exact while target ≥ 2⁻¹⁶·p for bfloat16 (2⁻¹³ for float16); 0 is always reached.
    """
    return target.astype(jnp.float32) - p.astype(jnp.float32)


class StochasticRoundingState(NamedTuple):
    """Step count and the wrapped transformation's state."""

    count: Array  # [] int32
    inner: OptState


@transformation
def stochastic_rounding(tx, seed: int = 0):
    """16-bit parameters that do not stall: p + u is rounded up or down at random, right on average [1].

    ```
    pₜ₊₁ = ⌊(pₜ + uₜ)/q + r⌋ · q,  q the distance between neighbours in p's dtype, r uniform in (0, 1)
    ```

    No memory beyond a counter. ``tx`` works in float32 throughout: it is initialised and updated with float32
    copies of 16-bit leaves. The update that comes out is float32, and ``optax.apply_updates`` lands on pₜ₊₁
    exactly. Leaves of other dtypes take ``tx``'s update as it is. Runs with the same seed are the same to the bit,
    also when resumed from a checkpoint.

    Args:
      tx: any optax-protocol transformation whose updates are to be added to the parameters.
      seed: of the random numbers.

    Raises ``ValueError`` when ``update`` is called without ``params``.

    >>> import jaxopt_lite as jol
    >>> tx = stochastic_rounding(jol.sgd(1.0))
    >>> params = jnp.ones(10_000, jnp.bfloat16)
    >>> updates, _ = tx.update(jnp.full_like(params, -1 / 512), tx.init(params), params)
    >>> moved = jol.apply_updates(params, updates)  # half of them to 1, half to 1 + 1/128, in the mean 1/512
    >>> bool(abs(moved.astype(jnp.float32).mean() - 1 - 1 / 512) < 1e-4)
    True
    """
    _require_transformation("stochastic_rounding: tx", tx)
    inner = optax.with_extra_args_support(tx)

    def init(params):
        return StochasticRoundingState(jnp.zeros([], jnp.int32), inner.init(widened(params)))

    def update(updates, state, params=None, **extra):
        checks.require_params("stochastic_rounding", params)
        updates, new = inner.update(widened(updates), state.inner, widened(params), **extra)
        key = jax.random.fold_in(jax.random.key(seed), state.count)
        leaves, treedef = jax.tree.flatten(updates, is_leaf=tree.is_none)
        moved = [
            _rounded(u, p, jax.random.fold_in(key, i))
            for i, (u, p) in enumerate(zip(leaves, treedef.flatten_up_to(params), strict=True))
        ]
        return treedef.unflatten(moved), StochasticRoundingState(optax.safe_increment(state.count), new)

    return optax.GradientTransformationExtraArgs(init, update)


def _rounded(u: Any, p: Any, key: Any) -> Any:
    if u is None or not is_16_bit(p):
        return u
    wide = p.astype(jnp.float32) + u.astype(jnp.float32)
    return step_onto(round_to(p.dtype, wide, key), p)
