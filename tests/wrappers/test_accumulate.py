"""Accumulation is the large batch to float32 rounding; the inner state moves on real steps only."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_lite as jol
from jaxopt_lite.wrappers import accumulate, skip_nonfinite
from tests.oracles import wrappers as oracles
from tests.wrappers.common import (
    GRADS,
    MOMENTUM,
    MOMENTUM_ORACLE,
    PARAMS,
    close,
    emits_float32,
    equal,
    full,
    needs_value,
    run,
    spoiled,
    temporaries,
    wide,
)


def test_equals_its_oracle():
    updates, path, states = run(accumulate(MOMENTUM, 3))
    pair = oracles.accumulate(MOMENTUM_ORACLE, 3)
    want, points, _ = oracles.run(pair, wide(PARAMS), map(wide, GRADS))
    for u, w, p, q in zip(updates, want, path, points, strict=True):
        close(u, w)
        close(p, q)
    assert [int(s.mini_step) for s in states] == [1, 2, 0, 1, 2, 0, 1, 2]
    assert [int(s.gradient_step) for s in states] == [0, 0, 1, 1, 1, 2, 2, 2]


DATA = jnp.asarray(np.random.default_rng(2).normal(size=(12, 4)), jnp.float32)
SLOPE = jax.jit(jax.grad(lambda w, x: jnp.mean((jnp.tanh(x @ w) - 1) ** 2)))
START = jnp.asarray([0.3, -1.0, 0.5, 2.0])


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6, 12])
def test_equals_the_large_batch_to_rounding(steps):
    """The mean of float32 sums: off by half an ulp a sum. The one parameter here moves by the mean itself."""
    tx = accumulate(jol.sgd(1.0), steps)
    parts = [SLOPE(START, part) for part in jnp.split(DATA, steps)]
    state = tx.init(START)
    for part in parts:
        update, state = tx.update(part, state, START)
    exact = np.mean(np.stack([np.float64(part) for part in parts]), axis=0)
    size = np.mean(np.abs(np.stack(parts)), axis=0)
    np.testing.assert_array_less(np.abs(np.float64(update) + exact), (steps + 1) * 2.0**-24 * size + 1e-45)
    np.testing.assert_allclose(update, -SLOPE(START, DATA), rtol=1e-5, atol=1e-7)


def test_equals_what_make_step_accumulates():
    loss = lambda w, x: jnp.mean((jnp.tanh(x @ w) - 1) ** 2)
    step = jol.make_step(loss, MOMENTUM, accumulate=3, donate=False)
    want, *_ = step(START, MOMENTUM.init(START), DATA)
    tx, w = accumulate(MOMENTUM, 3), START
    state = tx.init(w)
    for part in (DATA[0::3], DATA[1::3], DATA[2::3]):
        updates, state = tx.update(SLOPE(w, part), state, w)
        w = jol.apply_updates(w, updates)
    np.testing.assert_allclose(w, want, rtol=1e-6)


def test_inner_state_is_untouched_to_the_bit_between_real_steps():
    """Weight decay and step counts wait too."""
    tx = accumulate(jol.adamw(0.1, weight_decay=0.5), 4)
    updates, _, states = run(tx, GRADS[:5])
    start = tx.init(PARAMS).inner_opt_state
    for u, s in zip(updates[:3], states[:3], strict=True):
        equal(u, full(PARAMS, 0))
        equal(s.inner_opt_state, start)
    assert [int(s.inner_opt_state[0].count) for s in states] == [0, 0, 0, 1, 1]
    equal(states[4].inner_opt_state, states[3].inner_opt_state)


@pytest.mark.parametrize("jit", [True, False])
def test_a_nan_spoils_its_own_window_only(jit):
    """optax's MultiSteps multiplies its sum by 0, and NaN·0 is NaN for ever."""
    grads = [GRADS[0], spoiled(GRADS[1]), *GRADS[2:6]]
    updates, _, states = run(accumulate(jol.sgd(0.1), 2), grads, jit=jit)
    clean, _, _ = run(accumulate(jol.sgd(0.1), 2), GRADS[:6], jit=jit)
    assert np.isnan(updates[1]["bias"]).any()
    for k in (2, 3, 4, 5):
        equal(updates[k], clean[k])
    assert all(np.isfinite(x).all() for x in wide(states[-1]))
    theirs = optax.MultiSteps(optax.sgd(0.1), 2)
    state = theirs.init(PARAMS)
    for g in grads[:4]:
        u, state = theirs.update(g, state, PARAMS)
    assert np.isnan(u["bias"]).any(), "optax has mended this: say so in the docstring"


def test_skip_nonfinite_around_it_drops_one_micro_gradient():
    grads = [GRADS[0], spoiled(GRADS[1], jnp.inf), *GRADS[1:4]]
    got = run(skip_nonfinite(accumulate(MOMENTUM, 2)), grads)[1]
    want = run(accumulate(MOMENTUM, 2), GRADS[:4])[1]
    equal(got[-1], want[-1])


def test_equals_multi_steps():
    updates, _, _ = run(accumulate(jol.adam(0.1), 3))
    theirs = optax.MultiSteps(optax.adam(0.1), 3)
    want, _, _ = run(theirs.gradient_transformation())
    for u, w in zip(updates, want, strict=True):
        close(u, wide(w), rtol=1e-5)


def test_extra_arguments_reach_the_inner_transformation_inside_a_chain():
    tx = jol.chain(accumulate(needs_value(), 2), optax.identity())
    state = tx.init(PARAMS)
    _, state = tx.update(GRADS[0], state, PARAMS, value=jnp.float32(5.0))
    updates, _ = tx.update(GRADS[0], state, PARAMS, value=jnp.float32(2.0))
    close(updates, [-2 * g for g in wide(GRADS[0])])
    theirs = optax.chain(optax.MultiSteps(needs_value(), 2).gradient_transformation())
    with pytest.raises(TypeError):
        theirs.update(GRADS[0], theirs.init(PARAMS), PARAMS, value=2.0)


def test_the_number_of_steps_may_be_a_function_of_the_real_steps_so_far():
    growing = accumulate(jol.sgd(1.0), lambda step: 1 + step)
    updates, _, states = run(growing, GRADS[:6])
    assert [int(s.mini_step) for s in states] == [0, 1, 0, 1, 2, 0]
    g = [wide(x) for x in GRADS[:6]]
    means = [g[0], None, [sum(x) / 2 for x in zip(*g[1:3], strict=True)], None, None]
    means.append([sum(x) / 3 for x in zip(*g[3:6], strict=True)])
    for u, mean in zip(updates, means, strict=True):
        close(u, [np.zeros_like(x) for x in g[0]] if mean is None else [-x for x in mean])


def test_16_bit_gradients_are_summed_in_float32_and_reach_the_inner_one_so():
    """bfloat16 sums of ones stand still at 256; the mean of 1 … 1.5 needs more than its 8 bits."""
    seen = []
    keep = lambda g, s, p=None: (seen.append(g), (jax.tree.map(jnp.negative, g), s))[1]
    tx = accumulate(optax.GradientTransformation(lambda p: (), keep), 512)
    grads = jnp.linspace(1, 1.5, 512).astype(jnp.bfloat16)
    params = jnp.zeros((), jnp.bfloat16)

    def body(state, g):
        updates, state = tx.update(g, state, params)
        return state, updates

    state, updates = jax.lax.scan(body, tx.init(params), grads)
    assert {g.dtype for g in seen} == {
        jnp.dtype(jnp.bfloat16),
        jnp.dtype(jnp.float32),
    }  # shapes first, then values
    assert updates.dtype == jnp.bfloat16
    mean = np.mean(np.float64(grads))
    np.testing.assert_allclose(state.acc_grads, 512 * mean, rtol=1e-6)
    np.testing.assert_allclose(np.float64(updates[-1]), -mean, rtol=2**-8)


def test_updates_that_are_float32_on_purpose_stay_so():
    low = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    tx = accumulate(emits_float32(), 2)
    state = tx.init(low)
    for _ in range(2):
        updates, state = tx.update(low, state, low)
        assert updates["bias"].dtype == jnp.float32


def test_none_stays_none():
    params = {"a": PARAMS["bias"], "b": PARAMS["bias"], "c": None}
    grads = {"a": GRADS[0]["bias"], "b": None, "c": None}
    tx = accumulate(MOMENTUM, 2)
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update(grads, state, params)
    assert updates["b"] is None
    np.testing.assert_allclose(updates["a"], -0.125 * grads["a"], rtol=1e-6)


def test_counts_saturate():
    tx = accumulate(MOMENTUM, 2)
    top = jnp.int32(2**31 - 1)
    state = tx.init(PARAMS)._replace(mini_step=top, gradient_step=top)
    _, state = tx.update(GRADS[0], state, PARAMS)
    assert (int(state.mini_step), int(state.gradient_step)) == (0, 2**31 - 1)


def test_waiting_costs_one_temporary_and_no_copy_of_the_state():
    used, copies = temporaries(accumulate(jol.adam(1e-3), 4))
    assert used < 1.05
    assert not copies


def test_tree_map_params_finds_the_sums():
    tx = accumulate(MOMENTUM, 2)
    marked = optax.tree_utils.tree_map_params(
        tx, lambda x: "p", tx.init(PARAMS), transform_non_params=lambda x: "n"
    )
    assert (marked.mini_step, marked.acc_grads) == ("n", {"bias": "p", "kernel": "p"})


def test_prints_compares_and_checks():
    assert repr(accumulate(jol.sgd(0.1), 2)) == "accumulate(tx=sgd(learning_rate=0.1), steps=2)"
    assert accumulate(jol.sgd(0.1), 2) == accumulate(jol.sgd(0.1), steps=2) != accumulate(jol.sgd(0.1), 3)
    for wrong in (0, -1, 1.5, None):
        with pytest.raises(ValueError, match=r"accumulate: steps is .*, expected an integer of at least 1"):
            accumulate(jol.sgd(0.1), wrong)
    with pytest.raises(TypeError, match="accumulate: tx is the function 'sgd'"):
        accumulate(jol.sgd, 2)
    tx = accumulate(jol.sgd(0.1), 2)
    with pytest.raises(ValueError, match=r"accumulate.update: updates\['bias'\] has shape \(\)"):
        tx.update({**GRADS[0], "bias": jnp.ones(())}, tx.init(PARAMS), PARAMS)
