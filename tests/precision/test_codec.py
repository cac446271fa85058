"""Codecs as values, and storage in another dtype."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_lite.precision import Codec, cast_codec, identity_codec, int8_codec
from jaxopt_lite.testing import check_codec


@pytest.mark.parametrize(
    "codec",
    [identity_codec(), cast_codec("float32"), cast_codec("bfloat16"), cast_codec(jnp.bfloat16, True)],
    ids=repr,
)
def test_laws(codec):
    check_codec(codec, tolerance=0.005)
    check_codec(codec, non_negative=True, tolerance=0.005)


def test_float16_has_the_range_of_float16():
    check_codec(cast_codec("float16"), expected_failures={"any_magnitude": "1e30 is infinite in float16"})


def test_values():
    assert int8_codec() == int8_codec(block=(8, 128)) != int8_codec((8, 256))
    assert pickle.loads(pickle.dumps(cast_codec("bfloat16", True))) == cast_codec("bfloat16", True)
    assert len({int8_codec(), int8_codec(), identity_codec()}) == 2
    assert repr(int8_codec((4, 128))) == "int8_codec(block=(4, 128))"
    with pytest.raises(TypeError, match="pickles only"):
        pickle.dumps(Codec(abs, abs))
    with pytest.raises(ValueError, match="cast_codec: dtype is int8"):
        cast_codec("int8")


def test_without_a_key_a_stochastic_cast_rounds_to_nearest():
    x = jnp.linspace(-3, 3, 101)
    np.testing.assert_array_equal(cast_codec("bfloat16", True).encode(x), x.astype(jnp.bfloat16))
    some = cast_codec("bfloat16", True).encode(x, jax.random.key(0))
    assert (some != x.astype(jnp.bfloat16)).any()
