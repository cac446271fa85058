"""Small integers that stand for fractions of a tile's largest magnitude, and the rounding to them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from jaxopt_lite.precision.blocks import block_max, spread, tile_of
from jaxopt_lite.precision.rounding import dither
from jaxopt_lite.types import Array


class Grid(NamedTuple):
    """What the codes 0 … top mean, as fractions of a tile's largest; 0 means 0 and top means 1."""

    top: int
    least: int  # the code of the smallest fraction above 0
    to_code: Callable  # fraction -> continuous code c in [0, top]
    from_code: Callable  # code -> fraction
    share: Callable  # (c, l = ⌊c⌋) -> how far c has come from l to l + 1, numerator and denominator


def companded(top: int) -> Grid:
    """The fraction grows as u(1 + u)/2 with u = code/top: twice as fine near 0, ⅔ as fine near 1.

    Without a division: XLA repeats products where they are read on a CPU, but stores quotients.
    """
    to_code = lambda t: (top / 2) * (jnp.sqrt(1 + 8 * t) - 1)
    from_code = lambda q: q * (q + top) / (2 * top**2)
    share = lambda c, l: ((c - l) * (c + l + top), 2 * l + (top + 1))
    return Grid(top, 0, to_code, from_code, share)


def square(top: int) -> Grid:
    """The fraction grows as u² with u = code/top; no fraction above 0 becomes 0. The share is of its square."""
    to_code = lambda t: top * jnp.sqrt(t)
    share = lambda c, l: ((c - l) * (c + l) * (c * c + l * l), (2 * l + 1) * (l * l + (l + 1) ** 2))
    return Grid(top, 1, to_code, lambda q: (q / top) ** 2, share)


def tile_scale(x: Array, block: tuple[int, int]) -> Array:
    """The largest |x| of each tile, NaN where one is NaN or inf."""
    largest = block_max(x, tile_of(x.shape, block))
    return jnp.where(jnp.isfinite(largest), largest, jnp.nan)


def fractions(x: Array, scale: Array, block: tuple[int, int]) -> Array:
    """Every entry over its tile's scale; 0 in a tile of zeros."""
    return x / spread(jnp.where(scale == 0, 1, scale), x.shape, tile_of(x.shape, block))


def codes(x: Array, scale: Array, grid: Grid, block: tuple[int, int], key: Any) -> Array:
    """The code of every x ≥ 0, a float with an integer's value.

    With a key it is rounded up with the probability of its share, so that what it stands for is right on average.
    """
    code = grid.to_code(fractions(x, scale, block))
    if key is None:
        code = jnp.round(code)
    else:
        low = jnp.floor(code)
        share, whole = grid.share(code, low)
        code = low + (dither(key, x.shape) * whole < share)
    return jnp.where(x > 0, jnp.clip(code, grid.least, grid.top), 0)


def squares(root: Array) -> Array:
    """root², finite, and above 0 where the root is."""
    info = jnp.finfo(root.dtype)
    return jnp.where(root == 0, 0, jnp.clip(root * root, float(info.tiny), float(info.max)))


def wide(x: Array) -> Array:
    """Float32 or better; what is stored is a step function of x, so no derivative passes."""
    return lax.stop_gradient(x).astype(jnp.promote_types(x.dtype, jnp.float32))
