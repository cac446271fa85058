"""Small integers that stand for fractions of a tile's largest magnitude, and the rounding to them."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from jaxopt_lite.precision.blocks import block_max, spread, tile_of
from jaxopt_lite.precision.rounding import dither
from jaxopt_lite.types import Array


class Grid(NamedTuple):
    """Codes 0 … top for fractions of a tile's largest, finer near 0: t = q(q + a)/(top(top + a)).

    No division by q: on a CPU XLA repeats a product where it is read again, but stores a quotient.
    """

    top: int
    least: int  # the code of the smallest fraction above 0
    power: int  # of the fraction, which random rounding keeps right on average
    a: int = 0  # the larger, the more even

    def weight(self, code: Any) -> Any:
        """q(q + a), in proportion to what a code stands for."""
        return code * (code + self.a)

    def fraction(self, code: Array) -> Array:
        """What a code stands for."""
        return self.weight(code) / self.weight(self.top)

    def code(self, fraction: Array) -> Array:
        """Undo ``fraction``: between two codes where it is none's."""
        return jnp.sqrt(fraction * self.weight(self.top) + self.a**2 / 4) - self.a / 2


def tile_scale(x: Array, block: tuple[int, int]) -> Array:
    """The largest |x| of each tile, NaN where one is NaN or inf."""
    largest = block_max(x, tile_of(x.shape, block))
    return jnp.where(jnp.isfinite(largest), largest, jnp.nan)


def fractions(x: Array, scale: Array, block: tuple[int, int]) -> Array:
    """Every x over its tile's scale; ±1 at the scale itself, 0 in a tile of zeros.

    Multiplied twice by 1/√s, which no scale makes 0 or inf as XLA's 1/s is for the largest and the smallest.
    """
    whole = lambda of_tiles: spread(of_tiles, x.shape, tile_of(x.shape, block))
    root = whole(1 / jnp.sqrt(jnp.where(scale == 0, 1, scale)))
    return jnp.where(jnp.abs(x) < whole(scale), (x * root) * root, jnp.sign(x))


def codes(x: Array, scale: Array, grid: Grid, block: tuple[int, int], key: Any) -> Array:
    """The code of every x ≥ 0, a float with an integer's value.

    With a key it is rounded up with the probability by which what it stands for is right on average.
    """
    code = grid.code(fractions(x, scale, block))
    if key is None:
        code = jnp.round(code)
    else:
        low = jnp.floor(code)
        below, here, above = (grid.weight(q) ** grid.power for q in (low, code, low + 1))
        code = low + (dither(key, x.shape) * (above - below) < here - below)
    return jnp.where(x > 0, jnp.clip(code, grid.least, grid.top), 0)


def squares(root: Array) -> Array:
    """root², finite, and above 0 where the root is."""
    info = jnp.finfo(root.dtype)
    return jnp.where(root == 0, 0, jnp.clip(root * root, float(info.tiny), float(info.max)))


def wide(x: Array) -> Array:
    """Float32 or better; what is stored is a step function of x, so no derivative passes."""
    return lax.stop_gradient(x).astype(jnp.promote_types(x.dtype, jnp.float32))
