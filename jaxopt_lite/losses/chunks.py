"""Run a kernel over chunks of rows, for compilers whose partitioner takes no rules from outside.

TPUs know no custom_partitioning (https://github.com/jax-ml/jax/issues/38196). Several chips there walk chunks that
each hold an equal share of every chip's rows, with the vocabulary whole: a loop in which the compiler's own
partitioner has nothing to gather, and whose sums it reduces once, after the loop.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import mlir

from jaxopt_lite.losses.walk import multiple


def over_devices(kernel: Callable, head: Any, inputs: Any, outputs: Any, *arrays: Any) -> Any:
    """``kernel(head, x, w, …)``, as it is on one device and in chunks on several; axes as ``spread`` names them."""
    leaves, tree = jax.tree.flatten(arrays)
    results, out = jax.tree.flatten(jax.eval_shape(partial(kernel, head), *arrays))

    def run(devices: int, *flat: Any) -> Any:
        f = partial(kernel, head) if devices == 1 else Chunks(kernel, head, inputs, outputs, devices)
        return jax.tree.leaves(f(*jax.tree.unflatten(tree, flat)))

    avals = tuple(jax.core.ShapedArray(r.shape, r.dtype) for r in results)
    return jax.tree.unflatten(out, over_devices_p.bind(*leaves, run=run, avals=avals))


over_devices_p = Primitive("over_devices")  # how many there are is known only when the program is lowered
over_devices_p.multiple_results = True
over_devices_p.def_abstract_eval(lambda *_, run, avals: list(avals))


def _lower(context: mlir.LoweringRuleContext, *operands: Any, run: Callable, avals: Any) -> Any:
    devices: Any = context.module_context.axis_context
    return mlir.lower_fun(partial(run, devices.num_devices))(context, *operands)


mlir.register_lowering(over_devices_p, _lower, cacheable=False)


@dataclass(frozen=True)
class Chunks:
    """A kernel that is called with ``head.tokens`` rows of each device at a time, or as hold logits of x's size."""

    kernel: Callable
    head: Any
    inputs: Any
    outputs: Any
    devices: int

    def __call__(self, *arrays: Any) -> Any:
        """Row ``i·count + j`` is in chunk ``j``; rows beyond the last full chunk make one more."""
        (rows, features), classes = arrays[0].shape, arrays[1].shape[self.head.vocabulary_axis]
        tokens = self.head.tokens or multiple(rows * features / classes, 256, 1024)
        count, size = sizes(rows, tokens * self.devices, self.devices)
        full = count * size
        local = partial(self.kernel, replace(self.head, columns=classes, tokens=size, partial=True))
        table = self.rows(lambda a: a[:full].reshape(size, count, *a.shape[1:]), arrays)
        total = self.walk(local, table, count)
        if full < rows:
            total = self.join(total, local(*self.rows(lambda a: a[full:], arrays)))
        exact = jax.eval_shape(partial(self.kernel, self.head), *arrays)
        total = lax.optimization_barrier(total)  # sums are rounded once, whole
        return jax.tree.map(lambda t, r: t.astype(r.dtype), total, exact)

    def walk(self, local: Callable, table: Any, count: int) -> Any:
        """Rows of every chunk in their places, all else summed."""
        chunk = lambda j: self.rows(lambda a: lax.dynamic_index_in_dim(a, j, 1, keepdims=False), table)

        def add(j: Any, total: Any) -> Any:
            put = lambda axes, t, a: lax.dynamic_update_index_in_dim(t, a, j, 1) if axes[0] == "n" else t + a
            return jax.tree.map(put, self.outputs, total, local(*chunk(j)))

        def room(axes: str, r: Any) -> jax.Array:
            return jnp.zeros((r.shape[0], count, *r.shape[1:]) if axes[0] == "n" else r.shape, r.dtype)

        total = jax.tree.map(room, self.outputs, jax.eval_shape(local, *chunk(0)))
        total = lax.fori_loop(0, count, add, total)
        flat = lambda axes, t: t.reshape(-1, *t.shape[2:]) if axes[0] == "n" else t
        return jax.tree.map(flat, self.outputs, total)

    def join(self, total: Any, last: Any) -> Any:
        """The rows of one more chunk behind the others, its sums added."""
        both = lambda axes, t, a: jnp.concatenate([t, a]) if axes[0] == "n" else t + a
        return jax.tree.map(both, self.outputs, total, last)

    def rows(self, f: Callable, arrays: Any) -> Any:
        """The arguments, with ``f`` of those that have rows."""
        return jax.tree.map(lambda axes, a: f(a) if axes[0] == "n" else a, self.inputs, arrays)


def sizes(rows: int, most: int, devices: int) -> tuple[int, int]:
    """How many chunks, of how many rows: no rest, and equal shares for the devices, where that can be."""
    least = max(1, -(-rows // most))
    fitting = (count for count in range(least, 2 * least + 1) if rows % (count * devices) == 0)
    count = next(fitting, least)
    return count, rows // count
