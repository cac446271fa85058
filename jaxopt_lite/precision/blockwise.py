"""Codecs of 4 and 8 bits: small numbers, and one float32 scale for each block [1], here a tile of 8 × 128 entries.

[1] Dettmers, Lewis, Shleifer, Zettlemoyer, "8-bit Optimizers via Block-wise Quantization", ICLR 2022,
    arXiv:2110.02861, Sec. 2.
[2] Gonzalez Ortiz, Gupta, Rinard, Renzella, "FlashOptim", 2026, arXiv:2602.23349, Sec. 3.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from jaxopt_lite.precision import nibbles
from jaxopt_lite.precision.blocks import check_block, spread, tile_of
from jaxopt_lite.precision.codec import Codec, codec
from jaxopt_lite.precision.grids import Grid, codes, fractions, squares, tile_scale, wide
from jaxopt_lite.precision.rounding import dither, nearest, spacing
from jaxopt_lite.types import Array

FP8 = jnp.float8_e4m3fn
FP8_TOP, FP8_LEAST = 448.0, 2.0**-9


class Blocks(NamedTuple):
    """One small number an entry, and one scale a tile."""

    numbers: Any  # int8 or uint8, the array's shape; or Nibbles
    scale: Array  # float32 (float64), the array's shape over the tile's, rounded up


@codec
def int8_codec(block: tuple[int, int] = (8, 128)):
    """Signed bytes: q = round(127·√(|x|/s)) with the sign of x, s the tile's largest |x|.

    ```
    x̂ = ±s · (q/127)²
    ```

    1 byte an entry and 4 a tile. Rounded to nearest, |x̂ − x| ≤ s/127 near s, s/64,516 near 0; s itself and 0 come back
    exactly. (A grid as coarse near 0 as the one in [2], s/508, makes noise of first moments that are small in their
    tile.) Scales are float32 in value and range (float64 for float64), so this holds for tiles up to 3e38, down to
    what XLA takes for 0, 1.2e-38. A NaN or inf makes its whole tile NaN. With a key, which ``quantize_state`` gives,
    rounding is stochastic: twice as far off at most, right on average. An average rounded to nearest stands still while
    a step changes it by less than half a code.

    Args:
      block: rows and columns of a tile of the last two axes; see ``blocks.tile_of`` for other arrays.

    Raises ``ValueError`` unless ``block`` is two positive ints.

    >>> int8_codec().decode(int8_codec().encode(jnp.array([1e30, -5e29, 0.0]))).tolist()
    [1.0000000150474662e+30, -5.0220104587300086e+29, 0.0]
    """
    return _signed_codec(check_block("int8_codec", block), Grid(127, least=0, power=1), packed=False)


@codec
def int4_codec(block: tuple[int, int] = (8, 128)):
    """Like ``int8_codec`` with x̂ = ±s · q(q + 5)/84, q from 0 to 7, two entries to a byte.

    ½ byte an entry and 4 a tile. |x̂ − x| ≤ s/9 near s, s/30 near 0: more even than squares, which are a tenth less
    exact for normal numbers.

    >>> int4_codec().encode(jnp.ones((16, 128))).numbers.pairs.nbytes
    1024
    """
    return _signed_codec(check_block("int4_codec", block), Grid(7, least=0, power=1, a=5), packed=True)


@codec
def uint8_sqrt_codec(block: tuple[int, int] = (8, 128)):
    """Second moments as bytes: q = round(255·√(√v/s)), s the tile's largest √v; at least 1 where v > 0.

    ```
    v̂ = (s · (q/255)²)²
    ```

    1 byte an entry and 4 a tile. √v̂ is within s/255 of √v, within ½ % of it near s and 4 % at s/100. No v > 0 comes
    back as 0, which m/√v could not bear: below s/65,025 √v̂ is larger than √v, so that steps become smaller. Zero
    comes back exactly. A negative entry, NaN or inf makes its whole tile NaN. With a key, v̂ is right on average.

    >>> uint8_sqrt_codec().decode(uint8_sqrt_codec().encode(jnp.array([4.0, 1e-20, 0.0]))).tolist()
    [4.0, 9.46017708614022e-10, 0.0]
    """
    return _root_codec(check_block("uint8_sqrt_codec", block), Grid(255, least=1, power=2), packed=False)


@codec
def uint4_sqrt_codec(block: tuple[int, int] = (8, 128)):
    """Like ``uint8_sqrt_codec`` with q = round(15·√(√v/s)), two entries to a byte: √v̂ from s/225 to s.

    >>> uint4_sqrt_codec().decode(uint4_sqrt_codec().encode(jnp.array([4.0, 1e-20, 0.0]))).tolist()
    [4.0, 7.901235221652314e-05, 0.0]
    """
    return _root_codec(check_block("uint4_sqrt_codec", block), Grid(15, least=1, power=2), packed=True)


def _pack(code: Array, dtype: Any, packed: bool) -> Any:
    return nibbles.pack(code) if packed else code.astype(dtype)


def _unpack(numbers: Any, packed: bool, signed: bool) -> Array:
    return nibbles.unpack(numbers, signed=signed) if packed else numbers


def _signed_codec(block: tuple[int, int], grid: Grid, packed: bool) -> Codec:
    scale_of = lambda x: tile_scale(wide(x), block)

    def encode(x: Array, key: Any = None, scale: Any = None) -> Blocks:
        x, scale = wide(x), scale_of(x) if scale is None else scale
        code = codes(jnp.abs(x), scale, grid, block, key)
        return Blocks(_pack(jnp.where(x < 0, -code, code), jnp.int8, packed), scale)

    def decode(stored: Blocks) -> Array:
        numbers = _unpack(stored.numbers, packed, signed=True).astype(stored.scale.dtype)
        fraction = jnp.sign(numbers) * grid.fraction(jnp.abs(numbers))
        return fraction * spread(stored.scale, numbers.shape, tile_of(numbers.shape, block))

    return Codec(encode, decode, stochastic=True, scale=scale_of)


def _not_negative(v: Array) -> Array:
    """v, NaN where it is below 0."""
    v = wide(v)
    return jnp.where(v >= 0, v, jnp.nan)


def _root_scale(v: Array, block: tuple[int, int]) -> Array:
    """The largest √v of each tile, the root taken last, so that one is taken a tile."""
    return jnp.sqrt(tile_scale(_not_negative(v), block))


def _root_codec(block: tuple[int, int], grid: Grid, packed: bool) -> Codec:
    scale_of = lambda v: _root_scale(v, block)

    def encode(v: Array, key: Any = None, scale: Any = None) -> Blocks:
        v, scale = _not_negative(v), scale_of(v) if scale is None else scale
        code = codes(jnp.sqrt(v), scale, grid, block, key)
        return Blocks(_pack(code, jnp.uint8, packed), scale)

    def decode(stored: Blocks) -> Array:
        numbers = _unpack(stored.numbers, packed, signed=False).astype(stored.scale.dtype)
        tile = tile_of(numbers.shape, block)
        return squares(grid.fraction(numbers) * spread(stored.scale, numbers.shape, tile))

    return Codec(encode, decode, stochastic=True, scale=scale_of)


@codec
def fp8_codec(block: tuple[int, int] = (8, 128)):
    """Eight-bit floats (e4m3: 4 bits of exponent, 3 of mantissa) of 448·x/s, s the tile's largest |x|.

    1 byte an entry and 4 a tile. |x̂ − x| ≤ |x|/16 down to s/28,672, s/458,752 below; s and 0 come back exactly, if s
    is at least 6e-36 (in an array of one tile XLA takes s/448 first). A NaN or inf makes its whole tile NaN. The bits
    are stored as uint8, which every checkpoint format knows.

    >>> fp8_codec().decode(fp8_codec().encode(jnp.array([448.0, -115.0, 0.0]))).tolist()
    [448.0, -112.0, 0.0]
    """
    block = check_block("fp8_codec", block)
    scale_of = lambda x: tile_scale(wide(x), block)

    def encode(x: Array, key: Any = None, scale: Any = None) -> Blocks:
        x, scale = wide(x), scale_of(x) if scale is None else scale
        return Blocks(_to_fp8(fractions(x, scale, block), key), scale)

    return Codec(encode, lambda stored: _from_fp8(stored, block), scale=scale_of)


@codec
def fp8_sqrt_codec(block: tuple[int, int] = (8, 128)):
    """Second moments as eight-bit floats of 448·√v/s: √v̂ within 1/16 of √v, and never 0 where v is not.

    Otherwise like ``uint8_sqrt_codec``, with the sign bit unused.
    """
    block = check_block("fp8_sqrt_codec", block)
    scale_of = lambda v: _root_scale(v, block)

    def encode(v: Array, key: Any = None, scale: Any = None) -> Blocks:
        v, scale = _not_negative(v), scale_of(v) if scale is None else scale
        least = jnp.where(v > 0, FP8_LEAST / FP8_TOP, 0)
        return Blocks(_to_fp8(jnp.maximum(fractions(jnp.sqrt(v), scale, block), least), key), scale)

    return Codec(encode, lambda stored: squares(_from_fp8(stored, block)), scale=scale_of)


def _to_fp8(fraction: Array, key: Any) -> Array:
    x = fraction.astype(jnp.float32) * FP8_TOP
    if key is None:
        x = nearest(FP8, x)
    else:
        ulp = spacing(FP8, x)
        x = jnp.clip(jnp.floor(x / ulp + dither(key, x.shape)) * ulp, -FP8_TOP, FP8_TOP)
    return lax.bitcast_convert_type(x.astype(FP8), jnp.uint8)


def _from_fp8(stored: Blocks, block: tuple[int, int]) -> Array:
    numbers = lax.bitcast_convert_type(stored.numbers, FP8).astype(stored.scale.dtype)
    return (numbers / FP8_TOP) * spread(stored.scale, numbers.shape, tile_of(numbers.shape, block))
