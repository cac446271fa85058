"""Optimizers and the parts they are made of, one file per family."""

from jaxopt_lite.optimizers.adam import adam, adamw, scale_by_adam
from jaxopt_lite.optimizers.scale import (
    add_decayed_weights,
    identity,
    scale,
    scale_by_learning_rate,
    scale_by_schedule,
)
from jaxopt_lite.optimizers.sgd import sgd, trace

__all__ = [
    "adam",
    "adamw",
    "add_decayed_weights",
    "identity",
    "scale",
    "scale_by_adam",
    "scale_by_learning_rate",
    "scale_by_schedule",
    "sgd",
    "trace",
]
