"""Meshes whose axes are explicit, as those of ``jax.make_mesh`` are by default.

There the sharding of every intermediate result is part of its type, and an operation that leaves it open is an error.
Where only the ends matter, the compiler may choose in between, as it does on every other mesh.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec


def chosen_by_compiler(f: Callable, like: Any, *args: Any) -> Any:
    """``f(*args)`` with results that lie where those of ``like`` do and freedom in between.

    ``like`` is a tree of arrays or ``PartitionSpec``s, shaped as the result. Off a mesh of explicit axes it is
    ``f(*args)``.
    """
    mesh = next((m for m in map(_mesh, jax.tree.leaves((args, like))) if m is not None), None)
    if mesh is None:
        return f(*args)
    places = jax.tree.map(lambda x: NamedSharding(mesh, spec(x)), like)
    free = jax.sharding.auto_axes(f, axes=mesh.explicit_axes, out_sharding=places)
    # Compiled whole: operations run one by one would meet arrays typed for the outer mesh.
    return jax.jit(free, inline=True)(*args)


def placed_like(x: Any, y: Any) -> Any:
    """``y`` where ``x`` lies, on a mesh of explicit axes; ``None`` for ``None``."""
    return y if y is None or _mesh(x) is None else jax.sharding.reshard(y, jax.typeof(x).sharding)


def spec(x: Any) -> PartitionSpec:
    """Over which mesh axes x is split; itself if it says so."""
    return x if isinstance(x, PartitionSpec) else jax.typeof(x).sharding.spec


def is_typed(x: Any) -> bool:
    """Whether x is an array whose type names a mesh of explicit axes."""
    return isinstance(x, jax.Array) and _mesh(x) is not None


def is_whole(x: Any) -> bool:
    """Whether x's type says that every device of a mesh holds all of it: all its axes are explicit, none splits x."""
    if not is_typed(x):
        return False
    mesh = jax.typeof(x).sharding.mesh
    return set(mesh.axis_names) == set(mesh.explicit_axes) and not any(spec(x))


def _mesh(x: Any) -> Any:
    if isinstance(x, PartitionSpec):
        return None
    mesh = jax.typeof(x).sharding.mesh
    return mesh if mesh.explicit_axes else None


def leading(x: Any, count: int) -> PartitionSpec:
    """The spec of x's first ``count`` axes."""
    return PartitionSpec(*tuple(spec(x))[:count])


def divisible(x: Any, shape: tuple[int, ...]) -> PartitionSpec:
    """The spec of x for an array of another shape whose axes stand for x's: without what divides them no longer."""
    sharding = jax.typeof(x).sharding
    if len(shape) != x.ndim or sharding.mesh.empty:
        return PartitionSpec()
    parts = lambda entry: math.prod(sharding.mesh.shape[name] for name in names_of(entry))
    entries = zip(sharding.spec, shape, strict=False)
    return PartitionSpec(*(entry if size % parts(entry) == 0 else None for entry, size in entries))


def outer_first(mesh: Any, spec: PartitionSpec) -> tuple:
    """All axes of a mesh in an order for the batch of matrices [..., m, n], which lie as ``spec`` says.

    First explicit ones: what splits the batch already, so that it stays; what holds copies, of which each keeps its
    part; what splits the matrices. Then automatic ones as in the mesh: behind them ``jit`` would lose explicit ones.
    """
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    explicit = [name for name, kind in kinds.items() if kind == jax.sharding.AxisType.Explicit]
    batch, matrix = ([n for entry in part for n in names_of(entry)] for part in (spec[:-2], spec[-2:]))
    copies = [name for name in explicit if name not in (*batch, *matrix)]
    first = [name for name in (*batch, *copies, *matrix) if name in explicit]
    return (*first, *(name for name in mesh.axis_names if name not in first))


def names_of(entry: Any) -> tuple:
    """One entry of a spec as a tuple of mesh axes."""
    return entry if isinstance(entry, tuple) else () if entry is None else (entry,)
