"""Where the compiler puts a value on a mesh's automatic axes, said by where another one lies, or by what is free.

Which that is only the compiler knows. So these speak to its partitioner, Shardy, in whose words ``alike`` is a
sharding group, ``settled``, ``loose`` and ``told`` are propagation barriers, and ``split`` is constraints.
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.extend.mlir.dialects import sdy, stablehlo
from jax.interpreters import batching, mlir


@jax.custom_jvp
def alike(x: jax.Array, y: jax.Array) -> jax.Array:
    """``y`` where ``x``, of the same shape, lies.

    >>> alike(jnp.zeros(2), jnp.ones(2)).tolist()
    [1.0, 1.0]
    """
    return _alike.bind(x, y)


@jax.custom_jvp
def settled(x: jax.Array) -> jax.Array:
    """``x``, which lies where what it is made of tells, whatever is made of it.

    >>> settled(jnp.ones(2)).tolist()
    [1.0, 1.0]
    """
    return _barrier.bind(x, direction="FORWARD")


@jax.custom_jvp
def loose(x: jax.Array) -> jax.Array:
    """``x``, which lies where it is told to, and what it is made of where that was.

    >>> loose(jnp.ones(2)).tolist()
    [1.0, 1.0]
    """
    return _barrier.bind(x, direction="NONE")


@jax.custom_jvp
def told(x: jax.Array) -> jax.Array:
    """``x``, which lies where what is made of it tells, whatever it is made of.

    >>> told(jnp.ones(2)).tolist()
    [1.0, 1.0]
    """
    return _barrier.bind(x, direction="BACKWARD")


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def split(x: jax.Array, axis: int, names: tuple, first: int) -> jax.Array:
    """``x``, split along ``axis`` over the first so many of mesh axes ``names``, then over all others that are free.

    Free are those of the others that ``x`` is not split by anyway: some that it was whole on, and some that lose their
    place to the first ones.

    >>> split(jnp.ones(2), 0, (), 0).tolist()
    [1.0, 1.0]
    """
    mesh = jax.sharding.get_abstract_mesh()
    return _split.bind(x, axis=axis, names=names, first=first, mesh=(*mesh.shape.items(),))


alike.defjvp(lambda primals, tangents: (alike(*primals), tangents[1]))
settled.defjvp(lambda primals, tangents: (settled(*primals), *tangents))
loose.defjvp(lambda primals, tangents: (loose(*primals), *tangents))
told.defjvp(lambda primals, tangents: (told(*primals), *tangents))
split.defjvp(lambda axis, names, first, primals, tangents: (split(*primals, axis, names, first), *tangents))
_alike, _barrier, _split = Primitive("alike"), Primitive("barrier"), Primitive("split")
_groups = itertools.count()


def _alike_lowered(context: Any, x: Any, y: Any) -> list:
    group = next(_groups)
    for value in (x, y) if _heard() else ():
        sdy.sharding_group(value, group)
    return [y]


def _barrier_lowered(context: Any, x: Any, *, direction: str) -> list:
    return [sdy.propagation_barrier(x, sdy.PropagationDirection[direction]) if _heard() else x]


def _split_lowered(context: Any, x: Any, *, axis: int, names: tuple, first: int, mesh: tuple) -> list:
    """Which are free the partitioner is asked by offers, the longest first: it takes what does not collide."""
    if not _heard():
        return [x]
    rank = context.avals_in[0].ndim

    def split_over(x, names, is_last):
        along = sdy.DimensionShardingAttr.get([sdy.AxisRefAttr.get(name) for name in names], is_last)
        other = sdy.DimensionShardingAttr.get([], is_last)
        axes = [along if i == axis else other for i in range(rank)]
        sizes = sdy.MeshAttr.get([sdy.MeshAxisAttr.get(*item) for item in mesh])
        return sdy.sharding_constraint(x, sdy.TensorShardingAttr.get(sizes, axes))

    x = split_over(x, names[:first], is_last=False)
    for some in _offers(names[first:], any_first=not first):
        offer = sdy.propagation_barrier(x, sdy.PropagationDirection["BACKWARD"])
        # Shardy looks through this last of all operations, so that it knows by then what x is split by anyway.
        # (Priorities, its own way to say so, are lost on the way to XLA from jax 0.11 on.)
        offer = stablehlo.concatenate([offer, offer], (axis + 1) % rank)
        offer = split_over(offer, (*names[:first], *some), is_last=True)
        sdy.sharding_group(offer, next(_groups))  # else no one would read it, and it be dropped
    return [x]


def _offers(names: tuple, any_first: bool) -> list:
    """All choices of mesh axes, the longest first; each in all orders that begin with another, if so asked.

    For along its axis x may be split already, and what that is comes first. (The order of several is the mesh's.)
    """
    choices = [some for k in range(len(names), 0, -1) for some in itertools.combinations(names, k)]
    turned = lambda some, i: (some[i], *some[:i], *some[i + 1 :])
    return [turned(some, i) for some in choices for i in range(len(some) if any_first else 1)]


def _heard() -> bool:
    """Whether Shardy is the partitioner; the one before it takes no such words."""
    return getattr(jax.config, "jax_use_shardy_partitioner", True)


def _alike_batched(arrays: Any, axes: Any) -> tuple:
    """Batches of both are split alike; where only one is a batch, nothing is said."""
    x, y = arrays
    if None in axes:
        return y, axes[1]
    return _alike.bind(jnp.moveaxis(x, *axes), y), axes[1]


def _split_batched(arrays: Any, axes: Any, *, axis: int, **how: Any) -> tuple:
    return _split.bind(*arrays, axis=axis + (axes[0] <= axis), **how), *axes


for _primitive, _lowered in (
    (_alike, _alike_lowered),
    (_barrier, _barrier_lowered),
    (_split, _split_lowered),
):
    _primitive.def_impl(lambda *arrays, **_: arrays[-1])
    _primitive.def_abstract_eval(lambda *arrays, **_: arrays[-1])
    mlir.register_lowering(_primitive, _lowered, cacheable=False)  # else all of one shape would be one group
batching.primitive_batchers[_alike] = _alike_batched
batching.primitive_batchers[_barrier] = lambda arrays, axes, **how: (_barrier.bind(*arrays, **how), *axes)
batching.primitive_batchers[_split] = _split_batched
