"""The simplest leaf rules: scale by a number or a schedule, add decayed weights, do nothing."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxopt_lite import checks
from jaxopt_lite.transformation import Transformation, elementwise, transformation
from jaxopt_lite.types import Array, Mask, ScalarOrSchedule


class ScaleByScheduleState(NamedTuple):
    """How many steps a schedule has seen."""

    count: Array  # [] int32


def scalar_stage(name: str, value: Any, combine: Callable, **options: Any) -> Transformation:
    """A rule ``combine(g, p, value)``, entry by entry, whose value is a number, a 0-d array or a schedule."""
    options = {"together": None} | options
    if callable(value):
        scheduled = lambda t, updates: jnp.asarray(value(t - 1))
        rule = lambda g, p, s: (combine(g, p, s),)
        rule.__qualname__ = name
        return elementwise(rule, ScaleByScheduleState, scalars=scheduled, **options)
    if isinstance(value, (int, float)):  # stays a Python number: rounded once, where it meets the array
        rule = lambda g, p, s: (combine(g, p, value),)
        rule.__qualname__ = name
        return elementwise(rule, **options)
    checks.shape(name, "the value", value, ())
    rule = lambda g, p, s: (combine(g, p, s),)
    rule.__qualname__ = name
    return elementwise(rule, scalars=lambda t, updates: jnp.asarray(value), **options)


def value_at(value: Any, t: Any) -> Any:
    """A hyperparameter at step t = 1, 2, …: itself, or a schedule's value (schedules count from 0)."""
    return jnp.asarray(value(t - 1)) if callable(value) else value


@transformation
def identity():
    """u = g.

    >>> from jaxopt_lite import chain
    >>> chain(identity(), scale(2.0))
    chain(identity(), scale(step_size=2.0))
    """

    def rule(g, p, s):
        return (g,)

    return elementwise(rule, together=None)


@transformation
def scale(step_size: ScalarOrSchedule):
    """u = step_size · g."""
    return scalar_stage("scale", step_size, lambda g, p, c: c * g)


@transformation
def scale_by_schedule(step_size_fn: Callable[[Array], Any]):
    """u = step_size_fn(step) · g, where the step counts from 0."""
    if not callable(step_size_fn):
        raise TypeError(
            f"scale_by_schedule: step_size_fn is {step_size_fn!r}, expected a function of the step"
        )
    return scalar_stage("scale_by_schedule", step_size_fn, lambda g, p, c: c * g)


@transformation
def scale_by_learning_rate(learning_rate: ScalarOrSchedule | None = None, *, flip_sign: bool = True):
    """u = −η·g (+η·g with ``flip_sign=False``); η is a float, a 0-d array or a schedule.

    As in optax, ``None`` leaves the updates as they are, sign included.
    """
    if learning_rate is None:
        return identity()
    sign = -1 if flip_sign else 1
    return scalar_stage("scale_by_learning_rate", learning_rate, lambda g, p, c: (sign * c) * g)


@transformation
def add_decayed_weights(weight_decay: ScalarOrSchedule = 0.0, mask: Mask | None = None):
    """u = g + λ·p where ``mask`` is True, everywhere without one.

    Args:
      weight_decay: λ, a float, a 0-d array or a schedule of the step.
      mask: a tree of bools like the parameters (or a prefix of theirs), or a function from parameters to one.
    """
    if isinstance(weight_decay, (int, float)) and weight_decay == 0:
        return identity()
    decay = lambda g, p, c: g + c * p
    return scalar_stage("add_decayed_weights", weight_decay, decay, reads_params=True, mask=mask)
