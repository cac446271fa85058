"""Schedule-Free: the paper's three sequences, optax's numbers, the authors' code."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_lite as jol
from jaxopt_lite import optimizers
from tests.oracles import optimizers as first_order
from tests.oracles import optimizers_more as oracle
from tests.oracles.optimizers_check import (
    ALL,
    REAL,
    against_golden,
    against_optax,
    against_paper,
    data,
    same_signature,
    schedule,
)


def test_around_sgd_it_is_the_papers_and_optaxs():
    rate = 10.0  # large, so that what the parameters' own rounding adds is little of the way
    tx = optimizers.schedule_free(jol.sgd(rate), rate)
    against_paper(tx, lambda name: oracle.schedule_free(first_order.sgd(rate), rate), names=ALL, stored=16)
    against_optax(tx, optax.contrib.schedule_free(optax.sgd(rate), rate), names=ALL)


def test_around_adamw_with_a_schedule():
    options = {"b1": 0.0, "weight_decay": 0.1}
    tx = optimizers.schedule_free(jol.adamw(schedule, **options), schedule, b1=0.8, weight_lr_power=1.0)
    inner = first_order.adam(schedule, **options)
    against_paper(tx, lambda name: oracle.schedule_free(inner, schedule, 0.8, 1.0), names=REAL, stored=16)
    peer = optax.contrib.schedule_free(optax.adamw(schedule, **options), schedule, 0.8, 1.0)
    against_optax(tx, peer)


def test_sgd_and_adamw_are_the_authors():
    sgd = optimizers.schedule_free(jol.sgd(0.05), 0.05)
    evaluated = lambda state, params: optimizers.schedule_free_eval_params(state, params)
    against_golden(sgd, "optimizers_more.json", "schedule_free_sgd")
    against_golden(sgd, "optimizers_more.json", "schedule_free_sgd_eval", read=evaluated, rtol=1e-10)
    adamw = optimizers.schedule_free(jol.adamw(0.01, b1=0.0, weight_decay=0.1), 0.01)
    against_golden(adamw, "optimizers_more.json", "schedule_free_adamw")


def test_the_evaluated_parameters_are_the_average():
    params, grads = data()
    p, tx = params["kernel"], jol.chain(jol.clip(1e3), optimizers.schedule_free(jol.sgd(0.05), 0.05))
    rule, memory, y = oracle.schedule_free(first_order.sgd(0.05), 0.05), {}, np.float64(p)
    state, update = tx.init(p), jax.jit(tx.update)
    for t, g in enumerate(grads["kernel"][:20], start=1):
        u, state = update(g, state, p)
        p, y = jol.apply_updates(p, u), rule(t, y, np.float64(g), memory)
    got = optimizers.schedule_free_eval_params(state, p)
    np.testing.assert_allclose(got, memory["x"], rtol=1e-5, atol=1e-5)


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match=r"schedule_free: b1 is 0, expected a number in \(0, 1\]"):
        optimizers.schedule_free(jol.sgd(0.1), 0.1, b1=0)
    with pytest.raises(ValueError, match="state holds 0 ScheduleFreeState"):
        optimizers.schedule_free_eval_params(jol.sgd(0.1).init(jnp.ones(1)), jnp.ones(1))
    tx = optimizers.schedule_free(jol.sgd(0.1), 0.1)
    with pytest.raises(ValueError, match="params is None"):
        tx.update(jnp.ones(1), tx.init(jnp.ones(1)))


def test_signature():
    arguments = inspect.signature(optimizers.schedule_free).parameters
    assert list(arguments) == ["tx", "learning_rate", "b1", "weight_lr_power"]
    same_signature(optimizers.schedule_free_eval_params, optax.contrib.schedule_free_eval_params)
