"""Hyperparameters in the state: no recompilation, sweeps under vmap, every optimizer."""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_lite as jol
from jaxopt_lite import optimizers
from jaxopt_lite.wrappers.hyperparams import TunableState, get_hyperparams, set_hyperparams, tunable
from tests.oracles.optimizers_check import mask

FACTORIES = sorted(
    name
    for name in optimizers.__all__
    if "learning_rate" in inspect.signature(getattr(optimizers, name)).parameters
    and not name.startswith("scale_by")
    and name not in ("rprop", "schedule_free")  # tested below
)
P = jnp.array([[1.0, -2.0, 3.0], [0.5, 0.25, -1.0]])
G = jnp.array([[0.1, 0.2, -0.3], [1.0, -0.4, 0.5]])
RATES = (0.01, 0.3)


def loss(p):
    return jnp.vdot(G, p) + jnp.vdot(p, p) / 2


def walk(tx, state):
    """The parameters after three steps."""
    p = P
    for _ in range(3):
        u, state = tx.update(jax.grad(loss)(p), state, p, obj_fn=loss)
        p = jol.apply_updates(p, u)
    return p


@pytest.mark.parametrize("name", FACTORIES)
def test_a_sweep_under_vmap_is_as_good_as_runs_with_floats(name):
    """Every optimizer takes its learning rate, and its weight decay where it has one, from the state."""
    factory = getattr(optimizers, name)
    decays = "weight_decay" in inspect.signature(factory).parameters
    extra = {"weight_decay": 0.1} if decays else {}
    tx = tunable(factory, learning_rate=RATES[0], **extra)

    @jax.jit
    def both(rates):
        sweep = jax.vmap(lambda rate: walk(tx, set_hyperparams(tx.init(P), learning_rate=rate)))(rates)
        plain = [factory(rate, **extra) for rate in RATES]
        return sweep, jnp.stack([walk(fixed, fixed.init(P)) for fixed in plain])

    swept, plain = both(jnp.array(RATES))
    np.testing.assert_allclose(swept, plain, rtol=1e-4, atol=1e-6)
    assert np.max(np.abs(swept[0] - swept[1])) > 1e-6


def test_the_learning_rate_of_rprop_is_its_first_step():
    """It is read by ``init`` alone, so a sweep starts from there."""
    first = lambda rate: tunable(optimizers.rprop, learning_rate=rate).init(P).inner[0].step_sizes[0, 0]
    np.testing.assert_array_equal(jax.vmap(first)(jnp.array(RATES)), jnp.array(RATES))


def test_schedule_free_takes_both_of_its_learning_rates():
    make = lambda rate: optimizers.schedule_free(jol.sgd(rate), rate)
    tx = tunable(lambda learning_rate: make(learning_rate), learning_rate=0.5)
    np.testing.assert_allclose(walk(tx, tx.init(P)), walk(make(0.5), make(0.5).init(P)), rtol=1e-6)


def test_changing_a_value_does_not_recompile():
    tx = tunable(functools.partial(jol.adamw, mask=mask), learning_rate=0.1, weight_decay=0.0, b1=0.9)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(state):
        return tx.update(jnp.ones((1, 2)), state, jnp.ones((1, 2)))

    state = tx.init(jnp.ones((1, 2)))
    for rate, decay in ((0.1, 0.0), (0.2, 1.0), (0.0, 5.0)):
        u, state = step(set_hyperparams(state, learning_rate=rate, weight_decay=decay))
        np.testing.assert_allclose(u, -rate * (1 + decay), rtol=1e-5)


def test_values_are_float32_scalars_in_buffers_of_their_own():
    rate = jnp.float32(0.1)
    state = tunable(jol.adam, learning_rate=rate, b1=0.5).init(jnp.ones(2, jnp.bfloat16))
    assert {k: (v.dtype, v.shape) for k, v in state.hyperparams.items()} == {
        "learning_rate": (jnp.float32, ()),
        "b1": (jnp.float32, ()),
    }
    assert state.hyperparams["learning_rate"].unsafe_buffer_pointer() != rate.unsafe_buffer_pointer()


def test_decays_near_1_survive_bfloat16_parameters():
    """As bfloat16 numbers 0.999 and 1 are the same."""
    tx = tunable(jol.adam, learning_rate=0.5, b2=0.999)
    p = jnp.ones(2, jnp.bfloat16)
    u, _ = tx.update(p, tx.init(p), p)
    assert u.tolist() == [-0.5, -0.5]


def test_values_inside_a_chain_and_in_each_other():
    inner = tunable(jol.sgd, learning_rate=0.1)
    tx = jol.chain(tunable(jol.clip, max_delta=1.0), inner)
    state = tx.init(jnp.ones(1))
    assert get_hyperparams(state).keys() == {"max_delta", "learning_rate"}
    u, _ = tx.update(jnp.array([5.0]), set_hyperparams(state, max_delta=3.0, learning_rate=1.0))
    assert u.tolist() == [-3.0]
    nested = TunableState({"outer": jnp.float32(1)}, state)
    assert set_hyperparams(nested, max_delta=2.0).inner[0].hyperparams["max_delta"] == 2


def test_it_is_a_value():
    tx = tunable(jol.adam, learning_rate=0.1)
    assert tx == tunable(jol.adam, learning_rate=0.1) != tunable(jol.adam, learning_rate=0.2)
    assert "learning_rate=0.1" in repr(tx)


def test_foreign_factories_and_extra_arguments():
    tx = tunable(optax.sgd, learning_rate=0.5)
    u, _ = tx.update(jnp.ones(1), tx.init(jnp.ones(1)), jnp.ones(1), unknown=1)
    assert u.tolist() == [-0.5]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: tunable(jol.adam, rate=0.1),
            TypeError,
            "adam has no argument 'rate', only learning_rate, b1",
        ),
        (
            lambda: tunable(jol.sgd, learning_rate=0.1, nesterov=True),
            TypeError,
            "nesterov is True, expected a number",
        ),
        (lambda: tunable(jol.sgd, learning_rate=lambda step: 0.1), TypeError, "bind it with functools"),
        (lambda: get_hyperparams(jol.sgd(0.1).init(jnp.ones(1))), ValueError, "holds no hyperparameters"),
        (lambda: set_hyperparams(STATE, b1=0.5), ValueError, "no hyperparameter 'b1', expected one of"),
        (
            lambda: set_hyperparams(STATE, learning_rate=jnp.ones(2)),
            ValueError,
            r"shape \(2,\), expected \(\)",
        ),
        (lambda: get_hyperparams((STATE, STATE)), ValueError, "stand in more than one tunable"),
    ],
)
def test_errors_say_what_is_wrong(call, error, message):
    with pytest.raises(error, match=message):
        call()


STATE = tunable(jol.sgd, learning_rate=0.1).init(jnp.ones(1))
