"""Scaling by numbers, arrays and schedules; weight decay and its masks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_lite as jol
from jaxopt_lite import optimizers
from jaxopt_lite.optimizers.scale import scalar_stage, value_at
from tests.oracles.optimizers_check import same_signature

G = {"a": np.array([1.0, -2.0], np.float32), "b": np.array([[3.0]], np.float32)}
P = {"a": np.array([10.0, 20.0], np.float32), "b": np.array([[30.0]], np.float32)}


def run(tx, steps=1):
    """The last of so many updates."""
    state = tx.init(P)
    for _ in range(steps):
        updates, state = tx.update(G, state, P)
    return jax.tree.map(np.asarray, updates)


@pytest.mark.parametrize(
    "value", [0.5, jnp.float32(0.5), lambda step: 0.5], ids=["float", "array", "schedule"]
)
def test_scale_and_learning_rate_take_every_kind_of_number(value):
    for tx, factor in (
        (optimizers.scale(value), 0.5),
        (optimizers.scale_by_learning_rate(value), -0.5),
        (optimizers.scale_by_learning_rate(value, flip_sign=False), 0.5),
    ):
        np.testing.assert_array_equal(run(tx)["a"], factor * G["a"])


def test_a_schedule_counts_from_0():
    tx = optimizers.scale_by_schedule(lambda step: 2.0 + step)
    assert [run(tx, n)["b"].item() for n in (1, 2, 3)] == [6, 9, 12]
    assert run(optimizers.identity())["b"] == 3


@pytest.mark.parametrize(
    "decay", [0.1, jnp.float32(0.1), lambda step: 0.1], ids=["float", "array", "schedule"]
)
def test_weight_decay_is_added(decay):
    np.testing.assert_allclose(run(optimizers.add_decayed_weights(decay))["a"], [2.0, 0.0], atol=1e-6)


MASKS = [{"a": False, "b": True}, lambda params: jax.tree.map(lambda p: p.ndim == 2, params)]


@pytest.mark.parametrize("mask", MASKS, ids=["tree", "function"])
def test_weight_decay_only_where_the_mask_is_true(mask):
    got = run(optimizers.add_decayed_weights(0.1, mask))
    np.testing.assert_array_equal(got["a"], G["a"])
    np.testing.assert_allclose(got["b"], [[6.0]], rtol=1e-6)


def test_a_decay_of_0_needs_no_parameters():
    assert optimizers.add_decayed_weights(0.0).update(G, optimizers.identity().init(P))[0]["b"] == 3
    tx = optimizers.add_decayed_weights(0.1)
    with pytest.raises(ValueError, match=r"add_decayed_weights\.update: params is None"):
        tx.update(G, tx.init(P))


def test_a_number_is_rounded_once():
    """0.1 + 1e-9 times a large entry in float64 shows whether it went through float32."""
    with jax.enable_x64(True):
        tx = optimizers.scale(0.1 + 1e-9)
        u, _ = tx.update(jnp.array([1e9]), tx.init(jnp.array([1e9])))
        assert u[0] == (0.1 + 1e-9) * 1e9


def test_an_array_learning_rate_does_not_widen_16_bits():
    tx = jol.sgd(jnp.float32(0.1))
    u, _ = tx.update(jnp.ones(2, jnp.bfloat16), tx.init(jnp.ones(2, jnp.bfloat16)))
    assert u.dtype == jnp.bfloat16


def test_errors():
    with pytest.raises(TypeError, match=r"step_size_fn is 0\.5, expected a function"):
        optimizers.scale_by_schedule(0.5)
    with pytest.raises(
        ValueError, match=r"scale_by_learning_rate: the value has shape \(2,\), expected \(\)"
    ):
        jol.sgd(jnp.ones(2))


def test_no_learning_rate_is_the_identity_as_in_optax():
    assert run(optimizers.scale_by_learning_rate())["b"] == run(optax.scale_by_learning_rate(None))["b"] == 3


def test_helpers():
    assert value_at(0.5, jnp.int32(3)) == 0.5
    assert value_at(lambda step: 10 * step, jnp.int32(3)) == 20
    tx = scalar_stage("name", 2.0, lambda g, p, c: g**c)
    assert tx.update(jnp.float32(3.0), tx.init(jnp.zeros(())))[0] == 9


def test_signatures():
    same_signature(optimizers.scale_by_schedule, optax.scale_by_schedule)
    same_signature(optimizers.scale, optax.scale)
    same_signature(optimizers.scale_by_learning_rate, optax.scale_by_learning_rate)
    same_signature(optimizers.add_decayed_weights, optax.add_decayed_weights)
