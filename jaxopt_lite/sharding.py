"""Shardings for optimizer state: moments lie where their parameter lies, or spread over the data axis (ZeRO-1).

[1] Rajbhandari, Rasley, Ruwase, He, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models",
    SC 2020, arXiv:1910.02054, section 5.1.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxopt_lite import tree
from jaxopt_lite.axes import names_of, outer_first
from jaxopt_lite.shares import count
from jaxopt_lite.types import GradientTransformation, Params

__all__ = ["state_shardings", "zero_shardings"]

TILE = (
    128,
    8,
)  # the last two axes of the tiles in which accelerators, and the codecs of precision, lay out arrays


def state_shardings(tx: GradientTransformation, params: Params, param_shardings: Any) -> Any:
    """A tree like ``tx.init(params)`` with a ``NamedSharding`` at every array.

    ```
    like its parameter (a moment)             the parameter's own spec
    its rows, columns, blocks, a stack of it  that spec on the axes that it shares with the parameter
    a stack of squares (Shampoo's blocks)     the spec's mesh axes on the first axis that they divide, or each does
    a scalar, or of no one parameter          replicated
    ```

    Pass the result to ``jax.jit(tx.init, out_shardings=…)``: no device then ever holds a whole array. A jitted
    ``update`` of sharded gradients keeps the shardings by itself.

    How it is found: ``tx.init`` is traced, never run, with every parameter in a container of its own, and what
    stands inside such a container belongs to that parameter; which of its axes an array has is told by their
    sizes, in a second trace where equal ones are made different. Where ``init`` cannot take the containers
    (it looks into its parameters by name), paths are compared instead. An array that several parameters share
    (a flattened or stacked tree) is replicated; mesh axes that do not divide an array's axis are left out.

    Args:
      tx: any optax-protocol transformation.
      params: arrays or ``jax.ShapeDtypeStruct``.
      param_shardings: a ``NamedSharding`` for each parameter, as a tree like ``params`` or a prefix of it (one
        for all).

    Raises:
      ValueError: a sharding that is no ``NamedSharding``, or shardings of different meshes, or none.

    >>> import jaxopt_lite as jol
    >>> mesh = jax.make_mesh((1,), ("data",))
    >>> params = {"w": jax.ShapeDtypeStruct((4, 2), jnp.float32)}
    >>> found = state_shardings(jol.adam(1e-3), params, NamedSharding(mesh, PartitionSpec(None, "data")))
    >>> tuple(found[0].mu["w"].spec), tuple(found[0].count.spec)
    ((None, 'data'), ())
    """
    leaves = jax.tree.leaves(params, is_leaf=tree.is_none)
    spread = zip(tree.broadcast_prefix(param_shardings, params), leaves, strict=True)
    shardings = [sharding for sharding, leaf in spread if leaf is not None]
    mesh, params = _mesh_of(shardings or jax.tree.leaves(param_shardings)), _shapes(params)
    return _map_state(tx, params, shardings, lambda array: NamedSharding(mesh, PartitionSpec()))


def zero_shardings(tx: GradientTransformation, params: Params, mesh: Mesh, axis: Any) -> Any:
    """Shardings like ``state_shardings``' that also spread the state over ``axis``, though parameters are not [1].

    Every array that belongs to a parameter is split along one of the parameter's axes that ``axis`` divides (in
    whole tiles of 8 × 128 where it can be, then the longest), on top of the sharding that the parameter has on
    ``mesh``. A jitted step then computes each update in parts; give the parameters as ``out_shardings`` what they
    had, and the compiler gathers the new ones once:

    ```
    step = jax.jit(step, donate_argnums=(0, 1), out_shardings=(param_shardings, zero_shardings(…), None))
    ```

    Args:
      tx: any optax-protocol transformation.
      params: arrays, or ``jax.ShapeDtypeStruct`` (with or without a sharding).
      mesh: the mesh.
      axis: the name of the mesh axis over which the batch is split, or a tuple of names.

    Raises:
      ValueError: an axis that ``mesh`` has not.
    """
    axes = axis if isinstance(axis, tuple) else (axis,)
    for name in axes:
        if name not in mesh.axis_names:
            raise ValueError(f"zero_shardings: axis is {axis!r}, expected one of {mesh.axis_names}")
    leaves, shapes = jax.tree.leaves(params), _shapes(params)
    shardings = [_spread(leaf.shape, _spec_on(mesh, leaf), mesh, axes) for leaf in map(_like_array, leaves)]
    return _map_state(tx, shapes, shardings, lambda array: _spread(array.shape, (), mesh, axes))


def _like_array(leaf: Any) -> Any:
    return leaf if hasattr(leaf, "shape") else jnp.asarray(leaf)


def _shapes(params: Any) -> Any:
    """The parameters without their values and shardings."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), params)


def _mesh_of(shardings: list) -> Any:
    """The one mesh of the shardings."""
    for sharding in shardings:
        if not isinstance(sharding, NamedSharding):
            raise ValueError(
                f"state_shardings: param_shardings has {sharding!r}, expected a NamedSharding for each parameter"
            )
    meshes = {sharding.mesh for sharding in shardings}
    if len(meshes) != 1:
        raise ValueError(
            f"state_shardings: param_shardings have {len(meshes)} meshes, expected one: {meshes}"
        )
    return meshes.pop()


def _spec_on(mesh: Mesh, leaf: Any) -> tuple:
    """The leaf's spec on ``mesh``; empty where it has none there."""
    sharding = getattr(leaf, "sharding", None)
    return tuple(sharding.spec) if isinstance(sharding, NamedSharding) and sharding.mesh == mesh else ()


def _named(mesh: Any, entries: list[tuple], memory_kind: Any = None) -> NamedSharding:
    """From one tuple of mesh axes per dimension, in the short form in which ``jit`` returns it."""
    spec = [names if len(names) > 1 else names[0] if names else None for names in entries]
    while spec and spec[-1] is None:
        spec.pop()
    return NamedSharding(mesh, PartitionSpec(*spec), memory_kind=memory_kind)


def _spread(shape: tuple, spec: tuple, mesh: Mesh, axes: tuple) -> NamedSharding:
    """``spec`` with the mesh ``axes`` on a dimension that they divide: a free one, in whole tiles, the longest."""
    entries = [names_of(entry) for entry in (*spec, *(None,) * (len(shape) - len(spec)))]
    added = tuple(name for name in axes if all(name not in names for names in entries))
    parts = [count(mesh, (*names, *added)) for names in entries]
    fits = [i for i, (n, k) in enumerate(zip(shape, parts, strict=True)) if n and n % k == 0]
    if added and fits:
        tile = dict(zip(reversed(range(len(shape))), TILE, strict=False))
        in_tiles = lambda i: shape[i] // parts[i] % tile.get(i, 1) == 0
        best = max(fits, key=lambda i: (not entries[i], in_tiles(i), shape[i]))
        entries[best] = (*entries[best], *added)
    return _named(mesh, entries)


def _map_state(tx: Any, params: Any, shardings: list, otherwise: Callable) -> Any:
    """The sharding of every array of the state; ``otherwise`` gives it for what belongs to no one parameter."""
    leaves, state = jax.tree.leaves(params), jax.eval_shape(tx.init, params)
    arrays, treedef = jax.tree.flatten(state)
    owners = _owners(tx.init, params, arrays) or _owners_by_path(params, state)
    told = [_told_apart(leaf.shape) for leaf in leaves]
    shapes = _shapes_when(tx.init, params, told, arrays)

    def place(array: Any, owner: int | None, shape: tuple | None) -> NamedSharding:
        if owner is None or not array.shape:
            return otherwise(array)
        pair = (array.shape, leaves[owner].shape) if shape is None else (shape, told[owner])
        more = len(array.shape) > len(leaves[owner].shape)
        return _placed(array.shape, _dimensions(*pair), shardings[owner], more)

    return jax.tree.unflatten(treedef, [place(*row) for row in zip(arrays, owners, shapes, strict=True)])


@jax.tree_util.register_pytree_with_keys_class
class _Owned:
    """A container around a parameter: ``init`` rebuilds it around the state that belongs to the parameter."""

    def __init__(self, owner: int, inside: Any):
        self.owner, self.inside = owner, inside

    def tree_flatten_with_keys(self):
        return ((jax.tree_util.GetAttrKey("inside"), self.inside),), self.owner

    @classmethod
    def tree_unflatten(cls, owner, children):
        return cls(owner, *children)


def _owners(init: Callable, params: Any, arrays: list) -> list[int | None] | None:
    """For every array of the state the number of its parameter; ``None`` if ``init`` minds the containers."""
    leaves, treedef = jax.tree.flatten(params)
    try:
        state = jax.eval_shape(init, jax.tree.unflatten(treedef, map(_Owned, range(len(leaves)), leaves)))
    except Exception:  # whatever a stranger's function of the parameters raises
        return None
    same = [x.shape for x in jax.tree.leaves(state)] == [x.shape for x in arrays]
    owners: list[int | None] = []
    for part in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, _Owned)):
        owners += [getattr(part, "owner", None)] * len(jax.tree.leaves(part))
    return owners if same else None


def _owners_by_path(params: Any, state: Any) -> list[int | None]:
    """The parameter whose path occurs in the array's path: the longest, then the last such."""
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]

    def owner(path: tuple) -> int | None:
        found = []
        for i, part in enumerate(paths):
            ends = [k for k in range(len(part), len(path) + 1) if path[k - len(part) : k] == part]
            found += [(len(part), max(ends), i)] if ends else []
        return max(found)[2] if found else None

    return [owner(path) for path, _ in jax.tree_util.tree_flatten_with_path(state)[0]]


def _told_apart(shape: tuple) -> tuple:
    """The shape with equal axes made longer by a little, in order, so that they can be told apart."""
    sizes, last = list(shape), 1
    for i in sorted(range(len(shape)), key=lambda i: shape[i]):
        if shape[i] > 1:
            sizes[i] = last = max(shape[i], last + 1)
    return tuple(sizes)


def _shapes_when(init: Callable, params: Any, told: list[tuple], arrays: list) -> list[tuple | None]:
    """The shapes of the state of parameters of shapes ``told``; ``None`` where they say nothing."""
    leaves, treedef = jax.tree.flatten(params)
    if told == [leaf.shape for leaf in leaves]:
        return [array.shape for array in arrays]
    try:
        apart = [jax.ShapeDtypeStruct(shape, x.dtype) for shape, x in zip(told, leaves, strict=True)]
        shapes = [x.shape for x in jax.tree.leaves(jax.eval_shape(init, jax.tree.unflatten(treedef, apart)))]
    except Exception:  # a stranger's init that takes these shapes only
        shapes = []
    if len(shapes) != len(arrays):
        return [None] * len(arrays)
    return [s if len(s) == array.ndim else None for s, array in zip(shapes, arrays, strict=True)]


def _dimensions(shape: tuple, of: tuple) -> list[int | None]:
    """For every axis of ``shape`` the axis of the parameter ``of`` that it is, or that it is cut from in blocks.

    A square over one axis [n, n] stands on its other side for the parameter's other axis, so as to be split by it;
    the squares of blocks [..., n, n] are no axis of it.

    >>> _dimensions((10, 4, 6), (4, 6)), _dimensions((6,), (4, 6)), _dimensions((2, 6), (4, 6))
    ([None, 0, 1], [1], [0, 1])
    >>> _dimensions((4, 4), (4, 6)), _dimensions((6, 6), (4, 6)), _dimensions((3, 4, 4), (4, 6))
    ([1, 0], [0, 1], [None, None, None])
    """
    found: list[int | None] = [None] * len(shape)
    free = list(range(len(of)))
    blocks = len(shape) > max(len(of), 2) and shape[-1] == shape[-2]
    for i in reversed(range(len(shape) - 2 * blocks)):  # from the last, since stacks are made along the first
        same = [j for j in free if of[j] == shape[i] > 1]
        aligned = i + len(of) - len(shape)
        if same:
            axis = aligned if aligned in same else same[-1]
            found[i] = axis
            free.remove(axis)
    if len(shape) == len(of):
        matched = {n for n, axis in zip(shape, found, strict=True) if axis is not None}
        for axis in free:
            fits = [
                i for i, n in enumerate(shape) if found[i] is None and (i == axis or n in matched) and n > 1
            ]
            if fits:
                found[axis if axis in fits else fits[0]] = axis
    return found


def _placed(shape: tuple, dimensions: list[int | None], like: NamedSharding, more: bool) -> NamedSharding:
    """The spec of ``like`` on the axes that are its parameter's, or as much of it as divides them.

    Where there are ``more`` axes than the parameter has, as in blocks, the rest goes to the first that it divides, else
    name by name.
    """
    spec, entries = dict(enumerate(map(names_of, like.spec))), []
    for n, axis in zip(shape, dimensions, strict=True):
        names = () if axis is None else spec.get(axis, ())
        while n % count(like.mesh, names):
            names = names[:-1]
        entries.append(names)
    used = [name for names in spec.values() for name in names]
    order = outer_first(like.mesh, like.spec)  # in which ``shares`` goes through the axes
    rest = tuple(n for n in order if n in used and not any(n in names for names in entries))
    for names in [rest, *zip(rest)] if more else []:
        free = [i for i, n in enumerate(shape) if n and not entries[i] and n % count(like.mesh, names) == 0]
        if free and not any(set(names) & set(taken) for taken in entries):
            entries[free[0]] = names
    return _named(like.mesh, entries, like.memory_kind)
