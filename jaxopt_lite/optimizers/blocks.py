"""Matrices in blocks, also on a mesh whose devices hold parts of them that end within blocks."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxopt_lite import shares
from jaxopt_lite.optimizers.norms import rms
from jaxopt_lite.types import Array


def sides(shape: tuple[int, ...], size: int) -> tuple[int, int]:
    """The sides of a block of matrices of this shape, at most ``size``."""
    return min(shape[-2], size), min(shape[-1], size)


def fit(shape: tuple[int, ...], size: int) -> bool:
    """Whether blocks of matrices of this shape, or equal parts of them, end wherever a mesh may cut these."""
    return all(shares.fits(*pair) for pair in zip(shape[-2:], sides(shape, size), strict=True))


def in_blocks(rule: Callable, size: int) -> Callable:
    """A rule ``(s, g, m, other, *slots) -> (u, *slots)`` for blocks, lifted to matrices [..., m, n] and shared out.

    Slots are of blocks. So is ``other``, or it is of the matrices, or ``None``.
    """

    def of_matrices(g, p, s, m, other, *slots):
        """They travel as a whole: to XLA blocks that cross the cuts of a matrix are nothing it could exchange."""
        cut = lambda x: x if x.ndim > g.ndim else to_blocks(x, size)
        u, *slots = rule(s, *jax.tree.map(cut, (g, m, other)), *slots)
        return from_blocks(u, g.shape), m, other, *slots

    def lifted(s, g, m, other, *slots):
        if shares.has_batch(g):
            u, _, _, *slots = shares.rule_by_matrix(of_matrices)(g, None, s, m, other, *slots)
            return u, *slots
        a, b = sides(g.shape, size)

        def of_filled(g, p, s, m, other, *slots):
            u, *slots = rule(s, *jax.tree.map(lambda x: x[..., :a, :b], (g, m, other)), *slots)
            return filled(filled(u, -2, g.shape[-2]), -1, g.shape[-1]), m, other, *slots

        cut = lambda x: x if x.ndim > g.ndim else apart(x, size)[0]
        blocks, back = apart(g, size)
        shared = shares.rule_by_matrix(of_filled)
        u, _, _, *slots = shared(blocks, None, s, *jax.tree.map(cut, (m, other)), *slots)
        return back(u), *slots

    return lifted


def to_blocks(x: Array, size: int) -> Array:
    """[..., m, n] as [..., blocks, a, b], row by row, filled up with zeros.

    >>> to_blocks(jnp.ones((5, 4)), 3).shape
    (4, 3, 3)
    """
    a, b = sides(x.shape, size)
    return _in_one_row(_cut(_cut(x, -1, b), -3, a))


def norms(x: Array, size: int) -> Array:
    """Of each block, [..., blocks, 1, 1], taken where x lies."""
    a, b = sides(x.shape, size)
    each = norm(jnp.swapaxes(_cut(_cut(x, -1, b), -3, a), -3, -2))
    return each.reshape(*x.shape[:-2], -1, 1, 1)


def norm(x: Array) -> Array:
    """Of matrices [..., m, n], [..., 1, 1]."""
    return rms(x, (-2, -1)) * (x.shape[-2] * x.shape[-1]) ** 0.5


def from_blocks(blocks: Array, shape: tuple[int, ...]) -> Array:
    """Undo ``to_blocks`` of an array of this shape."""
    m, n = shape[-2:]
    return _joined(_joined(_in_rows(blocks, -(-m // blocks.shape[-2])), -3, m), -1, n)


def apart(x: Array, size: int) -> tuple[Array, Callable]:
    """``to_blocks`` and what undoes it, of which XLA would gather x on a mesh. There sides may be filled up further."""
    (m, n), (a, b) = x.shape[-2:], sides(x.shape, size)
    if not shares.on_mesh() or (m, n) == (a, b):
        return to_blocks(x, size), lambda blocks: from_blocks(blocks, x.shape)
    grid = shares.grid(m // a, n // b) if m % a == n % b == 0 else None
    if grid is not None:
        return _in_grid(x, size, *grid)
    if m > a:
        cut, back = _rows_apart(x, a, b)
    else:  # one row of blocks
        cut, undo = _rows_apart(jnp.swapaxes(x, -2, -1), b, a)
        other = lambda y: jnp.moveaxis(y, (-4, -3), (-2, -1))
        cut, back = other(cut), lambda y: jnp.swapaxes(undo(other(y)), -2, -1)
    return _in_one_row(cut), lambda blocks: back(_in_rows(blocks, cut.shape[-4]))


def _in_grid(x: Array, size: int, outer: int, inner: tuple) -> tuple[Array, Callable]:
    """Where each device first gets the blocks that it has to work on; see ``shares.grid``."""
    rows, from_rows = shares.moved(x, -2, parts=outer)
    tiles, from_tiles = shares.moved(rows, -1, inner) if inner else (rows, lambda y: y)
    return to_blocks(tiles, size), lambda blocks: from_rows(from_tiles(from_blocks(blocks, x.shape)))


def _rows_apart(x: Array, a: int, b: int) -> tuple[Array, Callable]:
    """[..., m, n] as [..., rows, a, columns, b], and what undoes it; blocks may not end within a device's part.

    So each device gets some rows, [m/devices, n], which it cuts into [m/devices, columns, b]; and if these do not fit
    then some columns of each block, [m, columns, b/devices].
    """
    m, n = x.shape[-2:]
    fits = shares.fits(m, a) and m % shares.devices() == 0
    some_rows, from_rows = _shared(x, -2) if fits or n > b else (x, lambda y: y)
    bands = _cut(some_rows, -1, b)
    some_columns, from_columns = (bands, lambda y: y) if fits else _shared(bands, -1)

    def back(y):
        y = filled(_joined(y, -3, m), -3, some_rows.shape[-2])
        return from_rows(_joined(from_columns(y)[..., :b], -1, n))[..., :m, :]

    return _cut(some_columns[..., :m, :, :], -3, a), back


def _shared(x: Array, axis: int) -> tuple[Array, Callable]:
    """``shares.moved``, filled up so that all shares are equal."""
    return shares.moved(filled(x, axis, x.shape[axis] + -x.shape[axis] % shares.devices()), axis)


def filled(x: Array, axis: int, length: int) -> Array:
    """x with zeros behind, so that an axis has that length."""
    axis, extra = axis % x.ndim, length - x.shape[axis]
    return jnp.pad(x, [(0, extra if i == axis else 0) for i in range(x.ndim)]) if extra else x


def _cut(x: Array, axis: int, size: int) -> Array:
    """One axis as two, [blocks, size]."""
    axis %= x.ndim
    count = -(-x.shape[axis] // size)
    return filled(x, axis, count * size).reshape(*x.shape[:axis], count, size, *x.shape[axis + 1 :])


def _joined(x: Array, axis: int, length: int) -> Array:
    """An axis and the one before it as one of that length."""
    axis %= x.ndim
    x = x.reshape(*x.shape[: axis - 1], -1, *x.shape[axis + 1 :])
    return x[(slice(None),) * (axis - 1) + (slice(length),)]


def _in_one_row(x: Array) -> Array:
    """[..., rows, a, columns, b] as [..., blocks, a, b]."""
    x = jnp.swapaxes(x, -3, -2)
    return x.reshape(*x.shape[:-4], -1, *x.shape[-2:])


def _in_rows(x: Array, rows: int) -> Array:
    """Undo ``_in_one_row``."""
    a, b = x.shape[-2:]
    return jnp.swapaxes(x.reshape(*x.shape[:-3], rows, -1, a, b), -3, -2)
