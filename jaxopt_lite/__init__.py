"""Losses and gradient transformations for training and fine-tuning large models in JAX.

The names used daily stand here; the rest is in ``losses``, ``optimizers``, ``wrappers`` and ``schedules``.
"""

from jaxopt_lite import checks, compose, losses, optimizers, schedules, transformation, tree, types, wrappers
from jaxopt_lite.compose import apply_updates, chain, freeze, masked, named_chain, partition
from jaxopt_lite.optimizers import adam, adamw, sgd
from jaxopt_lite.wrappers import clip, clip_by_global_norm, get_hyperparams, set_hyperparams, tunable

__version__ = "0.1.0"

__all__ = [
    "adam",
    "adamw",
    "apply_updates",
    "chain",
    "checks",
    "clip",
    "clip_by_global_norm",
    "compose",
    "freeze",
    "get_hyperparams",
    "losses",
    "masked",
    "named_chain",
    "optimizers",
    "partition",
    "schedules",
    "set_hyperparams",
    "sgd",
    "transformation",
    "tree",
    "tunable",
    "types",
    "wrappers",
]
