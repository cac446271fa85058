"""Which leaves are matrices, along which axes, and how a leaf of any rank becomes a batch of them."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_lite import tree
from jaxopt_lite.compose import path_string
from jaxopt_lite.types import Array

MatrixAxes = Any
"""How callers name the axes; see ``axes_of``."""


class Axes(NamedTuple):
    """A leaf's axes, each once and non-negative: inputs and outputs of its matrices, and the batch of them."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    batch: tuple[int, ...]


def axes_of(name: str, matrix_axes: MatrixAxes, params: Any) -> list[Axes | None]:
    """The ``Axes`` of every leaf (``None`` counts as a leaf); ``None`` for one that holds no matrices.

    Args:
      name: of the caller, for messages.
      matrix_axes: a pair ``(inputs, outputs)`` of an axis or a tuple of axes each, whose other axes are batch;
        or ``None`` for no matrix, given as one of
        the pair, for all leaves; a function ``(path, leaf) -> pair``, where a path reads ``"layers/0/kernel"``;
        a dict ``{pattern: pair}`` of regular expressions, the first that is found in the path; a tree of pairs
        like ``params``, or a prefix of it (a dict with its keys is one). Where nothing is said, and with
        ``matrix_axes=None``, a leaf of rank ≥ 2 is ``(-2, -1)``. A leaf of rank < 2 is never a matrix.
      params: the tree of parameters or of updates; optax's ``MaskedNode`` may stand for some of its leaves.
    """
    choose = _chooser(matrix_axes, params)
    leaves, _ = jax.tree_util.tree_flatten_with_path(params, is_leaf=tree.is_none)
    named = [(path_string(path), leaf) for path, leaf in leaves]
    return [
        None if x is None or jnp.ndim(x) < 2 else _axes(name, path, x, choose(path, x)) for path, x in named
    ]


def _chooser(matrix_axes: MatrixAxes, params: Any) -> Callable[[str, Any], Any]:
    """``matrix_axes`` as a function of path and leaf."""
    if matrix_axes is None or _is_pair(matrix_axes):
        return lambda path, leaf: matrix_axes or (-2, -1)
    if callable(matrix_axes):
        return matrix_axes
    if isinstance(matrix_axes, Mapping) and not (
        isinstance(params, Mapping) and set(params) == set(matrix_axes)
    ):
        patterns = list(matrix_axes.items())
        found = lambda path: (axes for pattern, axes in patterns if re.search(pattern, path))
        return lambda path, leaf: next(found(path), (-2, -1))
    is_spec = lambda x: x is None or _is_pair(x)
    pairs, _ = jax.tree_util.tree_flatten_with_path(matrix_axes, is_leaf=is_spec)
    prefixes = [(path_string(path), axes) for path, axes in pairs]
    inside = lambda path, prefix: not prefix or path == prefix or path.startswith(prefix + "/")
    return lambda path, leaf: next((axes for prefix, axes in prefixes if inside(path, prefix)), (-2, -1))


def _is_pair(x: Any) -> bool:
    """Two entries, each an axis or a sequence of axes."""
    is_axes = lambda y: isinstance(y, int) or (isinstance(y, (tuple, list)) and all(map(_is_int, y)))
    return isinstance(x, tuple) and len(x) == 2 and all(map(is_axes, x))


def _is_int(x: Any) -> bool:
    return isinstance(x, int)


def _axes(name: str, path: str, leaf: Any, pair: Any) -> Axes | None:
    """A pair as ``Axes``, after a check that it fits the leaf."""
    if pair is None:
        return None
    where = f"{name}: the matrix axes of {path!r}, of shape {jnp.shape(leaf)}, are {pair!r}"
    if not _is_pair(tuple(pair)):
        raise ValueError(f"{where}, expected a pair (inputs, outputs) of an axis or a tuple of axes each")
    rank = jnp.ndim(leaf)
    sides = [side if isinstance(side, Sequence) else (side,) for side in pair]
    given = [axis for side in sides for axis in side]
    inputs, outputs = (tuple(axis % rank for axis in side) for side in sides)
    inside = all(-rank <= axis < rank for axis in given)
    if not (inside and inputs and outputs and len({*inputs, *outputs}) == len(given)):
        raise ValueError(f"{where}, expected different ones in [{-rank}, {rank}), one on each side at least")
    return Axes(inputs, outputs, tuple(axis for axis in range(rank) if axis not in inputs + outputs))


def sizes(shape: Sequence[int], axes: Axes) -> tuple[int, int]:
    """The numbers of inputs and of outputs of a leaf's matrices."""
    return math.prod(shape[i] for i in axes.inputs), math.prod(shape[i] for i in axes.outputs)


def to_matrices(x: Array, axes: Axes) -> Array:
    """The leaf as [batch, inputs, outputs]."""
    order = axes.batch + axes.inputs + axes.outputs
    batch = math.prod(x.shape[i] for i in axes.batch)
    return x.transpose(order).reshape(batch, *sizes(x.shape, axes))


def from_matrices(x: Array, shape: Sequence[int], axes: Axes) -> Array:
    """Undo ``to_matrices``."""
    order = axes.batch + axes.inputs + axes.outputs
    back = sorted(range(len(order)), key=order.__getitem__)
    return x.reshape([shape[i] for i in order]).transpose(back)
