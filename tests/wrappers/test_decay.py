"""Weight decay with its own schedule, outside of the optimizer, by mask and by path."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_lite as jol
from jaxopt_lite import schedules
from jaxopt_lite.wrappers import decay
from tests.oracles import wrappers as oracles
from tests.wrappers.common import GRADS, MOMENTUM, MOMENTUM_ORACLE, PARAMS, close, equal, run, wide

HALVING = schedules.exponential(0.25, 0.5, 1)


def matrices(params):
    return jax.tree.map(lambda p: p.ndim > 1, params)


@pytest.mark.parametrize(
    ("options", "rates"),
    [
        ({"weight_decay": 0.25}, lambda t: (0.25, 0.25)),
        ({"weight_decay": jnp.float32(0.25)}, lambda t: (0.25, 0.25)),
        ({"weight_decay": HALVING}, lambda t: (0.25 * 0.5**t,) * 2),
        ({"weight_decay": 0.25, "mask": matrices}, lambda t: (0, 0.25)),
        ({"weight_decay": 0.25, "mask": {"bias": True, "kernel": False}}, lambda t: (0.25, 0)),
        ({"weight_decay": {"kern": HALVING}}, lambda t: (0, 0.25 * 0.5**t)),
        ({"weight_decay": {"^k": 0.125, "": 0.5}}, lambda t: (0.5, 0.125)),
        ({"weight_decay": {"bias": 0.0, "bia": 0.5, "": 0.25}}, lambda t: (0, 0.25)),
        ({"weight_decay": 0.0}, lambda t: (0, 0)),
    ],
)
def test_equals_its_oracle(options, rates):
    tx = decay(MOMENTUM, **options)
    updates, path, _ = run(tx, GRADS[:3])
    pair = oracles.decay(MOMENTUM_ORACLE, rates)
    want, points, _ = oracles.run(pair, wide(PARAMS), map(wide, GRADS[:3]))
    for u, w, p, q in zip(updates, want, path, points, strict=True):
        close(u, w)
        close(p, q)


def test_at_a_constant_rate_it_is_adamw():
    got = run(decay(jol.adam(0.125), 0.125 * 0.5), GRADS[:3])[1]
    want = run(jol.adamw(0.125, weight_decay=0.5), GRADS[:3])[1]
    for a, b in zip(got, want, strict=True):
        close(a, wide(b))


def test_it_does_not_follow_the_learning_rate():
    still = jax.tree.map(jnp.zeros_like, PARAMS)
    tx = decay(jol.adamw(schedules.linear(1.0, 0.0, 2), weight_decay=0.0), 0.5)
    close(run(tx, [still] * 3)[1][-1], [p / 8 for p in wide(PARAMS)])


def test_around_a_foreign_transformation_and_with_tunable():
    close(run(decay(optax.sgd(0.5), 0.25), GRADS[:1])[0][0], [-0.5 * g - 0.25 * p for g, p in _pairs()])
    tx = jol.tunable(functools.partial(decay, jol.sgd(0.5)), weight_decay=0.125)
    state = jol.set_hyperparams(tx.init(PARAMS), weight_decay=0.25)
    close(tx.update(GRADS[0], state, PARAMS)[0], [-0.5 * g - 0.25 * p for g, p in _pairs()])


def _pairs():
    return zip(wide(GRADS[0]), wide(PARAMS), strict=True)


def test_16_bits_decay_in_float32_on_the_way():
    """The step and the decay are added before they are rounded."""
    p = jnp.bfloat16([256.0])
    tx = decay(jol.sgd(1.0), 2.0**-9)
    updates, _ = tx.update(jnp.bfloat16([100.0]), tx.init(p), p)
    assert updates.dtype == jnp.bfloat16
    np.testing.assert_array_equal(updates, jnp.bfloat16([-100.5]))


def test_none_and_python_numbers():
    tx = decay(jol.sgd(1.0), {"a": 0.5})
    params = {"a": 1.0, "none": None, "b": jnp.ones(1)}
    updates, _ = tx.update({"a": jnp.float32(0), "none": None, "b": None}, tx.init(params), params)
    assert updates["b"] is None
    assert updates["a"] == -0.5


def test_prints_and_compares():
    assert (
        repr(decay(jol.sgd(0.1), {"k": 0.1})) == "decay(tx=sgd(learning_rate=0.1), weight_decay={'k': 0.1})"
    )
    assert (
        decay(jol.sgd(0.1), {"k": 0.1}) == decay(jol.sgd(0.1), {"k": 0.1}) != decay(jol.sgd(0.1), {"k": 0.2})
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_decay": 1.5}, "decay: weight_decay is 1.5, expected a number in"),
        ({"weight_decay": {"k": -0.1}}, r"decay: weight_decay\['k'\] is -0.1, expected a number in"),
        ({"weight_decay": {"k": 0.1}, "mask": True}, "decay: mask is given beside patterns"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        decay(MOMENTUM, **options)
    with pytest.raises(ValueError, match="params is None"):
        decay(MOMENTUM, 0.5).update(GRADS[0], decay(MOMENTUM, 0.5).init(PARAMS))
    with pytest.raises(TypeError, match="decay: tx is the function 'adam'"):
        decay(jol.adam, 0.5)


def test_no_decay_is_the_inner_transformation_to_the_bit():
    equal(run(decay(MOMENTUM, 0.0), GRADS[:2])[0], run(MOMENTUM, GRADS[:2])[0])
