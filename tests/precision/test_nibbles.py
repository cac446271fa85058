"""Nibbles: every integer of four bits comes back, for every shape."""

import jax
import numpy as np
import pytest

from jaxopt_lite.precision.nibbles import pack, unpack


@pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (16,), (5, 3), (6, 3), (2, 3, 4), (0, 3)], ids=str)
@pytest.mark.parametrize("signed", [True, False])
def test_there_and_back(shape, signed):
    low, high = (-8, 8) if signed else (0, 16)
    x = np.random.default_rng(0).integers(low, high, shape)
    packed = pack(x)
    np.testing.assert_array_equal(unpack(packed, signed=signed), x)
    rows = shape[-2] if len(shape) > 1 else (shape or (1,))[0]
    assert sum(a.size for a in jax.tree.leaves(packed)) == (x.size // rows if rows else 0) * ((rows + 1) // 2)
