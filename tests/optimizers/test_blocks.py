"""Blocks of matrices and back, and which fit; on eight devices they are cut in mesh_shares.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from jaxopt_lite.optimizers.blocks import apart, filled, fit, from_blocks, norm, norms, to_blocks
from tests.test_shares import run_on_eight_devices

X = jnp.arange(2.0 * 5 * 4).reshape(2, 5, 4)


def test_blocks_and_back():
    blocks = to_blocks(X, 3)
    assert blocks.shape == (2, 4, 3, 3)
    np.testing.assert_array_equal(blocks[1, 2], np.pad(X[1, 3:, :3], ((0, 1), (0, 0))))
    np.testing.assert_array_equal(from_blocks(blocks, X.shape), X)
    assert to_blocks(X, 1024).shape == (2, 1, 5, 4)
    np.testing.assert_array_equal(from_blocks(to_blocks(X, 1024), X.shape), X)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (3, 7), (2, 8, 6)])
def test_apart_off_a_mesh_is_to_blocks(shape, size):
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape))
    blocks, undo = apart(x, size)
    np.testing.assert_array_equal(blocks, to_blocks(x, size))
    np.testing.assert_array_equal(undo(blocks), x)


def test_those_fit_that_do_along_both_axes():
    with jax.sharding.use_abstract_mesh(AbstractMesh((2, 4), ("data", "fsdp"))):
        assert fit((3, 16, 32), 8)
        assert not fit((3, 16, 24), 16)
        assert not fit((3, 24, 16), 16)
    assert fit((16, 24), 16)


def test_they_come_from_any_layout_without_a_gather():
    run_on_eight_devices("blocks")


def test_norms_of_blocks():
    want = np.linalg.norm(to_blocks(X, 3), axis=(-2, -1), keepdims=True)
    np.testing.assert_allclose(norms(X, 3), want, rtol=1e-6)
    np.testing.assert_allclose(norm(X)[:, 0, 0], np.linalg.norm(X, axis=(-2, -1)), rtol=1e-6)


def test_filled():
    np.testing.assert_array_equal(filled(X, -2, 7), np.pad(X, ((0, 0), (0, 2), (0, 0))))
    assert filled(X, 1, 5) is X
