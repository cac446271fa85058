"""No donated step copies a state array or holds more full-size temporaries than its formula needs."""

import re

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxopt_lite as jol
from jaxopt_lite import optimizers as opt
from jaxopt_lite.transformation import elementwise
from tests import users

SHAPE = (1024, 256)  # large beside every scalar and every row of factored moments

NOTHING = {
    "sgd": jol.sgd(1e-3),
    "momentum": jol.sgd(1e-3, 0.9),
    "nesterov": jol.sgd(1e-3, 0.9, nesterov=True),
    "adamw": jol.adamw(1e-3),
    "clip + adamw": jol.chain(jol.clip_by_global_norm(1.0), jol.adamw(1e-3)),
    "adabelief": opt.adabelief(1e-3),
    "adagrad": opt.adagrad(1e-3),
    "adam_mini": opt.adam_mini(1e-3),
    "adamaxw": opt.adamaxw(1e-3),
    "adan": opt.adan(1e-3, weight_decay=0.01),
    "ademamix": opt.ademamix(1e-3, weight_decay=0.01),
    "amsgrad": opt.amsgrad(1e-3),
    "dowg": opt.dowg(),
    "fromage": opt.fromage(1e-3),
    "lion": opt.lion(1e-4),
    "nadamw": opt.nadamw(1e-3),
    "novograd": opt.novograd(1e-3, weight_decay=0.01),
    "prodigy": opt.prodigy(weight_decay=0.01),
    "radam": opt.radam(1e-3),
    "rmsprop centered": opt.rmsprop(1e-3, centered=True, momentum=0.9),
    "rprop": opt.rprop(1e-3),
    "schedule_free": opt.schedule_free(opt.adamw(1e-3, b1=0.0), 1e-3),
    "schedule_free sgd": opt.schedule_free(opt.sgd(1e-3), 1e-3),
    "signum": opt.signum(1e-3),
    "yogi": opt.yogi(1e-3),
}

# One array that is used twice and too expensive to be computed twice: the direction before its norm is known, or
# (adadelta, sm3) a quotient that enters the state and the update.
ONE = {
    "adadelta": opt.adadelta(1e-3, weight_decay=0.01),
    "adafactor": opt.adafactor(1e-3),
    "lamb": opt.lamb(1e-3, weight_decay=0.01),
    "lars": opt.lars(1e-3, weight_decay=0.01),
    "mars": opt.mars(1e-3),
    "sm3": opt.sm3(1e-3),
}


def memory(tx, apply_updates=jol.apply_updates):
    """Copies of a whole leaf in the compiled step, and its temporaries in leaves."""
    compiled = users.compiled_step(tx, [jax.ShapeDtypeStruct(SHAPE, jnp.float32)], apply_updates)
    whole = rf"f32\[{SHAPE[0]},{SHAPE[1]}\]\S* copy\("
    leaf = 4 * SHAPE[0] * SHAPE[1]
    return len(re.findall(whole, compiled.as_text())), compiled.memory_analysis().temp_size_in_bytes / leaf


@pytest.mark.parametrize("name", NOTHING)
def test_every_array_is_overwritten_in_place(name):
    copies, temporaries = memory(NOTHING[name])
    assert copies == 0
    assert temporaries < 0.05


@pytest.mark.parametrize("name", ONE)
def test_one_temporary_where_a_value_is_needed_twice(name):
    copies, temporaries = memory(ONE[name])
    assert copies == 0
    assert temporaries < 1.05


@pytest.mark.cpu
def test_copies_and_temporaries_are_seen_where_they_are():
    """Lion written from the old moment, and a clipped gradient that is stored, both as in optax 0.2.8."""

    def from_the_old_moment(g, p, s, mu):
        return jnp.sign(0.9 * mu + 0.1 * g), 0.99 * mu + 0.01 * g

    copies, temporaries = memory(elementwise(from_the_old_moment, optax.TraceState))
    assert copies + temporaries >= 1
    clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    assert memory(clipped, optax.apply_updates)[1] >= 1
