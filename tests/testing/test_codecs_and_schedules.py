"""Codecs and schedules, each wrong in one way, and right ones."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_lite.testing import ConformanceError, check_codec, check_schedule


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
BFLOAT16 = Codec(lambda x, key=None: x.astype(jnp.bfloat16), lambda s: s.astype(jnp.float32))
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


def linear(step):
    return 0.1 * (1 - jnp.minimum(jnp.asarray(step, jnp.float32) / 100, 1))


BAD = {
    "scalar_float32": lambda s: jnp.full((1,), linear(s)),
    "finite_at_every_step": lambda s: linear(s) / (1 - 1.0 * (jnp.asarray(s) == 0)),
    "jit_equals_eager": lambda s: linear(s) if s < 10**9 else jnp.float32(0),
    "vmap_equals_loop": lambda s: jax.pure_callback(linear, jax.ShapeDtypeStruct((), jnp.float32), s),
    "any_kind_of_integer": lambda s: linear(s) + (0 if hasattr(s, "dtype") else 1),
    "exact_at_the_ends": lambda s: linear(jnp.asarray(s) + 1),
    "holds_after_the_end": lambda s: 0.1 * (1 - jnp.asarray(s, jnp.float32) / 100),
}


def test_a_right_schedule_passes():
    report = check_schedule(linear, steps=100, start=0.1, end=0.0, holds=True)
    assert len(report.passed) == len(report.results)


@pytest.mark.parametrize("law", BAD)
def test_wrong_schedules_break_the_law_that_names_their_fault(law):
    with pytest.raises(ConformanceError) as caught:
        check_schedule(BAD[law], steps=100, start=0.1, end=0.0, holds=True)
    assert law in {r.law for r in caught.value.report.failures}
