"""``quantize_state``: any transformation with its large state arrays stored in one or two bytes a value."""

import dataclasses
import functools
import re
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxopt_lite import checks
from jaxopt_lite.axes import chosen_by_compiler, divisible
from jaxopt_lite.compose import Links, _require_transformation, path_string
from jaxopt_lite.precision.blockwise import (
    fp8_codec,
    fp8_sqrt_codec,
    int4_codec,
    int8_codec,
    uint4_sqrt_codec,
    uint8_sqrt_codec,
)
from jaxopt_lite.precision.codec import Codec, cast_codec, identity_codec
from jaxopt_lite.precision.fields import EXACT, SQUARE, exceptions_of, kind_of
from jaxopt_lite.precision.nibbles import Nibbles
from jaxopt_lite.transformation import Stage, Transformation, lifted, transformation
from jaxopt_lite.types import Array, OptState


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("stored", "seed"), meta_fields=("codec", "dtype")
)
@dataclasses.dataclass(frozen=True)
class Encoded:
    """A state array as its codec stores it; a pytree of plain arrays in the array's place."""

    stored: Any
    seed: Array | None  # [] uint32, one more every step; None where rounding is to nearest
    codec: Codec
    dtype: str

    def decode(self) -> Array:
        """The array, in the dtype that it had."""
        return self.codec.decode(self.stored).astype(self.dtype)

    def scale(self, array: Array) -> tuple:
        """What has to be known of all of ``array`` before it is encoded."""
        return (self.codec.scale(array),) if self.codec.scale else ()

    def replace(self, array: Array, *scale: Any) -> "Encoded":
        """Another array in its place, rounded with the next key."""
        if self.seed is None:
            return Encoded(self.codec.encode(array, None, *scale), None, self.codec, self.dtype)
        stored = self.codec.encode(array, jax.random.key(self.seed), *scale)
        return Encoded(stored, self.seed + jnp.uint32(1), self.codec, self.dtype)


def is_encoded(x: Any) -> bool:
    """Whether a node of a state is an encoded array."""
    return isinstance(x, Encoded)


# Names of codecs, for moments of either sign and for second moments.
PAIRS: dict[str, tuple[Codec, Codec]] = {
    "int8": (int8_codec(), uint8_sqrt_codec()),
    "fp8": (fp8_codec(), fp8_sqrt_codec()),
    "int4": (int4_codec(), uint4_sqrt_codec()),
    "bfloat16": (cast_codec("bfloat16", stochastic=True),) * 2,
    "identity": (identity_codec(),) * 2,
}


@transformation
def quantize_state(
    tx, codec: Any = "int8", *, overrides: Mapping[str, Any] | None = None, min_size: int = 4096
):
    """``tx`` with every large floating array of its state stored encoded, and decoded for the update.

    ```
    s = decode(stored);  u, s′ = tx.update(g, s, p);  stored′ = encode(s′)
    ```

    leaf by leaf where ``tx`` is made of leaf rules of this package (adam, adamw, lion, chains of them, ...), so
    that XLA fuses decoding and encoding into the rule; on the whole state otherwise. With ``"int8"``
    AdamW's state takes 2.01 bytes a parameter instead of 8, with ``"int4"`` 1.01. Both are rounded stochastically,
    the same in every run: to nearest, an average would stand still where a step changes it by little.

    Args:
      tx: any optax-protocol transformation.
      codec: ``"int8"``, ``"fp8"``, ``"int4"``, ``"bfloat16"`` (stochastically rounded), ``"identity"``, or a
        ``Codec``. By name, second moments (state fields called ``nu``, ``v`` and the like) get that width's
        square-root codec, since a v stored as 0 makes m/√v explode; a ``Codec`` is used for all others, and second
        moments get ``uint8_sqrt_codec()`` unless it is ``identity_codec()`` or a ``cast_codec``.
      overrides: ``{pattern: codec}``, first match wins: arrays whose path in the state, such as
        ``"0/nu/layers/0/kernel"``, matches the regular expression (``re.search``) get that codec (or name: its
        first half; ``None``: stay as they are), whatever their size.
      min_size: smaller arrays stay as they are.

    It wraps every transformation of this package, of optax and of optax.contrib. What it leaves as it is, unless an
    override names it, are fields that a rounding error would spoil (``fields.KINDS``): parameters (schedule-free's
    ``z``, prodigy's ``params0``, slow, averaged and cached ones), sums of few gradients (``acc_grads``), all of L-BFGS
    and of line searches, whose differences of two such arrays would be noise; and complex arrays. ``init`` makes
    ``tx``'s state first; for a large model call it under ``jax.jit``. No derivative passes through what is stored.
    Where a gradient is always zero, the parameter never moves.

    Raises ``ValueError`` for an unknown name, ``TypeError`` for what is neither name nor codec.

    >>> import jaxopt_lite as jol
    >>> params = {"kernel": jnp.ones((64, 128)), "bias": jnp.ones(128)}
    >>> state = quantize_state(jol.adamw(1e-3)).init(params)
    >>> state_bytes(jol.adamw(1e-3).init(params)), state_bytes(state)
    (66564, 17484)
    """
    _require_transformation("quantize_state: tx", tx)
    checks.between("quantize_state", "min_size", min_size, 0, float("inf"))
    pair = _pair("codec", codec)
    patterns = {pattern: _one(pattern, value) for pattern, value in (overrides or {}).items()}

    def init(params):
        return _encode_all(tx.init(params), pair, patterns, min_size)

    inner = _decoding(tx)
    return Transformation(init, inner.update, None, inner.stages)


def _pair(argument: str, codec: Any) -> tuple[Codec, Codec]:
    """The codecs of moments of either sign and of second moments."""
    if isinstance(codec, str):
        checks.one_of("quantize_state", argument, codec, tuple(PAIRS))
        return PAIRS[codec]
    if not (callable(getattr(codec, "encode", None)) and callable(getattr(codec, "decode", None))):
        raise TypeError(
            f"quantize_state: {argument} is {codec!r}, expected a Codec or one of {', '.join(PAIRS)}"
        )
    if not isinstance(codec, Codec):
        codec = Codec(codec.encode, codec.decode)
    made = getattr(codec.call, "make", None)
    return codec, codec if made in (identity_codec, cast_codec) else uint8_sqrt_codec()


def _one(pattern: str, codec: Any) -> Codec:
    return identity_codec() if codec is None else _pair(f"overrides[{pattern!r}]", codec)[0]


def _encode_all(state: OptState, pair: tuple, patterns: dict, min_size: int) -> OptState:
    """The state with every array encoded that is to be."""
    exceptions = exceptions_of(state)

    def leaf(index, path, x):
        codec = _chosen(path, x, pair, patterns, min_size, exceptions)
        if codec is None or codec == identity_codec():
            return x
        # By place, not by name, so that the same leaves in other containers are rounded alike.
        seed = jnp.uint32(zlib.crc32(str(index).encode())) if codec.stochastic else None
        return Encoded(_encoded(codec, x), seed, codec, jnp.dtype(x.dtype).name)

    leaves, treedef = jax.tree_util.tree_flatten_with_path(state)
    return treedef.unflatten([leaf(index, path, x) for index, (path, x) in enumerate(leaves)])


@functools.partial(jax.jit, static_argnums=0)
def _encoded(codec: Codec, x: Array) -> Any:
    """The first state's ``x``: a choice whose outcome XLA cannot tell, or it would encode zeros while it compiles."""
    known = jax.lax.optimization_barrier(jnp.array(True))
    x = jnp.where(known, x, jnp.ones((), x.dtype))
    parts = jax.eval_shape(codec.encode, jax.ShapeDtypeStruct(x.shape, x.dtype))
    places = jax.tree.map(lambda part: divisible(x, part.shape), parts)
    return chosen_by_compiler(codec.encode, places, x)


def _chosen(path: tuple, x: Any, pair, patterns, min_size, exceptions) -> Codec | None:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return None
    for pattern, codec in patterns.items():
        if re.search(pattern, path_string(path)):
            return codec
    kind = kind_of(path, exceptions)
    if x.size < min_size or kind == EXACT:
        return None
    return pair[1] if kind == SQUARE else pair[0]


def _decoding(tx: Any) -> Any:
    """``tx`` for encoded states: the same stages with decoding rules, or, if it has none, one whole update."""
    stages = getattr(tx, "stages", None)
    if isinstance(stages, Links):
        return stages.relinked([_decoding(part) for part in stages.parts])
    if isinstance(stages, Stage):
        return _decoding_stage(stages)
    inner = optax.with_extra_args_support(tx)

    def update(updates, state, params=None, **extra):
        def whole(updates, state, params):
            plain = jax.tree.map(_decoded, state, is_leaf=is_encoded)
            updates, new = inner.update(updates, plain, params, **extra)
            return updates, jax.tree.map(_replaced, state, new, is_leaf=is_encoded)

        return chosen_by_compiler(whole, (updates, state), updates, state, params)

    return Transformation(tx.init, update)


def _decoded(x: Any) -> Any:
    return x.decode() if is_encoded(x) else x


def _replaced(old: Any, new: Any, scale: tuple = ()) -> Any:
    return old.replace(new, *scale) if is_encoded(old) else new


def _scale(old: Any, new: Any) -> tuple:
    return old.scale(new) if is_encoded(old) else ()


def _decoding_stage(stage: Stage) -> Transformation:
    """The stage with a rule that decodes its slots before and encodes them after.

    A leaf's scales are all known before any number is stored. Else XLA stores those of one array in the kernel that
    finds the largest of another, and on a GPU such a kernel is several times slower than two.
    """
    width = len(stage.slots)

    def rule(*args):
        slots = args[len(args) - width :]
        plain = jax.tree.map(_decoded, slots, is_leaf=is_encoded)
        u, *new = stage.rule(*args[: len(args) - width], *plain)
        scales = jax.lax.optimization_barrier(jax.tree.map(_scale, slots, tuple(new), is_leaf=is_encoded))
        return u, *jax.tree.map(_replaced, slots, tuple(new), scales, is_leaf=is_encoded)

    rule.__qualname__ = stage.rule.__qualname__
    return lifted(stage._replace(rule=rule, waits=_waits, together=False))


def _waits(slots: tuple) -> tuple[bool, bool]:
    """On CPUs leaves with encoded state wait for each other, since XLA fuses little there.

    Everywhere those with nibbles, which are packed after all codes have been made, a byte each.
    """
    is_nibbles = lambda x: isinstance(x, Nibbles)
    encoded = any(map(is_encoded, jax.tree.leaves(slots, is_leaf=is_encoded)))
    return encoded, any(map(is_nibbles, jax.tree.leaves(slots, is_leaf=is_nibbles)))


def state_bytes(state: OptState) -> int:
    """How many bytes the arrays of ``state`` (or of any tree, ``ShapeDtypeStruct``s too) take in all.

    >>> state_bytes({"m": jnp.zeros((3, 4)), "count": jnp.zeros([], jnp.int32)})
    52
    """
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state) if hasattr(x, "dtype"))
