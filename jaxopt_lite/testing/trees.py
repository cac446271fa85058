"""The small trees that laws feed to a transformation; fixed seeds, so a failure comes back the same."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Pair(NamedTuple):
    """A named tuple of trees."""

    first: Any
    rest: Any


@jax.tree_util.register_dataclass
@dataclass
class Box:
    """A dataclass with one tree in it."""

    inside: Any


def from_shapes(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, jax.Array]:
    """Float32 parameters of moderate size."""
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(0.0, 0.5, shape), jnp.float32) for name, shape in shapes.items()}


def default_params() -> dict[str, jax.Array]:
    """One matrix and one vector."""
    return from_shapes({"bias": (3,), "kernel": (4, 3)})


def gradients_like(params: Any, seed: int) -> Any:
    """Random gradients in the leaves' dtypes, of magnitude 0.25 … 2, so that no sign is a matter of rounding."""
    rng = np.random.default_rng(1000 + seed)

    def leaf(p: Any) -> jax.Array:
        size, shape = rng.uniform(0.25, 2.0, np.shape(p)), np.shape(p)
        if jnp.issubdtype(p.dtype, jnp.complexfloating):
            return jnp.asarray(size * np.exp(1j * rng.uniform(0.0, 2 * np.pi, shape)), p.dtype)
        return jnp.asarray(size * rng.choice([-1.0, 1.0], shape), p.dtype)

    return jax.tree.map(leaf, params)


def mapped(function: Any, *trees: Any) -> Any:
    """A NumPy function on every leaf, whose result keeps the first leaf's dtype; nothing is compiled."""

    def leaf(x: Any, *others: Any) -> jax.Array:
        with np.errstate(all="ignore"):
            return jnp.asarray(np.asarray(function(*map(np.asarray, (x, *others)))), x.dtype)

    return jax.tree.map(leaf, *trees)


def cast(tree: Any, dtype: Any) -> Any:
    """Floating leaves in another dtype."""
    with np.errstate(all="ignore"):
        return jax.tree.map(lambda x: jnp.asarray(np.asarray(x).astype(dtype)), tree)


def scaled(tree: Any, factor: complex) -> Any:
    """Every leaf times a number, in the leaf's dtype (through float64, so that 1e30 times 1e-30 is exact)."""
    return mapped(lambda x: (x.astype(_wide(x)) * factor).astype(x.dtype), tree)


def _wide(x: Any) -> Any:
    return np.complex128 if jnp.issubdtype(x.dtype, jnp.complexfloating) else np.float64


def added(params: Any, updates: Any) -> Any:
    """``optax.apply_updates`` in NumPy."""
    return mapped(lambda p, u: (p + u).astype(p.dtype), params, updates)


def zeros(tree: Any) -> Any:
    """The same tree, all zeros."""
    return mapped(np.zeros_like, tree)


def put(tree: Any, value: float) -> Any:
    """The tree with ``value`` in the first entry of its first leaf."""
    leaves, treedef = jax.tree.flatten(tree)
    first = np.array(leaves[0])
    first[(0,) * first.ndim] = value
    return jax.tree.unflatten(treedef, [jnp.asarray(first), *leaves[1:]])


def permuted(tree: Any, seed: int = 7) -> Any:
    """Every leaf's entries in another order, the same for every call on the same shapes."""
    order = lambda size: np.random.default_rng(seed).permutation(size)
    return mapped(lambda x: x.reshape(-1)[order(x.size)].reshape(x.shape), tree)


def in_containers(tree: Any) -> Any:
    """The same leaves in the same order inside a named tuple, a list and dataclasses."""
    first, *rest = jax.tree.leaves(tree)
    return Pair(first, [Box(leaf) for leaf in rest])


def stacked(trees: list[Any]) -> Any:
    """Trees stacked along a new first axis."""
    return mapped(lambda *xs: np.stack(xs), *trees)


def unstacked(tree: Any, count: int) -> list[Any]:
    """The inverse of `stacked`."""
    return [mapped(lambda x, i=i: x[i], tree) for i in range(count)]
