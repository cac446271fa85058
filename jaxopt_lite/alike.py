"""`alike`: split a value over a mesh as the compiler splits another one, which is known only when it does.

jax had a function for it until 0.10; it asks the partitioner, Shardy, for the same.
"""

import itertools

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.extend.mlir.dialects import sdy
from jax.interpreters import batching, mlir


@jax.custom_jvp
def alike(x: jax.Array, y: jax.Array) -> jax.Array:
    """``y``, split as ``x`` of the same shape; for arrays whose types do not tell, on axes that the compiler splits.

    >>> alike(jnp.zeros(2), jnp.ones(2)).tolist()
    [1.0, 1.0]
    """
    return _alike.bind(x, y)


alike.defjvp(lambda primals, tangents: (alike(*primals), tangents[1]))

_alike = Primitive("alike")
_alike.def_impl(lambda x, y: y)
_alike.def_abstract_eval(lambda x, y: y)
_numbers = itertools.count()


def _lower(context, x, y):
    """Both in a group of their own."""
    group = next(_numbers)
    for value in (x, y):
        sdy.sharding_group(value, group)
    return [y]


def _batched(arrays, axes):
    """Batches of both are split alike; where only one is a batch, nothing is said."""
    x, y = arrays
    if None in axes:
        return y, axes[1]
    return _alike.bind(jnp.moveaxis(x, axes[0], axes[1]), y), axes[1]


mlir.register_lowering(_alike, _lower, cacheable=False)  # else leaves of one shape would share a group
batching.primitive_batchers[_alike] = _batched
