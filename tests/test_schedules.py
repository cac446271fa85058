"""Schedules against their formulas in float64: both ends exact, every step in between to a few ulp, 2³¹ steps."""

import inspect
import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_lite as jol
from jaxopt_lite import schedules

LAST = 2**31 - 1


def fraction(step, steps):
    return np.clip(step / steps, 0, 1) if steps else np.ones_like(step)


def half_cosine(x, start, end):
    """From start to end; sin² of the rest of the way, since 1 + cos loses all digits near the end."""
    return end + (start - end) * np.sin(np.pi / 2 * (1 - x)) ** 2


def straight(x, start, end):
    return start * (1 - x) + end * x


def oracles(n):
    """name: (schedule, formula in float64), with lengths that scale with n."""
    a, b, c = n // 5, n // 2, n - n // 5
    return {
        "constant": (schedules.constant(0.3), lambda s: np.full(s.shape, 0.3)),
        "linear up": (schedules.linear(0.0, 0.7, n), lambda s: straight(fraction(s, n), 0, 0.7)),
        "linear down": (schedules.linear(0.7, 0.0, n), lambda s: straight(fraction(s, n), 0.7, 0)),
        "linear": (schedules.linear(0.5, 2.0, n), lambda s: straight(fraction(s, n), 0.5, 2)),
        "polynomial": (
            schedules.polynomial(0.7, 0.1, 2.0, n),
            lambda s: 0.1 + 0.6 * (1 - fraction(s, n)) ** 2,
        ),
        "exponential": (schedules.exponential(0.7, 0.5, n), lambda s: 0.7 * 0.5 ** (s / n)),
        "cosine": (schedules.cosine(0.7, n), lambda s: half_cosine(fraction(s, n), 0.7, 0)),
        "cosine to 0.1": (
            schedules.cosine(0.7, n, end_value=0.1),
            lambda s: half_cosine(fraction(s, n), 0.7, 0.1),
        ),
        "inverse_sqrt": (
            schedules.inverse_sqrt(0.7, a),
            lambda s: 0.7 * np.where(s < a, s / a, np.sqrt(a / np.maximum(s, 1))),
        ),
        "piecewise_constant": (
            schedules.piecewise_constant(1.0, {b: 0.25, a: 0.5}),
            lambda s: np.where(s < a, 1, np.where(s < b, 0.5, 0.25)),
        ),
        "one_cycle": (
            schedules.one_cycle(0.7, n, pct_start=0.5),
            lambda s: np.where(
                s < b,
                half_cosine(fraction(s, b), 0.7 / 25, 0.7),
                half_cosine(fraction(s - b, n - b), 0.7, 0.7 / 25 / 1e4),
            ),
        ),
        "warmup_cosine": (
            schedules.warmup_cosine(0.7, warmup_steps=a, decay_steps=n),
            lambda s: np.where(
                s < a, straight(fraction(s, a), 0, 0.7), half_cosine(fraction(s - a, n - a), 0.7, 0)
            ),
        ),
        "warmup_stable_decay": (
            schedules.warmup_stable_decay(0.7, warmup_steps=a, stable_steps=b - a, decay_steps=n - b),
            lambda s: np.where(
                s < a, straight(fraction(s, a), 0, 0.7), straight(fraction(s - b, n - b), 0.7, 0)
            ),
        ),
        "join": (
            schedules.join([schedules.linear(0.0, 1.0, a), schedules.cosine(1.0, c)], [a]),
            lambda s: np.where(s < a, fraction(s, a), half_cosine(fraction(s - a, c), 1, 0)),
        ),
    }


NAMES = list(oracles(10))
LENGTHS = (10, 1000, 1_000_000, LAST - 1)


@pytest.mark.parametrize("name", NAMES)
def test_equals_the_formula_at_every_length(name):
    for n in LENGTHS:
        s, formula = oracles(n)[name]
        near = np.array([0, 1, 2, 3, n // 5, n // 5 + 1, n // 2, n // 2 + 1, n - 2, n - 1, n, n + 1])
        steps = np.unique(np.concatenate([near, np.linspace(0, n, 9).astype(np.int64)]))
        got = s(jnp.asarray(steps, jnp.int32))
        assert got.dtype == jnp.float32
        assert got.shape == steps.shape
        np.testing.assert_allclose(got, formula(steps.astype(np.float64)), rtol=2e-6, err_msg=f"{n} steps")


ENDS = [
    (schedules.linear(0.1, 0.9, 7), 0.1, 0.9, 7),
    (schedules.linear(0.1, 0.9, 0), 0.9, 0.9, 0),
    (schedules.linear(1e-3, 3e-5, LAST), 1e-3, 3e-5, LAST),
    (schedules.linear(1e-3, 3e-5, 2**31), 1e-3, 3e-5, LAST),
    (schedules.polynomial(0.1, 0.9, 3.0, 7), 0.1, 0.9, 7),
    (schedules.polynomial(0.3, 0.7, 1.5, 2**31), 0.3, 0.7, LAST),
    (schedules.cosine(0.1, 7, end_value=0.03), 0.1, 0.03, 7),
    (schedules.cosine(0.1, 0, end_value=0.03), 0.03, 0.03, 0),
    (schedules.cosine(0.1, 2**31, end_value=0.03), 0.1, 0.03, LAST),
    (schedules.exponential(0.3, 0.1, 1), 0.3, 0.03, 1),
    (schedules.inverse_sqrt(0.7, 5), 0.0, 0.7, 5),
    (schedules.inverse_sqrt(0.7, 0), 0.7, 0.7, 0),
    (schedules.one_cycle(0.7, 11), 0.7 / 25, 0.7 / 25 / 1e4, 11),
    (schedules.one_cycle(0.7, 0), 0.7 / 25 / 1e4, 0.7 / 25 / 1e4, 0),
    (schedules.warmup_cosine(0.7, warmup_steps=0, decay_steps=9, end_value=0.1), 0.7, 0.1, 9),
    (schedules.warmup_cosine(0.7, warmup_steps=3, decay_steps=9, init_value=0.2), 0.2, 0.7, 3),
    (schedules.warmup_cosine(0.7, warmup_steps=2**30, decay_steps=2**31, end_value=0.1), 0.0, 0.1, LAST),
    (schedules.warmup_stable_decay(0.7, warmup_steps=0, stable_steps=0, decay_steps=4), 0.7, 0.0, 4),
    (
        schedules.warmup_stable_decay(0.7, warmup_steps=0, stable_steps=3, decay_steps=0, end_value=0.2),
        0.7,
        0.2,
        3,
    ),
    (
        schedules.warmup_stable_decay(0.7, warmup_steps=2**30, stable_steps=2**30, decay_steps=5),
        0.0,
        0.7,
        LAST,
    ),
    (schedules.piecewise_constant(0.1, {}), 0.1, 0.1, 3),
    (schedules.piecewise_constant(0.1, {0: 0.3}), 0.3, 0.3, 0),
    (schedules.piecewise_constant(0.1, {2**31: 0.3}), 0.1, 0.1, LAST),
    (schedules.join([schedules.constant(0.1)], []), 0.1, 0.1, 5),
    (schedules.join([schedules.constant(0.1), schedules.constant(0.2)], [2**31]), 0.1, 0.1, LAST),
    (schedules.join([schedules.constant(0.1), schedules.linear(0.2, 0.3, 4)], [0]), 0.2, 0.3, 4),
]


@pytest.mark.parametrize(("s", "first", "last", "steps"), ENDS, ids=[repr(e[0]) for e in ENDS])
def test_exact_at_both_ends(s, first, last, steps):
    """To the last bit where an end is an argument; a product may round once."""
    product = "exponential" in repr(s) or "one_cycle" in repr(s)
    for step, expected in ((0, first), (steps, last)):
        got = s(step)
        np.testing.assert_allclose(got, np.float32(expected), rtol=1e-7 if product else 0, atol=0)
        assert got.shape == ()
    flat_after = not any(word in repr(s) for word in ("exponential", "inverse_sqrt", "warmup_steps=3"))
    if flat_after:
        assert s(LAST) == s(steps)


def test_steps_before_the_first_count_as_the_first():
    for s, _ in oracles(10).values():
        np.testing.assert_array_equal(s(-3), s(0))


def test_stays_within_its_ends():
    steps = jnp.arange(1000)
    for s in (schedules.linear(0.1, 0.3, 999), schedules.cosine(0.3, 999, end_value=0.1)):
        values = np.asarray(s(steps))
        assert values.min() == np.float32(0.1)
        assert values.max() == np.float32(0.3)
        assert (np.diff(values) >= 0).all() or (np.diff(values) <= 0).all()


PEERS = [
    (schedules.constant(0.3), optax.constant_schedule(0.3)),
    (schedules.linear(0.1, 0.9, 20), optax.linear_schedule(0.1, 0.9, 20)),
    (schedules.polynomial(0.9, 0.1, 2, 20), optax.polynomial_schedule(0.9, 0.1, 2, 20)),
    (schedules.exponential(0.9, 0.5, 7), optax.exponential_decay(0.9, 7, 0.5)),
    (schedules.cosine(0.9, 20, end_value=0.09), optax.cosine_decay_schedule(0.9, 20, alpha=0.1)),
    (
        schedules.piecewise_constant(1.0, {5: 0.5, 9: 0.05}),
        optax.piecewise_constant_schedule(1.0, {5: 0.5, 9: 0.1}),
    ),
    (schedules.one_cycle(0.9, 20), optax.cosine_onecycle_schedule(20, 0.9)),
    (
        schedules.warmup_cosine(0.9, warmup_steps=5, decay_steps=20, init_value=0.1, end_value=0.2),
        optax.warmup_cosine_decay_schedule(0.1, 0.9, 5, 20, 0.2),
    ),
    (
        schedules.join([schedules.linear(0.0, 1.0, 5), schedules.cosine(1.0, 15)], [5]),
        optax.join_schedules([optax.linear_schedule(0.0, 1.0, 5), optax.cosine_decay_schedule(1.0, 15)], [5]),
    ),
]


@pytest.mark.parametrize(("ours", "theirs"), PEERS, ids=[repr(p[0]) for p in PEERS])
def test_equals_optax(ours, theirs):
    steps = jnp.arange(25)
    expected = jnp.stack([jnp.asarray(theirs(step)) for step in steps])
    np.testing.assert_allclose(ours(steps), expected, rtol=1e-5, atol=1e-6)


def test_jit_vmap_and_every_integer_dtype():
    steps = np.arange(12)
    for s, _ in oracles(10).values():
        expected = np.asarray(s(steps))
        np.testing.assert_allclose(jax.jit(s)(steps), expected, rtol=1e-6)
        np.testing.assert_allclose(jax.vmap(s)(jnp.asarray(steps)), expected, rtol=1e-6)
        np.testing.assert_allclose(s(jnp.asarray(steps, jnp.uint8)), expected, rtol=1e-6)
        np.testing.assert_allclose(s(steps.reshape(3, 4)), expected.reshape(3, 4), rtol=1e-6)
        assert s(3).shape == ()
        assert s(np.int64(3)).dtype == jnp.float32


def test_values_may_be_traced_and_differentiated():
    value = lambda peak: schedules.warmup_cosine(peak, warmup_steps=2, decay_steps=6)(4)
    np.testing.assert_allclose(jax.jit(value)(2.0), 1.0, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(value)(2.0), 0.5, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(value)(jnp.arange(3.0)), [0, 0.5, 1.0], rtol=1e-6)


def test_schedules_are_values():
    a, b = schedules.cosine(0.1, 20), schedules.cosine(init_value=0.1, steps=20)
    assert a == b
    assert hash(a) == hash(b)
    assert a != schedules.cosine(0.1, 21)
    assert a != schedules.linear(0.1, 0.0, 20)
    assert a != 0.1
    assert repr(a) == "cosine(init_value=0.1, steps=20)"
    for s, _ in oracles(10).values():
        again = pickle.loads(pickle.dumps(s))
        assert again == s
        assert again(3) == s(3)
    traces = []

    def f(s, step):
        traces.append(s)
        return s(step)

    jitted = jax.jit(f, static_argnums=0)
    jitted(a, 3), jitted(b, 4)
    assert len(traces) == 1


def test_a_scheduled_optimizer_is_a_value_too():
    make = lambda: jol.adamw(schedules.warmup_cosine(1e-3, warmup_steps=2, decay_steps=9), weight_decay=0.1)
    assert make() == make()
    assert pickle.loads(pickle.dumps(make())) == make()


LENGTH_NAMES = {"steps", "warmup_steps", "stable_steps", "decay_steps"}


@pytest.mark.parametrize("name", sorted(set(schedules.__all__) - {"Schedule", "schedule"}))
def test_a_length_must_be_an_integer_of_steps(name):
    make = getattr(schedules, name)
    required = {p.name: 3 for p in inspect.signature(make).parameters.values() if p.default is p.empty} | (
        {"schedules": [optax.constant_schedule(1.0)], "boundaries": []} if name == "join" else {}
    )
    if name == "piecewise_constant":
        required["boundaries_and_values"] = {3: 0.1}
    if name == "warmup_cosine":
        required["decay_steps"] = 9
    make(**required)
    for argument in LENGTH_NAMES & set(required):
        with pytest.raises(
            TypeError, match=f"{name}: {argument} is 2.5, expected an integer number of steps"
        ):
            make(**required | {argument: 2.5})
        with pytest.raises(ValueError, match=f"{name}: {argument} is -1, expected a number in"):
            make(**required | {argument: -1})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            lambda: schedules.warmup_cosine(1.0, warmup_steps=5, decay_steps=5),
            r"decay_steps is 5, .* \[6, inf\]",
        ),
        (lambda: schedules.exponential(1.0, 0.5, 0), r"exponential: steps is 0"),
        (lambda: schedules.polynomial(1.0, 0.5, 0, 3), r"polynomial: power is 0"),
        (lambda: schedules.one_cycle(1.0, 5, pct_start=1.5), r"one_cycle: pct_start is 1.5"),
        (lambda: schedules.join([schedules.constant(1.0)], [3]), r"join: 1 schedules and 1 boundaries"),
        (lambda: schedules.join([schedules.constant(1.0)] * 3, [3, 2]), r"join: boundaries are \[3, 2\]"),
        (lambda: schedules.piecewise_constant(1.0, {-1: 2.0}), r"piecewise_constant: boundary is -1"),
    ],
)
def test_other_wrong_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def test_an_optimizer_takes_any_callable_as_schedule():
    tx = jol.sgd(lambda step: 1 / (step + 1))
    state = tx.init(jnp.zeros(()))
    for t in range(3):
        update, state = tx.update(jnp.ones(()), state)
        assert math.isclose(update, -1 / (t + 1), rel_tol=1e-6)
