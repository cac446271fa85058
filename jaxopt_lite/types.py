"""The contracts as types: what a loss, a schedule, a transformation and a leaf rule are. Read this first.

optax's protocol types are imported, never declared again, so that ours and optax's transformations are one kind.

- A **loss** is ``loss(predictions, targets, *, <options>, where=None, weights=None, reduction="none") -> Array``.
- A **schedule** is ``schedule(step) -> value``: the step counts from 0, the value is float32.
- A **transformation** is a pair ``init(params) -> state`` and
  ``update(updates, state, params=None, **extra) -> (updates, state)``.
- A **wrapper** is ``wrapper(transformation, ...) -> transformation``.
"""

from collections.abc import Callable
from typing import Any

import jax
from optax import (
    EmptyState,
    GradientTransformation,
    GradientTransformationExtraArgs,
    MaskedNode,
    OptState,
    Params,
    Schedule,
    Updates,
)

Array = jax.Array
Scalar = float | jax.Array
"""A hyperparameter: a Python float (kept exact until the last moment) or a 0-d array."""

ScalarOrSchedule = float | jax.Array | Schedule
"""What every ``learning_rate`` and ``weight_decay`` may be."""

Mask = Any | Callable[[Params], Any]
"""A tree of bools like the parameters (or a prefix of theirs), or a function from parameters to one."""

Loss = Callable[..., Array]

__all__ = [
    "Array",
    "EmptyState",
    "GradientTransformation",
    "GradientTransformationExtraArgs",
    "Loss",
    "Mask",
    "MaskedNode",
    "OptState",
    "Params",
    "Scalar",
    "ScalarOrSchedule",
    "Schedule",
    "Updates",
]
