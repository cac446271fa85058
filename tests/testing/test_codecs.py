"""`check_codec` on right codecs and on codecs wrong in one way each."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_lite.testing import ConformanceError, check_codec, codec_laws


class Codec(NamedTuple):
    encode: Any
    decode: Any


class Stored(NamedTuple):
    numbers: Any
    scale: Any


def int8(*, scale_dtype=jnp.float32, offset=0.0, levels=127.0, rounding=jnp.round, keep=lambda x: x):
    """Signed bytes with one scale an array."""

    def encode(x, key=None):
        scale = jnp.max(jnp.abs(x), initial=0.0).astype(scale_dtype)
        unit = x / jnp.where(scale == 0, 1, scale).astype(jnp.float32) * levels
        noise = 0.5 if key is None else jax.random.uniform(key, x.shape)
        numbers = rounding(unit) if key is None else jnp.floor(unit + noise)
        return Stored(keep(numbers).astype(jnp.int8), scale)

    def decode(stored):
        x = (stored.numbers.astype(jnp.float32) + offset) / levels
        return x * stored.scale.astype(jnp.float32)

    return Codec(encode, decode)


def grown(x, key=None):
    return jnp.concatenate([x.reshape(-1), jnp.zeros(1)])


PLAIN = Codec(lambda x, key=None: x, lambda s: s)
# Accelerators drop a cast and its undoing where they meet in one program, but round where they are told to.
BFLOAT16 = Codec(
    lambda x, key=None: jax.lax.reduce_precision(x, 8, 7).astype(jnp.bfloat16),
    lambda s: s.astype(jnp.float32),
)
WRONG = {
    "shape_and_dtype": Codec(lambda x, key=None: x, lambda s: s.reshape(-1)),
    "zero_decodes_to_zero": int8(offset=1e-3),
    "error_is_bounded": int8(levels=3.0),
    "any_magnitude": int8(scale_dtype=jnp.float16),
    "signs_are_kept": int8(offset=-0.4, rounding=lambda x: jnp.where(x == 0, 0.4, jnp.round(x))),
    "second_trip_changes_nothing": Codec(lambda x, key=None: x * 0.99, lambda s: s),
    "stored_is_a_fixed_point": Codec(lambda x, key=None: np.asarray(x), jnp.asarray),
    "jit_equals_eager": Codec(
        lambda x, key=None: x if bool(jnp.all(x < jnp.inf)) or x.ndim else -x, lambda s: s
    ),
    "nan_is_not_hidden": Codec(lambda x, key=None: jnp.nan_to_num(x), lambda s: s),
    "smaller_than_float32": Codec(lambda x, key=None: (x, 0 * x), lambda s: s[0]),
    "rounds_without_bias": Codec(
        lambda x, key=None: x if key is None else x + jax.random.uniform(key, x.shape), lambda s: s
    ),
}


@pytest.mark.parametrize("codec", [PLAIN, BFLOAT16, int8()], ids=["plain", "bfloat16", "int8"])
def test_right_codecs_pass(codec):
    report = check_codec(codec)
    assert len(report.passed) >= 10
    assert check_codec(codec, non_negative=True).passed


@pytest.mark.parametrize("law", WRONG)
def test_wrong_codecs_break_the_law_that_names_their_fault(law):
    with pytest.raises(ConformanceError) as caught:
        check_codec(WRONG[law])
    assert law in {r.law for r in caught.value.report.failures}


def test_every_law_is_named_by_a_wrong_codec():
    assert set(WRONG) == set(codec_laws)
