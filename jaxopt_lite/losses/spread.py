"""Run a kernel shard by shard when ``jit`` finds its arguments sharded over a mesh.

Left to itself, the compiler gathers the whole output head in every step of the loop over its blocks. Here each
device walks its own tokens and its own part of the vocabulary; gradients are summed over the mesh once, after
the loop. On one device, and inside shard_map, the kernel runs as it is.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec


@partial(jax.jit, static_argnums=(0, 1, 2))
def spread(kernel: Callable, head: Any, outputs: Any, *arrays: Any) -> Any:
    """``kernel(head, x, w, b, …)`` with the axes of each result named in ``outputs``.

    Axes are letters: n tokens, h features, v vocabulary; one name may stand for a whole tree. The first three
    arrays are ``nh``, ``hv`` or ``vh``, ``v``; all others are ``n``. A kernel must finish rows (``n``) itself,
    by collectives over ``head.axis_name``; results with h or v come back as this shard's part of a sum.
    """
    whole = partial(kernel, head)
    if jax.sharding.get_abstract_mesh().manual_axes:
        return whole(*arrays)
    outputs = jax.tree.broadcast(outputs, jax.eval_shape(whole, *arrays))
    inputs = ("nh", "vh" if head.transpose else "hv", None if arrays[2] is None else "v")
    inputs += tuple(jax.tree.map(lambda _: "n", a) for a in arrays[3:])

    split = custom_partitioning(lambda *a: whole(*a))
    names = ", ".join(" ".join(axes) for axes in jax.tree.leaves(inputs))
    names += " -> " + ", ".join(" ".join(axes) for axes in jax.tree.leaves(outputs))
    split.def_partition(
        partial(_partition, kernel, head, inputs, outputs),
        sharding_rule=names,
        need_replication_factors=("h",),
    )

    batched = jax.custom_batching.custom_vmap(split)
    batched.def_vmap(lambda _, mapped, *a: _over_batch(whole, mapped, a))
    smooth = jax.custom_jvp(batched)
    smooth.defjvp(partial(jax.jvp, whole))  # of the plain kernel: the partitioned one has no derivative rule
    return smooth(*arrays)


def _over_batch(whole: Callable, mapped: Any, arrays: tuple) -> tuple:
    result = jax.vmap(whole, jax.tree.map(lambda m: 0 if m else None, mapped))(*arrays)
    return result, jax.tree.map(lambda _: True, result)


def _partition(
    kernel: Callable, head: Any, inputs: Any, outputs: Any, mesh: Any, arrays: Any, _: Any
) -> tuple:
    """How to split the kernel: tokens as ``x`` is split, vocabulary as ``w`` is, features not at all."""
    x, w = arrays[:2]
    tokens = _axes(x, 0)
    vocabulary = tuple(a for a in _axes(w, head.vocabulary_axis) if a not in tokens)
    over = {"n": tokens, "v": vocabulary, "h": ()}
    local = replace(head, axis_name=vocabulary or None)

    def shard(*parts: Any) -> Any:
        return jax.tree.map(lambda axes, a: _sum(a, axes, over), outputs, kernel(local, *parts))

    place = lambda axes: NamedSharding(mesh, PartitionSpec(*(over[axis] or None for axis in axes)))
    return mesh, shard, jax.tree.map(place, outputs), jax.tree.map(place, inputs)


def _axes(array: Any, dimension: int) -> tuple:
    """The mesh axes that split a dimension; none where they do not divide it, since nothing may be padded."""
    entry = (*array.sharding.spec, *(None,) * array.ndim)[dimension]
    axes = () if entry is None else entry if isinstance(entry, tuple) else (entry,)
    parts = 1
    for axis in axes:
        parts *= array.sharding.mesh.shape[axis]
    return axes if array.shape[dimension] % parts == 0 else ()


def _sum(a: jax.Array, axes: str, over: dict[str, tuple]) -> jax.Array:
    """A shard's part of a gradient summed over the mesh axes of tokens or vocabulary that it does not have."""
    summed = () if axes == "n" else tuple(m for axis in "nv" if axis not in axes for m in over[axis])
    return lax.psum(a, summed) if summed else a
