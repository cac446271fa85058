"""Where the compiler puts a value on a mesh's automatic axes, said by where another one lies: `alike` and barriers.

Which that is only the compiler knows. So these speak to its partitioner, Shardy, in whose words ``alike`` is a
sharding group, and ``settled``, ``loose`` and ``told`` are propagation barriers.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.extend.mlir.dialects import sdy
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


alike.defjvp(lambda primals, tangents: (alike(*primals), tangents[1]))
settled.defjvp(lambda primals, tangents: (settled(*primals), *tangents))
loose.defjvp(lambda primals, tangents: (loose(*primals), *tangents))
told.defjvp(lambda primals, tangents: (told(*primals), *tangents))
_alike, _barrier = Primitive("alike"), Primitive("barrier")
_groups = itertools.count()


def _alike_lowered(context: Any, x: Any, y: Any) -> list:
    group = next(_groups)
    for value in (x, y) if _heard() else ():
        sdy.sharding_group(value, group)
    return [y]


def _barrier_lowered(context: Any, x: Any, *, direction: str) -> list:
    return [sdy.propagation_barrier(x, sdy.PropagationDirection[direction]) if _heard() else x]


def _heard() -> bool:
    """Whether Shardy is the partitioner; the one before it takes no such words."""
    return getattr(jax.config, "jax_use_shardy_partitioner", True)


def _alike_batched(arrays: Any, axes: Any) -> tuple:
    """Batches of both are split alike; where only one is a batch, nothing is said."""
    x, y = arrays
    if None in axes:
        return y, axes[1]
    return _alike.bind(jnp.moveaxis(x, *axes), y), axes[1]


for _primitive, _lowered in ((_alike, _alike_lowered), (_barrier, _barrier_lowered)):
    _primitive.def_impl(lambda *arrays, **_: arrays[-1])
    _primitive.def_abstract_eval(lambda *arrays, **_: arrays[-1])
    mlir.register_lowering(_primitive, _lowered, cacheable=False)  # else all of one shape would be one group
batching.primitive_batchers[_alike] = _alike_batched
batching.primitive_batchers[_barrier] = lambda arrays, axes, **how: (_barrier.bind(*arrays, **how), *axes)
