"""Run a kernel shard by shard when its arguments are sharded over a mesh.

Left to itself, the compiler gathers the whole output head in every step of a loop over blocks of vocabulary.
Here each device walks its own tokens and its own part of the vocabulary; gradients are summed over the mesh once,
after the loop. On one device, and inside shard_map, the kernel runs as it is. TPUs take no such rules from
outside, unless the mesh has explicit axes; ``chunks`` says what happens there.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxopt_lite.axes import names_of
from jaxopt_lite.losses.chunks import over_devices


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def spread(kernel: Callable, head: Any, inputs: Any, outputs: Any, *arrays: Any) -> Any:
    """``kernel(head, x, w, …)`` with the axes of each argument and each result named in a word.

    Its letters: n tokens, v vocabulary, h and g features; one word may stand for a whole tree. A kernel must
    finish rows (``n``) itself, by collectives over ``head.axis_name``; results with features or vocabulary come
    back as this shard's part of a sum.
    """
    whole = partial(kernel, head)
    if jax.sharding.get_abstract_mesh().manual_axes:
        return whole(*arrays)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), arrays)
    results = jax.eval_shape(whole, *shapes)
    plan = Plan(kernel, head, jax.tree.broadcast(inputs, arrays), jax.tree.broadcast(outputs, results))
    typed = jax.typeof(arrays[0]).sharding.mesh
    if typed.explicit_axes:
        return plan.typed(typed, *arrays)

    batched = jax.custom_batching.custom_vmap(plan.split_by_compiler)
    batched.def_vmap(lambda _, mapped, *a: _over_batch(whole, mapped, a))
    smooth = jax.custom_jvp(batched)
    smooth.defjvp(partial(jax.jvp, whole))  # of the plain kernel: the partitioned one has no derivative rule
    return smooth(*arrays)


def _over_batch(whole: Callable, mapped: Any, arrays: tuple) -> tuple:
    result = jax.vmap(whole, jax.tree.map(lambda m: 0 if m else None, mapped))(*arrays)
    return result, jax.tree.map(lambda _: True, result)


@dataclass(frozen=True)
class Plan:
    """A kernel and the axes of its arguments and results: what is needed to split it over any mesh."""

    kernel: Callable
    head: Any
    inputs: Any
    outputs: Any

    def whole(self, *arrays: Any) -> Any:
        """The kernel as it is."""
        return self.kernel(self.head, *arrays)

    def split_by_compiler(self, *arrays: Any) -> Any:
        """The kernel, split when the program is compiled, which is when the shardings are known."""
        split, rule = custom_partitioning(lambda *a: self.whole(*a)), self.rule()
        whole_factors = tuple(sorted({"g", "h"} & set(rule), key=rule.index))
        split.def_partition(self.partition, sharding_rule=rule, need_replication_factors=whole_factors)
        chunked = partial(over_devices, self.kernel, self.head, self.inputs, self.outputs)
        return lax.platform_dependent(*arrays, tpu=chunked, default=split)

    def rule(self) -> str:
        """How shardings of arguments and results hang together, in the notation of custom_partitioning."""
        spelled = (", ".join(" ".join(a) for a in jax.tree.leaves(t)) for t in (self.inputs, self.outputs))
        return " -> ".join(spelled)

    def split(self, mesh: Any, arrays: Any) -> tuple[Callable, Any, Any]:
        """The kernel of one shard, and the specs of arguments and results.

        Tokens are split as ``x`` is, the vocabulary as ``w`` is, features not at all.
        """
        tokens = _axes(mesh, arrays[0], 0)
        over = {
            "n": tokens,
            "h": (),
            "g": (),
            "v": _axes(mesh, arrays[1], self.head.vocabulary_axis, taken=tokens),
        }
        local = replace(self.head, axis_name=over["v"] or None)

        def shard(*parts: Any) -> Any:
            results = self.kernel(local, *parts)
            return jax.tree.map(lambda axes, a: _sum(a, axes, over), self.outputs, results)

        place = lambda axes: PartitionSpec(*(over[axis] or None for axis in axes))
        return shard, jax.tree.map(place, self.inputs), jax.tree.map(place, self.outputs)

    def partition(self, mesh: Any, arrays: Any, results: Any) -> tuple:
        """For the partitioner, which knows the shardings at compile time."""
        if mesh.empty:  # no mesh can be told from the shardings: every device does the whole
            devices = next(a.sharding.device_set for a in jax.tree.leaves((arrays, results)) if a.sharding)
            mesh = Mesh(np.array(sorted(devices, key=lambda d: d.id)), ("devices",))
        shard, inputs, outputs = self.split(mesh, arrays)
        place = partial(jax.tree.map, partial(NamedSharding, mesh))
        return mesh, shard, place(outputs), place(inputs)

    def typed(self, mesh: Any, *arrays: Any) -> Any:
        """For a mesh of explicit axes, where the shardings are known when the program is traced."""
        shard, inputs, outputs = self.split(mesh, jax.tree.map(jax.typeof, arrays))
        moved = jax.tree.map(lambda a, s: jax.sharding.reshard(a, NamedSharding(mesh, s)), arrays, inputs)
        return jax.shard_map(shard, mesh=mesh, in_specs=inputs, out_specs=outputs, check_vma=False)(*moved)


def _axes(mesh: Any, array: Any, dimension: int, taken: tuple = ()) -> tuple:
    """The mesh axes that split a dimension; none where they do not divide it, since nothing may be padded."""
    spec = getattr(array.sharding, "spec", None) or ()
    entry = (*spec, *(None,) * len(array.shape))[dimension]
    axes = tuple(a for a in names_of(entry) if a in mesh.axis_names and a not in taken)
    return axes if array.shape[dimension] % math.prod(mesh.shape[a] for a in axes) == 0 else ()


def _sum(a: jax.Array, axes: str, over: dict[str, tuple]) -> jax.Array:
    """A shard's part of a gradient summed over the mesh axes of tokens or vocabulary that it does not have."""
    summed = () if axes == "n" else tuple(m for axis in "nv" if axis not in axes for m in over[axis])
    return lax.psum(a, summed) if summed else a
