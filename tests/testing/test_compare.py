"""What laws are written with says what differs and where."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_lite.testing import LawBroken
from jaxopt_lite.testing.compare import (
    aval,
    expect_close,
    expect_equal,
    expect_finite,
    expect_like,
    expect_settled,
    plain,
    show,
    temporary_bytes,
)


def test_closeness_is_relative_to_the_largest_entry_and_nan_equals_nan():
    expect_close({"a": np.array([1.0, 1e-9, np.nan])}, {"a": np.array([1.0, 0.0, np.nan])}, "x", rtol=1e-6)
    expect_close(np.array([np.inf]), np.array([np.inf]), "x")
    with pytest.raises(LawBroken, match=r"x at \['a'\]\[1\] differs"):
        expect_close({"a": np.array([1.0, 1e-3])}, {"a": np.array([1.0, 0.0])}, "x", rtol=1e-6)
    with pytest.raises(LawBroken, match="differs"):
        expect_close(np.array([np.nan]), np.array([0.0]), "x")
    with pytest.raises(LawBroken, match="another shape"):
        expect_close(np.zeros(2), np.zeros((2, 1)), "x")


def test_equal_means_every_bit():
    expect_equal(np.float32(0.1), np.float32(0.1), "x")
    with pytest.raises(LawBroken):
        expect_equal(np.nextafter(np.float32(0.1), np.float32(1)), np.float32(0.1), "x")


def test_likeness_is_tree_shape_dtype_and_weak_type():
    weak, strong = jnp.asarray(1.0), jnp.float32(1.0)
    expect_like(weak, strong, "x")
    with pytest.raises(LawBroken, match="x differs at value"):
        expect_like(weak, strong, "x", weak=True)
    with pytest.raises(LawBroken, match="the tree of x differs"):
        expect_like([strong], (strong,), "x")
    assert aval(weak, weak=True) == "float32[] (weak type)"


def test_finiteness_looks_at_floating_leaves_only():
    expect_finite({"n": np.int32(3), "x": np.ones(2)}, "x")
    with pytest.raises(LawBroken, match="not finite"):
        expect_finite(jnp.asarray([1.0, jnp.inf], jnp.bfloat16), "x")


def test_a_state_that_grows_is_noticed_from_the_third_step_on():
    expect_settled((1.0, 2.0), (1.0,), 1)
    with pytest.raises(LawBroken, match="changes its form"):
        expect_settled((1.0, 2.0), (1.0,), 2)


def test_leaves_become_numpy_in_full_width_and_short_text():
    assert plain(jnp.bfloat16(0.5)).dtype == np.float64
    assert plain(jnp.complex64(1j)).dtype == np.complex128
    assert plain(jax.random.key(0)).dtype == np.uint32
    assert show({"a": jnp.ones(2)}) == "['a']=[1. 1.]"
    assert len(show(np.arange(9999.0).reshape(-1, 3)[:900])) < 450


def test_temporary_bytes_of_a_program_that_needs_room():
    compiled = jax.jit(lambda x: jnp.sort(x) + jnp.sort(-x)).lower(jnp.ones(1000)).compile()
    assert temporary_bytes(compiled) >= 4000
