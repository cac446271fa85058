"""Adafactor: the paper's factored moments, optax's numbers, memory, hostile gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_lite import optimizers
from jaxopt_lite.optimizers.adafactor import factored_axes
from tests.oracles import optimizers_more as oracle
from tests.oracles.optimizers_check import check, mask, same_signature, schedule

SMALL = {"min_dim_size_to_factor": 3}
ROWS = [
    SMALL,
    SMALL | {"momentum": 0.9, "weight_decay_rate": 0.01, "weight_decay_mask": mask},
    {"clipping_threshold": None, "multiply_by_parameter_scale": False, "decay_rate": 0.5},
]


@pytest.mark.parametrize("options", ROWS, ids=["factored", "momentum", "plain"])
def test_adafactor_is_the_papers_and_optaxs(options):
    # 1 − t^−0.8 is rounded differently in float32: 1e-4 for optax.
    check(
        optimizers.adafactor,
        oracle.adafactor,
        options,
        learning_rate=schedule,
        peer=optax.adafactor,
        rtol=1e-4,
    )


def test_complex_leaves():
    check(optimizers.adafactor, oracle.adafactor, {})


def test_no_learning_rate_is_1():
    p, g = jnp.array([3.0, -1.0]), jnp.array([0.1, 0.2])
    none, one = (tx.update(g, tx.init(p), p)[0] for tx in map(optimizers.adafactor, (None, 1.0)))
    np.testing.assert_allclose(none, one, rtol=1e-6)
    np.testing.assert_allclose(none, -np.sqrt(5), rtol=1e-6)


def test_signatures():
    same_signature(optimizers.adafactor, optax.adafactor)
    # optax's default function of the decay is the power law that None stands for.
    same_signature(
        optimizers.scale_by_factored_rms, optax.scale_by_factored_rms, positional=("decay_rate_fn",)
    )
    same_signature(optimizers.scale_by_param_block_rms, optax.scale_by_param_block_rms)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((), None), ((500,), None), ((127, 500), None), ((128, 500), (0, 1)), ((500, 2, 200), (2, 0))],
)
def test_the_two_largest_axes_are_factored_when_both_are_long(shape, axes):
    assert factored_axes(shape, 128) == axes


def test_memory_is_one_row_and_one_column():
    state = jax.eval_shape(optimizers.adafactor(0.1).init, jax.ShapeDtypeStruct((512, 256), jnp.bfloat16))
    assert sum(x.size for x in jax.tree.leaves(state)) < 512 + 256 + 10


@pytest.mark.parametrize("size", [1e-12, 1e20])
def test_the_first_direction_of_equal_entries_is_1_at_any_magnitude(size):
    tx = optimizers.scale_by_factored_rms(min_dim_size_to_factor=1)
    g = {"matrix": jnp.full((3, 2), size), "vector": jnp.full(2, -size)}
    u, state = jax.jit(tx.update)(g, tx.init(g))
    np.testing.assert_allclose(u["matrix"], 1, rtol=1e-5)
    np.testing.assert_allclose(u["vector"], -1, rtol=1e-5)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(state))


def test_huge_parameters_and_gradients_make_no_inf():
    tx = optimizers.adafactor(0.1, min_dim_size_to_factor=1)
    p = {"huge": jnp.full((4, 3), 1e30), "one": jnp.ones((4, 3)), "vector": jnp.full(3, 1e20)}
    g = {"huge": jnp.ones((4, 3)), "one": jnp.full((4, 3), 1e20).at[0].set(1.0), "vector": jnp.ones(3)}
    u, state = jax.jit(tx.update)(g, tx.init(p), p)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves((u, state)))
    assert (jnp.abs(u["huge"]) > 1e17).all()  # in proportion to 1.8e19/√12
    assert (u["one"][1:] < 0).all()


@pytest.mark.parametrize("size", [0.0, 1e-12, 3.0, 1e15, 1e17, 1e30])
def test_steps_are_relative_to_the_weights_until_their_squares_overflow(size):
    tx = optimizers.scale_by_param_block_rms(0.0)
    p = jnp.full((1000, 1000), size)
    u, _ = jax.jit(tx.update)(jnp.ones_like(p), tx.init(p), p)
    np.testing.assert_allclose(u, min(size, 1.8446743e16), rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_zeros_in_16_bits(dtype):
    tx = optimizers.adafactor(0.1, min_dim_size_to_factor=1)
    p, g = jnp.ones((2, 2), dtype), jnp.array([[0.0, 1.0], [0.0, 0.0]], dtype)
    u, _ = jax.jit(tx.update)(g, tx.init(p), p)
    assert jnp.isfinite(u).all()
    assert (u[g == 0] == 0).all()
