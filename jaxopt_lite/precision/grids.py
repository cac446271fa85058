"""Small integers that stand for fractions of a tile's largest magnitude, and the rounding to them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from jaxopt_lite.precision.blocks import block_max, spread, tile_of
from jaxopt_lite.precision.rounding import dither
from jaxopt_lite.types import Array


class Grid(NamedTuple):
    """What the codes 0 … top mean; ``from_code`` of 0 is 0 and of top is 1."""

    top: int
    to_code: Callable  # (magnitude, scale) -> continuous code in [0, top]
    from_code: Callable  # code -> fraction of the scale
    least: int  # the code of the smallest magnitude above 0
    power: int  # of the fraction, which random rounding keeps right on average


def companded(top: int) -> Grid:
    """The code grows as 2t/(1 + t) with the fraction t: twice as fine near 0, half as fine near 1."""
    to_code = lambda size, scale: (2 * top) * (size / (scale + size))
    return Grid(top, to_code, lambda q: q / (2 * top - q), least=0, power=1)


def square(top: int) -> Grid:
    """The code grows as √t with the fraction t; no fraction above 0 becomes 0, and t² is right on average."""
    to_code = lambda size, scale: top * jnp.sqrt(size / scale)
    return Grid(top, to_code, lambda q: (q / top) ** 2, least=1, power=2)


def tile_scale(x: Array, tile: tuple[int, ...]) -> tuple[Array, Array]:
    """The largest of each tile of x ≥ 0, NaN where one is NaN or inf; and as a divisor for every entry."""
    scale = block_max(x, tile)
    scale = jnp.where(jnp.isfinite(scale), scale, jnp.nan)
    return scale, spread(jnp.where(scale > 0, scale, 1), x.shape, tile)


def codes(x: Array, grid: Grid, block: tuple[int, int], key: Any) -> tuple[Array, Array]:
    """The code of every x ≥ 0 (a float with an integer's value), and the scales of the tiles."""
    scale, divisor = tile_scale(x, tile_of(x.shape, block))
    code = grid.to_code(x, divisor)
    if key is None:
        code = jnp.round(code)
    else:
        low = jnp.floor(code)
        fractions = x / divisor, grid.from_code(low), grid.from_code(low + 1)
        here, below, above = (fraction**grid.power for fraction in fractions)
        code = low + (dither(key, x.shape) * (above - below) < here - below)
    return jnp.where(x > 0, jnp.clip(code, grid.least, grid.top), 0), scale


def squares(root: Array) -> Array:
    """root², finite, and above 0 where the root is."""
    info = jnp.finfo(root.dtype)
    return jnp.where(root == 0, 0, jnp.clip(root * root, float(info.tiny), float(info.max)))


def wide(x: Array) -> Array:
    """Float32 or better; what is stored is a step function of x, so no derivative passes."""
    return lax.stop_gradient(x).astype(jnp.promote_types(x.dtype, jnp.float32))
