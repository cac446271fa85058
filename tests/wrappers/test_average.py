"""The averaged parameters are those of the formula, for 16-bit parameters and schedules too."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_lite as jol
from jaxopt_lite.wrappers import accumulate, ema_params, ema_values, skip_nonfinite
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


def warmed_up(step):
    return jnp.minimum(0.9, (1.0 + step) / (10.0 + step))


@pytest.mark.parametrize("decay", [0.75, 0.0, 1.0, warmed_up])
def test_equals_its_oracle(decay):
    updates, _, states = run(ema_params(MOMENTUM, decay), GRADS[:5])
    pair = oracles.ema_params(
        MOMENTUM_ORACLE, decay if not callable(decay) else lambda t: float(warmed_up(t))
    )
    want, _, expected = oracles.run(pair, wide(PARAMS), map(wide, GRADS[:5]))
    for u, w, s, e in zip(updates, want, states, expected, strict=True):
        close(u, w)
        close(ema_values(s), e["ema"])


def test_the_updates_are_the_inner_ones_to_the_bit():
    equal(run(ema_params(MOMENTUM, 0.5))[0], run(MOMENTUM)[0])


def test_starts_at_the_parameters_in_a_buffer_of_its_own():
    state = ema_params(MOMENTUM, 0.9).init(PARAMS)
    equal(ema_values(state), PARAMS)
    assert all(e is not p for e, p in zip(*map(jax.tree.leaves, (ema_values(state), PARAMS)), strict=True))


def test_parameters_at_rest_leave_the_average_to_the_bit():
    tx = ema_params(jol.sgd(0.1), 0.999)
    states = run(tx, [jax.tree.map(jnp.zeros_like, PARAMS)] * 3)[2]
    equal(ema_values(states[-1]), PARAMS)


def test_a_bfloat16_model_is_averaged_in_float32():
    """In bfloat16 1 + 0.001·(2 − 1) is 1 again; the average would never move."""
    tx, p = ema_params(jol.sgd(1.0), 0.999), jnp.ones(2, jnp.bfloat16)
    state = tx.init(p)
    updates, state = tx.update(-p, state, p)
    p = jol.apply_updates(p, updates)

    def body(state, _):
        return tx.update(jnp.zeros_like(p), state, p)[1], None

    state, _ = jax.lax.scan(body, state, None, length=999)
    assert ema_values(state).dtype == jnp.float32
    np.testing.assert_allclose(ema_values(state), 2 - 0.999**1000, rtol=1e-5)
    assert ema_values(state, like=p).dtype == jnp.bfloat16


def test_it_averages_what_apply_updates_gives_in_the_parameters_dtype():
    p = jnp.bfloat16([256])
    tx = ema_params(jol.sgd(1.0), 0.0)
    updates, state = tx.update(jnp.float32([-0.5]), tx.init(p), p)
    assert ema_values(state).item() == float(jol.apply_updates(p, updates)[0]) == 256


def test_is_found_inside_other_states_and_only_once():
    tx = skip_nonfinite(jol.chain(jol.clip(1.0), accumulate(ema_params(MOMENTUM, 0.5), 2)))
    equal(ema_values(tx.init(PARAMS)), PARAMS)
    for wrong in (MOMENTUM.init(PARAMS), jol.chain(*[ema_params(MOMENTUM, 0.5)] * 2).init(PARAMS)):
        with pytest.raises(ValueError, match=r"ema_values: state holds [02] EmaParamsState, expected one"):
            ema_values(wrong)


def test_inside_accumulate_it_averages_once_per_real_step():
    states = run(accumulate(ema_params(MOMENTUM, 0.5), 2), GRADS[:4])[2]
    pair = oracles.accumulate(oracles.ema_params(MOMENTUM_ORACLE, 0.5), 2)
    _, _, expected = oracles.run(pair, wide(PARAMS), map(wide, GRADS[:4]))
    close(ema_values(states[-1]), expected[-1]["inner"]["ema"])


def test_equals_incremental_update():
    """optax's own way, a line of the user's loop."""
    _, path, states = run(ema_params(MOMENTUM, 0.75), GRADS[:4])
    average = PARAMS
    for p in path:
        average = optax.incremental_update(p, average, 0.25)
    close(ema_values(states[-1]), wide(average))


def test_none_and_python_numbers_and_one_trace():
    tx = ema_params(jol.sgd(0.5), 0.5)
    params = {"a": 1.0, "b": jnp.ones(2), "none": None}
    step = jax.jit(chex.assert_max_traces(tx.update, 1))
    state = tx.init(params)
    for _ in range(3):
        _, state = step({"a": jnp.float32(1), "b": None, "none": None}, state, params)
    assert ema_values(state)["none"] is None
    np.testing.assert_array_equal(ema_values(state)["b"], 1)
    np.testing.assert_allclose(ema_values(state)["a"], 0.5 + 0.5**4, rtol=1e-6)


def test_no_temporary_and_no_copy():
    used, copies = temporaries(ema_params(jol.adam(1e-3), 0.999))
    assert used < 0.05
    assert not copies


def test_errors():
    with pytest.raises(ValueError, match=r"ema_params: decay is 1.5, expected a number in"):
        ema_params(MOMENTUM, 1.5)
    with pytest.raises(ValueError, match=r"ema_params.update: params is None"):
        ema_params(MOMENTUM, 0.5).update(GRADS[0], ema_params(MOMENTUM, 0.5).init(PARAMS))
