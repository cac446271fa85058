"""Lookahead follows the paper's two loops; slow weights are kept in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_lite as jol
from jaxopt_lite.wrappers import lookahead
from tests.oracles import wrappers as oracles
from tests.wrappers.common import (
    GRADS,
    MOMENTUM,
    MOMENTUM_ORACLE,
    PARAMS,
    close,
    equal,
    run,
    temporaries,
    wide,
)


@pytest.mark.parametrize(("steps", "rate"), [(3, 0.5), (1, 0.25), (2, 0.0), (2, 1.0)])
def test_equals_its_oracle(steps, rate):
    updates, path, states = run(lookahead(MOMENTUM, steps=steps, slow_rate=rate), GRADS[:7])
    pair = oracles.lookahead(MOMENTUM_ORACLE, steps, rate)
    want, points, expected = oracles.run(pair, wide(PARAMS), map(wide, GRADS[:7]))
    for u, w, p, q, s, e in zip(updates, want, path, points, states, expected, strict=True):
        close(u, w)
        close(p, q)
        close(s.slow_params, e["slow"])
        assert int(s.steps_since_sync) == e["t"] % steps


def test_equals_optax_on_its_pair_of_trees():
    ours = run(lookahead(MOMENTUM, steps=2, slow_rate=0.25), GRADS[:5])[1]
    theirs = optax.lookahead(optax.sgd(0.125, momentum=0.5), 2, 0.25)
    pair = optax.LookaheadParams.init_synced(PARAMS)
    state = theirs.init(pair)
    update = jax.jit(theirs.update)
    for g, mine in zip(GRADS[:5], ours, strict=True):
        updates, state = update(g, state, pair)
        pair = optax.apply_updates(pair, updates)
        close(mine, wide(pair.fast))


def test_fast_weights_meet_the_slow_ones_and_between_those_rest_to_the_bit():
    _, path, states = run(lookahead(MOMENTUM, steps=3), GRADS[:4])
    close(path[2], wide(states[2].slow_params))
    equal(states[0].slow_params, PARAMS)
    equal(states[3].slow_params, states[2].slow_params)


def test_a_nan_between_two_meetings_does_not_reach_the_slow_weights_before_the_next():
    tx = lookahead(jol.sgd(0.1), steps=3)
    update = jax.tree.map(lambda g: jnp.full_like(g, jnp.nan), GRADS[0])
    updates, state = tx.update(update, tx.init(PARAMS), PARAMS)
    assert np.isnan(updates["bias"]).all()
    equal(state.slow_params, PARAMS)


def test_16_bit_slow_weights_are_float32():
    """A step of 2⁻¹⁰ from 1 is lost in bfloat16's slow weights, not in ours."""
    tx, p = lookahead(jol.sgd(1.0), steps=1, slow_rate=0.125), jnp.ones(2, jnp.bfloat16)
    state = tx.init(p)
    for _ in range(8):
        updates, state = tx.update(jnp.full(2, 2.0**-7, jnp.bfloat16), state, p)
        p = jol.apply_updates(p, updates)
    assert updates.dtype == jnp.bfloat16
    assert state.slow_params.dtype == jnp.float32
    assert float(state.slow_params[0]) < 1 - 2.0**-8


def test_none_gradients_leave_their_parameters():
    tx = lookahead(jol.sgd(1.0), steps=1)
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    updates, state = tx.update({"a": jnp.ones(2), "b": None}, tx.init(params), params)
    assert updates["b"] is None
    np.testing.assert_array_equal(updates["a"], -0.5)
    np.testing.assert_array_equal(state.slow_params["b"], 1)


@pytest.mark.cpu
def test_between_meetings_the_slow_weights_are_not_copied():
    used, copies = temporaries(lookahead(jol.adam(1e-3)))
    assert used < 1.05
    assert not copies


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "lookahead: steps is 0, expected an integer of at least 1"),
        ({"slow_rate": 1.5}, "lookahead: slow_rate is 1.5, expected a number in"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        lookahead(MOMENTUM, **options)
    with pytest.raises(ValueError, match=r"lookahead.update: params is None"):
        lookahead(MOMENTUM).update(GRADS[0], lookahead(MOMENTUM).init(PARAMS))
