"""How a state array is stored between steps: a ``Codec`` is a pair ``encode, decode``, and a value.

    stored = codec.encode(x, key)    # arrays of any kind; with a key, rounding is stochastic
    x = codec.decode(stored)         # the shape of x, float32 (float64 where x was and the codec keeps it)

Zero decodes to exactly zero, and the shapes of what is stored depend on the shape of x alone.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_lite.call import bind, rebuild
from jaxopt_lite.precision.rounding import nearest, round_to
from jaxopt_lite.types import Array


class Codec:
    """``encode(x, key=None) -> stored`` and ``decode(stored) -> x``; prints, compares, hashes, pickles by value.

    Args:
      encode: any function of a real floating array and an optional random key.
      decode: its inverse, up to rounding.
      stochastic: ``quantize_state`` gives ``encode`` a new key every step, rather than none.
      scale: what ``encode`` must know of the whole array, as a function of it; ``encode(x, key, scale(x))`` is then
        the same as ``encode(x, key)``.
    """

    def __init__(
        self,
        encode: Callable,
        decode: Callable,
        *,
        stochastic: bool = False,
        scale: Callable | None = None,
        call: Any = None,
    ):
        self.encode, self.decode, self.call = encode, decode, call
        self.stochastic, self.scale = stochastic, scale

    @property
    def key(self) -> Any:
        """What codecs compare by: the factory's call, or else the functions."""
        return self.call or (self.encode, self.decode, self.stochastic, self.scale)

    def __repr__(self) -> str:
        return repr(self.call) if self.call else f"Codec({self.encode}, {self.decode})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Codec) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __reduce__(self):
        if self.call is None:
            raise TypeError("a codec pickles only when its factory stands under @codec")
        return rebuild, (self.call.make, self.call.args, self.call.kwargs)


def codec(factory: Callable) -> Callable[..., Codec]:
    """Decorator for a factory of codecs, which makes its results values.

    >>> @codec
    ... def halves():
    ...     return Codec(lambda x, key=None: x.astype(jnp.float16), lambda s: s.astype(jnp.float32))
    >>> halves() == halves(), halves()
    (True, halves())
    """

    @functools.wraps(factory)
    def make(*args, **kwargs):
        made = factory(*args, **kwargs)
        call = bind(make, args, kwargs)
        return Codec(made.encode, made.decode, stochastic=made.stochastic, scale=made.scale, call=call)

    return make


@codec
def identity_codec():
    """Stores the array as it is."""
    return Codec(lambda x, key=None: x, lambda stored: stored)


@codec
def cast_codec(dtype: Any, stochastic: bool = False):
    """Stores the array in another floating dtype; its range is that dtype's.

    An average with a decay near 1 stands still when rounded to nearest: 0.999·x + 0.001·g is x again in
    bfloat16 while |g − x| < 2|x|. With ``stochastic`` it is rounded up or down at random such that it is right on
    average. Anything beyond the dtype's range becomes infinite, and NaN stays NaN.

    Args:
      dtype: ``jnp.bfloat16`` (float32's range), ``jnp.float16`` (6e-8 to 65504) or ``jnp.float32``.
      stochastic: round at random where a key is given, as ``quantize_state`` then does.

    >>> cast_codec("bfloat16").encode(jnp.float32(1.001)).item()
    1.0
    """
    dtype = jnp.dtype(dtype)
    if dtype not in (jnp.bfloat16, jnp.float16, jnp.float32):
        raise ValueError(f"cast_codec: dtype is {dtype.name}, expected bfloat16, float16 or float32")

    def encode(x: Array, key: Any = None) -> Array:
        x = jax.lax.stop_gradient(x)
        return nearest(dtype, x).astype(dtype) if key is None or not stochastic else round_to(dtype, x, key)

    return Codec(encode, lambda stored: stored.astype(jnp.float32), stochastic=stochastic)
