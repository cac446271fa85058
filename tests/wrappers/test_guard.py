"""Steps that are not finite leave no trace; the loss scale follows the paper's rule."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_lite as jol
from jaxopt_lite.wrappers import accumulate, dynamic_loss_scale, loss_scale, skip_nonfinite
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

MIXED = [GRADS[0], spoiled(GRADS[1]), spoiled(GRADS[2], -jnp.inf), GRADS[3], full(PARAMS, jnp.nan), GRADS[4]]


@pytest.mark.parametrize("jit", [True, False])
def test_skip_nonfinite_equals_its_oracle_and_leaves_no_trace(jit):
    updates, path, states = run(skip_nonfinite(MOMENTUM), MIXED, jit=jit)
    with np.errstate(invalid="ignore"):
        want, points, expected = oracles.run(
            oracles.skip_nonfinite(MOMENTUM_ORACLE), wide(PARAMS), map(wide, MIXED)
        )
    for u, w, p, q, s, e in zip(updates, want, path, points, states, expected, strict=True):
        close(u, w)
        close(p, q)
        assert (int(s.notfinite_count), int(s.total_notfinite), bool(s.last_finite)) == (
            e["row"],
            e["total"],
            e["row"] == 0,
        )
    equal(updates[1], full(PARAMS, 0))
    equal(states[2].inner_state, states[0].inner_state)
    clean = run(MOMENTUM, [GRADS[0], GRADS[3], GRADS[4]], jit=jit)
    equal(path[-1], clean[1][-1])
    equal(states[-1].inner_state, clean[2][-1])


def overflowing():
    """A foreign transformation whose update can be infinite for finite gradients."""
    update = lambda g, s, p=None: (jax.tree.map(lambda x: x * 1e30, g), s + 1)
    return optax.GradientTransformation(lambda params: jnp.zeros([], jnp.int32), update)


def test_an_infinite_update_of_finite_gradients_is_skipped_too():
    """optax's apply_if_finite looks at the gradients only: it lets the infinity through."""
    grads = [full(PARAMS, 1e10), full(PARAMS, 1.0)]
    updates, _, states = run(skip_nonfinite(overflowing()), grads)
    equal(updates[0], full(PARAMS, 0))
    close(updates[1], [p * 0 + 1e30 for p in wide(PARAMS)])
    assert [int(s.inner_state) for s in states] == [0, 1]
    theirs = optax.apply_if_finite(overflowing(), 5)
    assert np.isinf(theirs.update(grads[0], theirs.init(PARAMS), PARAMS)[0]["bias"]).all()


def test_gives_up_after_so_many_in_a_row():
    bad = full(PARAMS, jnp.nan)
    grads = [bad, bad, GRADS[0], bad, bad, bad]
    updates, _, states = run(skip_nonfinite(jol.sgd(0.1), 2), grads)
    assert [bool(np.isnan(u["bias"]).any()) for u in updates] == [False] * 5 + [True]
    assert [int(s.notfinite_count) for s in states] == [1, 2, 0, 1, 2, 3]
    theirs, _, counts = run(optax.apply_if_finite(optax.sgd(0.1), 2), grads)
    for u, t, s, c in zip(updates, theirs, states, counts, strict=True):
        np.testing.assert_allclose(u["bias"], t["bias"], rtol=1e-6)
        for field in ("notfinite_count", "last_finite", "total_notfinite"):
            np.testing.assert_array_equal(getattr(s, field), getattr(c, field))
    assert np.isnan(run(skip_nonfinite(jol.sgd(0.1), 0), [bad])[0][0]["bias"]).all()


def test_an_inner_state_that_a_hidden_infinity_would_poison_is_kept():
    """Clipping hides the infinity from the update; the momentum before it would hold it for ever."""
    tx = skip_nonfinite(jol.chain(optax.trace(0.9), jol.clip(1.0)))
    updates, _, states = run(tx, [spoiled(GRADS[0], jnp.inf), GRADS[1]])
    equal(updates[0], full(PARAMS, 0))
    close(updates[1], [np.clip(g, -1, 1) for g in wide(GRADS[1])])
    assert int(states[1].total_notfinite) == 1


def test_skip_under_vmap_skips_only_the_replica_concerned():
    tx = skip_nonfinite(MOMENTUM)
    both = jax.tree.map(lambda *g: jnp.stack(g), GRADS[0], spoiled(GRADS[1]))
    states = jax.vmap(lambda _: tx.init(PARAMS))(jnp.arange(2))
    updates, states = jax.jit(jax.vmap(tx.update, (0, 0, None)))(both, states, PARAMS)
    assert states.total_notfinite.tolist() == [0, 1]
    close(updates, [np.stack([-0.125 * g, 0 * g]) for g in wide(GRADS[0])])


def test_skipping_makes_no_copy_of_the_state():
    used, copies = temporaries(skip_nonfinite(jol.adam(1e-3)))
    assert used < 1.6  # the update, and a byte per entry while it is looked at
    assert not copies


def test_counts_saturate():
    top = jnp.int32(2**31 - 1)
    tx = skip_nonfinite(MOMENTUM)
    state = tx.init(PARAMS)._replace(notfinite_count=top, total_notfinite=top)
    _, state = tx.update(spoiled(GRADS[0]), state, PARAMS)
    assert int(state.notfinite_count) == int(state.total_notfinite) == 2**31 - 1
    tx = dynamic_loss_scale(MOMENTUM)
    state = tx.init(PARAMS)._replace(skipped=top)
    _, state = tx.update(spoiled(GRADS[0]), state, PARAMS)
    assert int(state.skipped) == 2**31 - 1


@pytest.mark.parametrize("wrap", [skip_nonfinite, dynamic_loss_scale])
def test_extra_arguments_none_and_integer_leaves_pass(wrap):
    tx = wrap(needs_value())
    grads = {"a": jnp.ones(2), "none": None}
    updates, _ = tx.update(grads, tx.init(grads), grads, value=3.0)
    assert updates["none"] is None
    updates, _ = tx.update({**grads, "a": jnp.float32([jnp.nan, 1])}, tx.init(grads), grads, value=3.0)
    np.testing.assert_array_equal(updates["a"], 0)


# dynamic_loss_scale


def scaled_run(tx, grads, jit=True):
    """Gradients of the loss times its scale; rounded to float16 on the way where they are."""
    update = jax.jit(tx.update) if jit else tx.update
    params, state, updates, states = PARAMS, tx.init(PARAMS), [], []
    for g in grads:
        scale = loss_scale(state)
        scaled = jax.tree.map(lambda x, scale=scale: (x * scale).astype(x.dtype), g)
        u, state = update(scaled, state, params)
        params = optax.apply_updates(params, u)
        updates.append(u)
        states.append(state)
    return updates, states


@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("factor", [2.0, 3.0])
def test_dynamic_loss_scale_equals_its_oracle(factor, jit):
    grads = [*GRADS[:4], spoiled(GRADS[0]), spoiled(GRADS[1], jnp.inf), *GRADS[4:8]]
    tx = dynamic_loss_scale(MOMENTUM, initial=8.0, factor=factor, period=3)
    updates, states = scaled_run(tx, grads, jit)
    pair = oracles.dynamic_loss_scale(MOMENTUM_ORACLE, 8.0, factor, 3)
    ps, state = wide(PARAMS), pair.init(wide(PARAMS))
    for g, u, s in zip(grads, updates, states, strict=True):
        us, state = pair.update([state["scale"] * x for x in wide(g)], state, ps)
        ps = [p + x for p, x in zip(ps, us, strict=True)]
        close(u, us)
        np.testing.assert_allclose(s.scale, state["scale"], rtol=1e-6)
        assert (int(s.good_steps), int(s.skipped)) == (state["good"], state["skipped"])
    equal(states[5].inner_state, states[3].inner_state)
    equal(updates[4], full(PARAMS, 0))


def test_a_power_of_two_changes_nothing_to_the_bit():
    equal(scaled_run(dynamic_loss_scale(MOMENTUM), GRADS[:3])[0], run(MOMENTUM, GRADS[:3])[0])


def test_float16_gradients_too_small_for_float16_reach_the_inner_one_in_float32():
    """1e-8 is 0 in float16, and so is the quotient of a gradient of 2¹⁵·1e-8 unless it is taken in float32."""
    seen = []
    keep = lambda g, s, p=None: (seen.append(g), (g, s))[1]
    tx = dynamic_loss_scale(optax.GradientTransformation(lambda p: (), keep))
    state = tx.init(jnp.zeros(1, jnp.float16))
    g = (jnp.float16([1e-3]).astype(jnp.float32) * 1e-5 * loss_scale(state)).astype(jnp.float16)
    updates, _ = tx.update(g, state)
    assert updates.dtype == jnp.float16
    assert seen[-1].dtype == jnp.float32
    np.testing.assert_allclose(seen[-1], 1e-8, rtol=1e-2)


def test_updates_that_are_float32_on_purpose_stay_so():
    low = jnp.ones(2, jnp.float16)
    for tx in (dynamic_loss_scale(emits_float32()), skip_nonfinite(emits_float32())):
        for g in (low, low * jnp.inf):
            assert tx.update(g, tx.init(low), low)[0].dtype == jnp.float32


def test_the_scale_stops_at_both_ends():
    tx = dynamic_loss_scale(MOMENTUM, initial=4.0, period=1)
    bad, state = full(PARAMS, jnp.inf), tx.init(PARAMS)
    scales = []
    for _ in range(4):
        _, state = tx.update(bad, state, PARAMS)
        scales.append(state.scale.item())
    assert scales == [2, 1, 1, 1]
    _, low = tx.update(bad, state._replace(scale=jnp.float32(0.25)), PARAMS)
    assert low.scale == 0.25, "it never grows on overflow"
    _, high = tx.update(GRADS[0], state._replace(scale=jnp.float32(2.0**127)), PARAMS)
    assert high.scale == 2.0**127
    free = dynamic_loss_scale(MOMENTUM, initial=1.0, minimum=2.0**-10)
    assert free.update(bad, free.init(PARAMS), PARAMS)[1].scale == 0.5


def test_training_in_float16_that_fails_without_it():
    """The slope of 1e-6·w² underflows in float16; scaled, the sixteen-bit backward pass keeps it."""
    loss = lambda w: jnp.sum((w.astype(jnp.float16) * jnp.float16(1e-3)) ** 2, dtype=jnp.float16)
    tx, w = dynamic_loss_scale(jol.adam(0.1, eps=1e-12)), jnp.float32([0.01])
    assert jax.grad(loss)(w).item() == 0

    @chex.assert_max_traces(1)
    def step(w, state):
        grads = jax.grad(lambda w: loss(w) * loss_scale(state))(w)
        updates, state = tx.update(grads, state, w)
        return jol.apply_updates(w, updates), state

    step, state = jax.jit(step), tx.init(w)
    w, state = step(w, state)
    np.testing.assert_allclose(w, 0.01 - 0.1, rtol=1e-3)
    step(w, state)


def test_the_scale_is_found_inside_other_states():
    tx = jol.chain(jol.clip(1.0), accumulate(dynamic_loss_scale(MOMENTUM, initial=64.0), 2))
    assert loss_scale(tx.init(PARAMS)) == 64
    with pytest.raises(ValueError, match="loss_scale: state holds 0 LossScaleState, expected one"):
        loss_scale(MOMENTUM.init(PARAMS))


def test_scaling_costs_one_temporary_and_no_copy():
    used, copies = temporaries(dynamic_loss_scale(jol.adam(1e-3)))
    assert used < 1.6
    assert not copies


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: dynamic_loss_scale(MOMENTUM, factor=1.0),
            "dynamic_loss_scale: factor is 1.0, expected a number in",
        ),
        (
            lambda: dynamic_loss_scale(MOMENTUM, initial=0),
            "dynamic_loss_scale: initial is 0, expected a number in",
        ),
        (
            lambda: dynamic_loss_scale(MOMENTUM, period=0),
            "dynamic_loss_scale: period is 0, expected an integer of at",
        ),
        (
            lambda: dynamic_loss_scale(MOMENTUM, minimum=0),
            "dynamic_loss_scale: minimum is 0, expected a number in",
        ),
        (lambda: skip_nonfinite(MOMENTUM, -1), "skip_nonfinite: max_consecutive is -1, expected a number in"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
