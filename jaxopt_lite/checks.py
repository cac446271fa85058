"""Checks whose messages name the function, the argument, what was got and what was expected.

All of them look at shapes, dtypes and Python numbers only, so they cost nothing in a compiled program.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def shape(name: str, argument: str, array: Any, expected: Sequence[int]) -> None:
    """Raise ``ValueError`` unless ``array`` has exactly the shape ``expected``."""
    if jnp.shape(array) != tuple(expected):
        raise ValueError(f"{name}: {argument} has shape {jnp.shape(array)}, expected {tuple(expected)}")


def same_shape(name: str, **arrays: Any) -> None:
    """Raise ``ValueError`` unless all arrays have the shape of the first (nothing broadcasts silently)."""
    (first, reference), *others = arrays.items()
    for argument, array in others:
        if jnp.shape(array) != jnp.shape(reference):
            raise ValueError(
                f"{name}: {argument} has shape {jnp.shape(array)}, expected {jnp.shape(reference)}, "
                f"the shape of {first}"
            )


def floating(name: str, **arrays: Any) -> None:
    """Raise ``TypeError`` unless every array is real floating point (``jnp.result_type`` decides)."""
    for argument, array in arrays.items():
        if not jnp.issubdtype(jnp.result_type(array), jnp.floating):
            raise TypeError(
                f"{name}: {argument} has dtype {jnp.result_type(array)}, expected a floating dtype"
            )


def integer(name: str, **arrays: Any) -> None:
    """Raise ``TypeError`` unless every array holds integers (class ids, counts)."""
    for argument, array in arrays.items():
        if not jnp.issubdtype(jnp.result_type(array), jnp.integer):
            raise TypeError(
                f"{name}: {argument} has dtype {jnp.result_type(array)}, expected an integer dtype"
            )


def one_of(name: str, argument: str, value: Any, allowed: Sequence[Any]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{name}: {argument} is {value!r}, expected one of {', '.join(map(repr, allowed))}")


def between(
    name: str, argument: str, value: Any, low: float, high: float, *, open_low=False, open_high=False
) -> None:
    """Raise ``ValueError`` when a Python number lies outside ``low … high`` (arrays and schedules pass).

    ``open_low`` and ``open_high`` leave that end out. NaN always fails.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
        return
    above = value > low if open_low else value >= low
    below = value < high if open_high else value <= high
    if not (above and below):
        interval = f"{'(' if open_low else '['}{low}, {high}{')' if open_high else ']'}"
        raise ValueError(f"{name}: {argument} is {value!r}, expected a number in {interval}")


def same_tree(name: str, argument: str, tree: Any, other: str, reference: Any) -> None:
    """Raise ``ValueError`` unless ``tree`` and ``reference`` agree in structure and in every leaf's shape.

    A ``None`` in ``tree`` stands for "nothing here" and fits anything.
    """
    is_none = lambda x: x is None
    leaves, treedef = jax.tree.flatten(tree, is_leaf=is_none)
    try:
        references = treedef.flatten_up_to(reference)  # type: ignore[attr-defined]
    except ValueError as error:
        raise ValueError(f"{name}: the tree of {argument} differs from that of {other}: {error}") from None
    for i, (leaf, ref) in enumerate(zip(leaves, references, strict=True)):
        if leaf is None or (jax.tree_util.all_leaves([ref]) and np.shape(leaf) == np.shape(ref)):
            continue
        path = jax.tree_util.keystr(jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_none)[0][i][0])
        if not jax.tree_util.all_leaves([ref]):
            raise ValueError(
                f"{name}: {argument}{path} is an array, expected {jax.tree.structure(ref)} as in {other}"
            )
        raise ValueError(
            f"{name}: {argument}{path} has shape {np.shape(leaf)}, expected {np.shape(ref)}, "
            f"the shape of {other}{path}"
        )


def labels(labels: Any, num_classes: int, *, ignore_index: int | None = None) -> None:
    """Raise ``ValueError`` when a concrete label is neither in ``0 … num_classes - 1`` nor ``ignore_index``.

    The losses themselves answer such a label with NaN, since they cannot raise under ``jit``; call this on
    concrete data, outside ``jit``, to find the row.

    >>> labels(np.array([0, 2, -100]), 3, ignore_index=-100)
    >>> labels(np.array([0, 3]), 3)
    Traceback (most recent call last):
    ...
    ValueError: checks.labels: labels[1] is 3, expected 0 … 2
    """
    integer("checks.labels", labels=labels)
    values = np.asarray(labels)
    wrong = (values < 0) | (values >= num_classes)
    if ignore_index is not None:
        wrong &= values != ignore_index
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        where = ", ".join(map(str, index))
        also = "" if ignore_index is None else f" or {ignore_index}"
        raise ValueError(
            f"checks.labels: labels[{where}] is {values[index]}, expected 0 … {num_classes - 1}{also}"
        )


def require_params(name: str, params: Any) -> None:
    """Raise ``ValueError`` when ``update`` of the transformation ``name`` was called without parameters."""
    if params is None:
        raise ValueError(f"{name}.update: params is None, expected the tree of parameters")
