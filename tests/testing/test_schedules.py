"""`check_schedule` on right schedules, ours among them, and on schedules wrong in one way each."""

import jax
import jax.numpy as jnp
import pytest

from jaxopt_lite import schedules
from jaxopt_lite.testing import ConformanceError, check_schedule, schedule_laws


def linear(step):
    return 0.1 * (1 - jnp.minimum(jnp.asarray(step, jnp.float32) / 100, 1))


BAD = {
    "scalar_float32": lambda s: jnp.full((1,), linear(s)),
    "finite_at_every_step": lambda s: linear(s) / (1 - 1.0 * (jnp.asarray(s) == 0)),
    "jit_equals_eager": lambda s: linear(s) if s < 10**9 else jnp.float32(0),
    "vmap_equals_loop": lambda s: jax.pure_callback(linear, jax.ShapeDtypeStruct((), jnp.float32), s),
    "any_kind_of_integer": lambda s: linear(s) + (0 if hasattr(s, "dtype") else 1),
    "exact_at_the_ends": lambda s: linear(jnp.asarray(s) + 1),
    "holds_after_the_end": lambda s: 0.1 * (1 - jnp.asarray(s, jnp.float32) / 100),
}


def test_a_right_schedule_passes():
    report = check_schedule(linear, steps=100, start=0.1, end=0.0, holds=True)
    assert len(report.passed) == len(report.results)


OURS = {
    "constant": (schedules.constant(0.1), 0.1, 0.1),
    "linear": (schedules.linear(0.1, 0.0, 100), 0.1, 0.0),
    "polynomial": (schedules.polynomial(0.1, 0.01, 2, 100), 0.1, 0.01),
    "exponential": (schedules.exponential(0.1, 0.5, 100), 0.1, 0.05),
    "cosine": (schedules.cosine(0.1, 100), 0.1, 0.0),
    "inverse_sqrt": (schedules.inverse_sqrt(0.1, 100), None, 0.1),
    "piecewise_constant": (schedules.piecewise_constant(0.1, {100: 0.01}), 0.1, 0.01),
    "one_cycle": (schedules.one_cycle(0.1, 100), 0.004, None),
    "warmup_cosine": (schedules.warmup_cosine(0.1, warmup_steps=10, decay_steps=100), 0.0, 0.0),
    "warmup_stable_decay": (
        schedules.warmup_stable_decay(0.1, warmup_steps=10, stable_steps=50, decay_steps=40), 0.0, 0.0,
    ),
    "join": (schedules.join([schedules.constant(0.1), schedules.constant(0.2)], [50]), 0.1, 0.2),
}  # fmt: skip
FOREVER = {"exponential", "inverse_sqrt"}


def test_every_schedule_of_ours_has_a_row():
    assert set(OURS) == set(schedules.__all__) - {"Schedule", "schedule"}


@pytest.mark.parametrize("name", OURS)
def test_our_schedules_keep_the_laws(name):
    schedule, start, end = OURS[name]
    check_schedule(schedule, steps=100, start=start, end=end, holds=name not in FOREVER)


@pytest.mark.parametrize("law", BAD)
def test_wrong_schedules_break_the_law_that_names_their_fault(law):
    with pytest.raises(ConformanceError) as caught:
        check_schedule(BAD[law], steps=100, start=0.1, end=0.0, holds=True)
    assert law in {r.law for r in caught.value.report.failures}


def test_every_law_is_named_by_a_wrong_schedule():
    assert set(BAD) == set(schedule_laws)
