"""Whole matrices for each device of a mesh: exchanges that XLA would make as gathers.

[1] Liu et al., "Muon is Scalable for LLM Training", 2025, arXiv:2502.16982, section 2.3.
"""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxopt_lite.alike import alike, loose, settled, told
from jaxopt_lite.axes import chosen_by_compiler, is_whole, outer_first, spec


def on_mesh() -> bool:
    """Whether there are several devices to share work out to: under ``jax.set_mesh``, outside ``shard_map``."""
    return devices() > 1


def devices() -> int:
    """How many there are to share work out to."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty or mesh.manual_axes else mesh.size


def share_out(f: Callable, stack: jax.Array) -> jax.Array:
    """``f`` of a stack of matrices [batch, m, n], of which each device computes whole ones, its share [1].

    One exchange brings every device its matrices, whose rows or columns are spread over the mesh, and one takes the
    results back; in between there is no communication. A single matrix goes to all devices. Off a mesh it is
    ``f(stack)``.
    """
    if not on_mesh() or not stack.size:
        return f(stack)
    done = chosen_by_compiler(lambda x: _exchanged(f, x), stack, settled(stack))
    # The barrier is where the compiler can put it before it comes apart.
    return alike(stack, jax.lax.optimization_barrier(told(done)))


def _exchanged(f: Callable, stack: jax.Array) -> jax.Array:
    mesh = jax.sharding.get_abstract_mesh()
    dimension, axes = _shares(mesh, stack.shape)
    extra = -len(stack) % count(mesh, axes)
    spread = PartitionSpec(*(axes or None if i == dimension else None for i in range(3)))

    def local(part):
        if not axes:
            return f(part)
        whole = jax.lax.all_to_all(part, axes, 0, dimension, tiled=True)
        return jax.lax.all_to_all(f(whole), axes, dimension, 0, tiled=True)

    placed = jnp.pad(stack, ((0, extra), (0, 0), (0, 0)))
    done = jax.shard_map(local, mesh=mesh, in_specs=spread, out_specs=spread, check_vma=False)(placed)
    return done[: len(stack)]


def by_matrix(f: Callable, *stacks: jax.Array, returns: bool = True) -> Any:
    """``f`` of stacks of matrices [..., m, n], of which each device computes whole ones, its share.

    For decompositions: XLA would gather their operands on every device. The first axis of the batch that the devices
    divide is split among them; where it is so already nothing is exchanged. Without one the whole batch is, as one
    axis; a single matrix goes to all devices. Off a mesh it is ``f(*stacks)``. Behind the batch, which is the first
    stack's, the others and the results may have any axes. If it ``returns``, results of a batch that is divided lie
    where the arguments of their shape do.
    """
    if not on_mesh() or not stacks[0].size:
        return f(*stacks)
    mesh, batch = jax.sharding.get_abstract_mesh(), stacks[0].shape[:-2]
    if (axis := divided(batch, mesh.size)) is not None:
        return _where_it_lies(f, axis, returns)(*stacks)
    number = math.prod(batch)
    axes = min(_subsets(mesh), key=lambda axes: _load(mesh, axes, number))
    extra = -number % count(mesh, axes)
    flat = [x.reshape(number, *x.shape[len(batch) :]) for x in stacks]
    padded = [jnp.pad(x, [(0, extra)] + [(0, 0)] * (x.ndim - 1)) for x in flat] if extra else flat
    done = in_shares(f, 0, axes)(*padded)
    return jax.tree.map(lambda x: x[:number].reshape(*batch, *x.shape[1:]), done)


def in_shares(f: Callable, axis: int, names: tuple | None = None) -> Callable:
    """``f`` of trees of arrays, of which each device gets its share along ``axis``, where they are whole before.

    Mesh axes ``names``, by default all, share; without any every device does everything. Arrays get there and back
    over one after the other: XLA gathers what it would have to move over two at once. The inner ones come first, in
    the order of ``in_order_of``; in a mesh's the outer ones often hold copies.
    """
    mesh = jax.sharding.get_abstract_mesh()
    names = _axes(mesh)[::-1] if names is None else names
    stops = [names[:k] for k in range(len(names) > 1, len(names))]
    place = PartitionSpec(*[None] * axis, names) if names else PartitionSpec()
    free = PartitionSpec.UNCONSTRAINED
    local = jax.shard_map(f, mesh=mesh, in_specs=place, out_specs=place, check_vma=False)

    def stop(trees, names):
        place = lambda x: PartitionSpec(*[free] * axis, names, *[free] * (x.ndim - 1 - axis))
        return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, place(x)), trees)

    def split(*trees):
        for names in stops:
            trees = stop(trees, names)
        done = local(*trees)
        for names in reversed(stops):
            done = stop(done, names)
        return done

    return split


@contextlib.contextmanager
def in_order_of(x: Any) -> Iterator[None]:
    """Within, a batch is split over the mesh's axes in the order in which x's type says that they split a dimension.

    XLA gathers what it would have to move over the outer of two axes first; and over an axis that holds copies there
    is nothing to move, only to leave out, so that it comes before all others. No type tells the order of automatic
    ones: there it is the mesh's.
    """
    token = _order.set(outer_first(jax.typeof(x).sharding.mesh, spec(x)))
    try:
        yield
    finally:
        _order.reset(token)


def _axes(mesh: Any) -> tuple:
    """All of them, outer ones first."""
    return _order.get() or mesh.axis_names


_order: ContextVar[tuple] = ContextVar("order", default=())


def _where_it_lies(f: Callable, axis: int, returns: bool) -> Callable:
    """``f`` of arrays, of which each device gets its share along ``axis``, also where that is split already.

    In between the axis is several, one for each of the mesh, which take theirs one after the other, the inner ones
    first: what a mesh axis has of it already stays. If it ``returns``, a result of the shape of the argument
    in its place goes the way of that back, and nothing on the way there is moved by what comes after.
    """
    mesh, free = jax.sharding.get_abstract_mesh(), PartitionSpec.UNCONSTRAINED
    names = _axes(mesh)
    sizes = [mesh.shape[name] for name in names]
    apart = lambda x: x.reshape(*x.shape[:axis], *sizes, -1, *x.shape[axis + 1 :])
    share = lambda x: x.reshape(*x.shape[:axis], *[1] * len(sizes), *x.shape[axis:])
    joined = lambda x: x.reshape(*x.shape[:axis], -1, *x.shape[axis + len(sizes) + 1 :])
    place = PartitionSpec(*[None] * axis, *names)
    local = lambda *shares: jax.tree.map(share, f(*map(joined, shares)))
    local = jax.shard_map(local, mesh=mesh, in_specs=place, out_specs=place, check_vma=False)

    def stop(x, k):
        behind = [free] * (x.ndim - axis - len(names))
        return jax.lax.with_sharding_constraint(x, PartitionSpec(*[free] * (axis + k), *names[k:], *behind))

    def back(there, results):
        for x, y in itertools.zip_longest(there[: len(results)], results):
            # The barrier is where the compiler can put y before it goes on.
            yield y if x is None or x.shape != y.shape else alike(x, jax.lax.optimization_barrier(loose(y)))

    def split(*arrays):
        rest = settled if returns else lambda x: x
        way = [[rest(apart(x)) for x in arrays]]
        for k in reversed(range(1, len(names))):
            way.append([stop(rest(x), k) for x in way[-1]])
        results, treedef = jax.tree.flatten(local(*map(rest, way[-1])))
        for there in reversed(way if returns else []):
            results = list(back(there, results))
        return jax.tree.unflatten(treedef, map(joined, results))

    return split


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


def rule_by_matrix(rule: Callable, returns: bool = True) -> Callable:
    """A leaf rule for matrices [..., m, n], shared out as by ``by_matrix``. Slots begin with the batch; p is not read.

    Each device works on whole matrices and their state, which an exchange brings where rows or columns are split:
    XLA would gather the whole stack for the products. A lone matrix stays as it is split.
    """

    def shared(g, p, s, *slots):
        if math.prod(g.shape[:-2]) < 2:
            return rule(g, p, s, *slots)
        return by_matrix(lambda g, *slots: rule(g, None, s, *slots), g, *slots, returns=returns)

    shared.__qualname__ = rule.__qualname__
    return shared


def placed_like(x: jax.Array, y: jax.Array) -> jax.Array:
    """``y`` where ``x`` lies, whatever ``share_out`` makes of it later; where types tell it is there already."""
    return alike(x, told(y)) if on_mesh() and jax.sharding.get_abstract_mesh().auto_axes else y


def _shares(mesh: Any, shape: tuple) -> tuple[int, tuple]:
    """Which dimension of [batch, m, n] is exchanged for the batch, and the mesh axes over which the batch is split.

    The smallest shares, then the fewest parts; inner axes first, since the outer ones often hold copies.
    """
    fits = [(i, axes) for axes in _subsets(mesh) for i in (1, 2) if shape[i] % count(mesh, axes) == 0]
    return min(fits, key=lambda fit: _load(mesh, fit[1], shape[0]))


def _subsets(mesh: Any) -> list[tuple]:
    """All choices of mesh axes, the smallest and innermost first."""
    names = mesh.axis_names[::-1]
    return [axes for k in range(len(names) + 1) for axes in itertools.combinations(names, k)]


def _load(mesh: Any, axes: tuple, matrices: int) -> tuple[int, int]:
    """How many matrices the busiest device has when they are split over ``axes``, and into how many parts."""
    parts = count(mesh, axes)
    return -(-matrices // parts), parts


def count(mesh: Any, names: tuple) -> int:
    """Into how many parts mesh axes split a dimension."""
    return math.prod(mesh.shape[name] for name in names)
