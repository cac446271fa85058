"""Rows of a tree of arrays: how many there are, some of them, and one epoch of random mini-batches."""

import operator
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np


def minibatches(key: jax.Array, data: Any, batch_size: int, *, drop_remainder: bool = False) -> Iterator[Any]:
    """Iterate over one epoch: a fresh permutation of the rows, every row once, ``batch_size`` at a time.

    Args:
      key: a random key, ``jax.random.key(0)`` or the older ``jax.random.PRNGKey(0)``; it alone decides the order.
      data: a tree of arrays of equal leading length N ≥ 1. NumPy arrays are gathered on the host, JAX arrays
        on their device.
      batch_size: rows in a batch, 1 … N.
      drop_remainder: leave out the last N mod ``batch_size`` rows of the permutation instead of yielding
        them as a smaller batch.

    Raises:
      ValueError: data without arrays or rows, arrays of unequal length, ``batch_size`` outside 1 … N.

    >>> [batch["x"].shape for batch in minibatches(jax.random.key(0), {"x": np.ones((5, 3))}, 2)]
    [(2, 3), (2, 3), (1, 3)]
    """
    rows = check_batching("minibatches", data, batch_size)
    order = _permutation(key, rows)
    stop = rows - rows % batch_size if drop_remainder else rows
    return (take(data, order[i : i + batch_size]) for i in range(0, stop, batch_size))


def _permutation(key: jax.Array, rows: int) -> np.ndarray:
    return np.asarray(jax.random.permutation(key, rows))


@jax.jit
def _take_on_device(leaf: jax.Array, index: jax.Array) -> jax.Array:
    return leaf.at[index].get(mode="promise_in_bounds")


def take(data: Any, index: np.ndarray) -> Any:
    """The rows ``index`` of every array."""
    on_device = lambda leaf: isinstance(leaf, jax.Array)
    one = lambda leaf: _take_on_device(leaf, index) if on_device(leaf) else np.asarray(leaf)[index]
    return jax.tree.map(one, data)


def check_batching(name: str, data: Any, batch_size: int) -> int:
    """The number of rows of ``data``, after a check that batches of that size can be taken from it."""
    rows = count_rows(name, "data", data)
    check_count(name, "batch_size", batch_size)
    if batch_size > rows:
        raise ValueError(f"{name}: batch_size is {batch_size}, expected at most {rows}, the rows of data")
    return rows


def count_rows(name: str, argument: str, data: Any) -> int:
    """The leading length that all arrays share, at least 1; ``ValueError`` otherwise."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(data)
    named = [(argument + jax.tree_util.keystr(path), np.shape(leaf)) for path, leaf in leaves]
    if not named:
        raise ValueError(f"{name}: {argument} has no arrays, expected at least one")
    first, reference = named[0]
    for leaf, shape in named:
        if not shape:
            raise ValueError(f"{name}: {leaf} is a scalar, expected an array with a leading axis of rows")
        if shape[0] != reference[0]:
            raise ValueError(f"{name}: {leaf} has {shape[0]} rows, expected {reference[0]}, those of {first}")
    if reference[0] == 0:
        raise ValueError(f"{name}: {argument} has 0 rows, expected at least 1")
    return reference[0]


def check_count(name: str, argument: str, value: Any) -> None:
    """Raise ``ValueError`` unless ``value`` is an integer of at least 1."""
    try:
        count = operator.index(value)
    except TypeError:
        count = 0
    if count < 1:
        raise ValueError(f"{name}: {argument} is {value!r}, expected an integer of at least 1")


def stream(key: Any, data: Any, batch_size: int, start: int, total: int) -> Iterator[tuple[Any, bool]]:
    """The batches of the steps ``start`` … ``total`` - 1, each with whether it is the last."""
    rows = count_rows("fit", "data", data)
    per_epoch = -(-rows // batch_size)
    for step in range(start, total):
        epoch, i = divmod(step, per_epoch)
        if i == 0 or step == start:
            order = _permutation(jax.random.fold_in(key, epoch), rows)
        yield take(data, order[i * batch_size : (i + 1) * batch_size]), step == total - 1
