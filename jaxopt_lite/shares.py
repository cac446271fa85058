"""Whole matrices for each device of a mesh: exchanges that XLA would make as gathers.

[1] Liu et al., "Muon is Scalable for LLM Training", 2025, arXiv:2502.16982, section 2.3.
"""

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxopt_lite.alike import alike, loose, settled, split, told
from jaxopt_lite.axes import chosen_by_compiler, is_whole, outer_first, spec


def on_mesh() -> bool:
    """Whether there are several devices to share work out to: under ``jax.set_mesh``, outside ``shard_map``."""
    return devices() > 1


def devices() -> int:
    """How many there are to share work out to."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty or mesh.manual_axes else mesh.size


def share_out(f: Callable, stack: jax.Array) -> jax.Array:
    """``f`` of a stack of matrices [batch, m, n], of which each device computes its share, by ``by_matrix`` [1].

    The result is of the stack's shape and lies where that does.
    """
    if not on_mesh() or not stack.size:
        return f(stack)
    done = chosen_by_compiler(functools.partial(by_matrix, f), stack, settled(stack))
    # The barrier is where the compiler can put it before it comes apart.
    return alike(stack, jax.lax.optimization_barrier(told(done)))


def by_matrix(f: Callable, *stacks: jax.Array) -> Any:
    """``f`` of stacks of matrices [..., m, n], of which each device computes whole ones, its share.

    For decompositions: XLA would gather their operands on every device. The first axis of the batch that the devices
    divide is split among them; where it is so already nothing is exchanged. Without one the whole batch is, as one
    axis; a single matrix goes to all devices. Off a mesh it is ``f(*stacks)``. Behind the batch, which is the first
    stack's, the others and the results may have any axes. Results of a batch that is divided lie where the arguments of
    their shape do.
    """
    if not on_mesh() or not stacks[0].size:
        return f(*stacks)
    mesh, batch = jax.sharding.get_abstract_mesh(), stacks[0].shape[:-2]
    if (axis := divided(batch, mesh.size)) is not None:
        return in_shares(f, axis)(*stacks)
    number = math.prod(batch)
    axes = _sharers(mesh, number)
    extra = -number % count(mesh, axes)
    flat = jax.tree.map(lambda x: x.reshape(number, *x.shape[len(batch) :]), stacks)
    if extra:
        flat = jax.tree.map(lambda x: jnp.pad(x, [(0, extra)] + [(0, 0)] * (x.ndim - 1)), flat)
    done = in_shares(f, 0, axes)(*flat)
    return jax.tree.map(lambda x: x[:number].reshape(*batch, *x.shape[1:]), done)


def in_shares(f: Callable, axis: int, names: tuple | None = None) -> Callable:
    """``f`` of trees of arrays, of which each device gets its share along ``axis``, however they are split.

    Mesh axes ``names``, by default all, share; without any every device does everything. A result of the shape of
    the argument in its place goes back to where that lies, which nothing on the way changes.
    """
    mesh, names = jax.sharding.get_abstract_mesh(), _sharing(names)
    place = PartitionSpec(*[None] * axis, names) if names else PartitionSpec()
    local = jax.shard_map(f, mesh=mesh, in_specs=place, out_specs=place, check_vma=False)

    def shared(*trees):
        arrays, treedef = jax.tree.flatten(trees)
        moves = [moved(x, axis, names) for x in arrays]
        results, outer = jax.tree.flatten(local(*jax.tree.unflatten(treedef, [there for there, _ in moves])))
        pairs = zip(arrays, moves, results, strict=False)
        returned = [back(y) if x.shape == y.shape else y for x, (_, back), y in pairs]
        results = returned + results[len(returned) :]
        return jax.tree.unflatten(outer, results)

    return shared if names else local


def moved(x: jax.Array, axis: int, names: tuple | None = None, parts: int = 0) -> tuple[jax.Array, Callable]:
    """x in shares along ``axis`` as of ``in_shares``, and what takes such an array back to where x lies.

    If ``parts`` are given only those mesh axes that make so many, the first ones, have to share, and free ones may.

    One mesh axis after the other gets its place; what is whole on one is cut first, which costs nothing.

    XLA gathers what is split by an axis that has no place: by b, where a is taken from an axis split by a and b.
    So all that lose theirs to those whose turn it is get one behind them at once.
    """
    axis, names = axis % x.ndim, _sharing(names)
    last = _counts(names).index(parts) if parts else len(names)
    way = [x]
    for first in range(last + 1):
        way.append(split(settled(way[-1]), axis, names, first))

    def back(y):
        y = split(y, axis, names, last)
        for stop in reversed(way[:-1]):
            # The barrier is where the compiler can put y before it goes on.
            y = alike(stop, jax.lax.optimization_barrier(loose(y)))
        return y

    return settled(way[-1]), back


def grid(rows: int, columns: int) -> tuple[int, tuple] | None:
    """Into how many parts outer mesh axes split rows of blocks, and which inner ones split columns of them.

    If there is a way that gives each device an equal run of blocks as they are counted, row by row.
    """
    names = _sharing()
    for k, outer in enumerate(_counts(names)):
        inner = devices() // outer
        if rows % outer == 0 and columns % inner == 0 and (inner == 1 or outer == rows):
            return outer, names[k:]
    return None


def _counts(names: tuple) -> list[int]:
    """Into how many parts none, one, two ... of these mesh axes split a dimension."""
    mesh = jax.sharding.get_abstract_mesh()
    return [count(mesh, names[:k]) for k in range(len(names) + 1)]


def _sharing(names: tuple | None = None) -> tuple:
    """Those of mesh axes ``names``, by default all, that have parts, in the order in which they split a batch."""
    mesh = jax.sharding.get_abstract_mesh()
    some = mesh.axis_names if names is None else names
    return tuple(name for name in _order.get() or mesh.axis_names if name in some and mesh.shape[name] > 1)


@contextlib.contextmanager
def in_order_of(arrays: Any) -> Iterator[None]:
    """Within, a batch is split over the mesh's axes in an order in which types say that they split a dimension.

    It is that of the largest array, or the largest batch that is split already.

    Then what splits one dimension moves at once, and a batch that is split already does not move. No type tells the
    order of automatic ones: there it is the mesh's, and another takes a step for each.
    """
    x = max(jax.tree.leaves(arrays), key=lambda x: (any(spec(x)[:-2]), x.size))
    token = _order.set(outer_first(jax.typeof(x).sharding.mesh, spec(x)))
    try:
        yield
    finally:
        _order.reset(token)


_order: ContextVar[tuple] = ContextVar("order", default=())


def known(g: jax.Array, arrays: Any, stacked: bool) -> tuple | None:
    """What ``in_shares`` is to be told for matrices g and all arrays beside them, where that is known beforehand.

    It is of a stack that was just made, and of what types tell that every device holds whole.
    """
    if not on_mesh():
        return None
    if all(map(is_whole, jax.tree.leaves(arrays))):
        return 0, ()  # every device does everything
    axis = divided(g.shape[:-2], devices())
    return (axis,) if stacked and axis is not None else None


def has_batch(x: Any) -> bool:
    """Whether x is a batch of matrices that the devices of the mesh divide."""
    return divided(x.shape[:-2], devices()) is not None


def divided(shape: tuple, parts: int) -> int | None:
    """The first axis that comes in so many equal parts."""
    return next((i for i, n in enumerate(shape) if n and n % parts == 0), None)


def fits(length: int, size: int) -> bool:
    """Whether blocks of an axis of that length, or equal parts of them, end wherever mesh axes may cut it."""
    if length <= size or not on_mesh():
        return True
    mesh = jax.sharding.get_abstract_mesh()
    some = [names for k in range(len(mesh.shape)) for names in itertools.combinations(mesh.shape, k + 1)]
    cuts = {count(mesh, names) for names in some} - {1}
    parts = [length // cut for cut in cuts if length % cut == 0]
    return all(part % size == 0 or (size % part == 0 and length % size == 0) for part in parts)


def rule_by_matrix(rule: Callable) -> Callable:
    """A leaf rule for matrices [..., m, n], shared out as by ``by_matrix``. Slots begin with the batch; p is not read.

    Each device works on whole matrices and their state, which an exchange brings where rows or columns are split:
    XLA would gather the whole stack for the products. A lone matrix stays as it is split.
    """

    def shared(g, p, s, *slots):
        if math.prod(g.shape[:-2]) < 2:
            return rule(g, p, s, *slots)
        return by_matrix(lambda g, *slots: rule(g, None, s, *slots), g, *slots)

    shared.__qualname__ = rule.__qualname__
    return shared


def placed_like(x: jax.Array, y: jax.Array) -> jax.Array:
    """``y`` where ``x`` lies, whatever ``share_out`` makes of it later; where types tell it is there already."""
    return alike(x, told(y)) if on_mesh() and jax.sharding.get_abstract_mesh().auto_axes else y


def _sharers(mesh: Any, matrices: int) -> tuple:
    """The mesh axes to share so many matrices out over: the smallest shares, then the fewest parts.

    Inner axes before outer ones, which often hold copies.
    """
    names = mesh.axis_names[::-1]
    some = [axes for k in range(len(names) + 1) for axes in itertools.combinations(names, k)]
    parts = lambda axes: count(mesh, axes)
    return min(some, key=lambda axes: (-(-matrices // parts(axes)), parts(axes)))


def count(mesh: Any, names: tuple) -> int:
    """Into how many parts mesh axes split a dimension."""
    return math.prod(mesh.shape[name] for name in names)
