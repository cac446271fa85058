"""Losses and gradient transformations for training and fine-tuning large models in JAX.

The names used daily stand here; the rest is in ``losses``, ``optimizers``, ``wrappers`` and ``schedules``.
"""

from jaxopt_lite import (
    checks,
    compose,
    losses,
    optimizers,
    precision,
    schedules,
    sharding,
    training,
    transformation,
    tree,
    types,
    wrappers,
)
from jaxopt_lite.compose import apply_updates, chain, freeze, masked, named_chain, partition
from jaxopt_lite.optimizers import adam, adamw, muon, sgd
from jaxopt_lite.precision import (
    kahan,
    low_memory_adamw,
    master_weights,
    quantize_state,
    state_bytes,
    stochastic_rounding,
)
from jaxopt_lite.training import fit, make_step, minibatches
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
    "fit",
    "freeze",
    "get_hyperparams",
    "kahan",
    "losses",
    "low_memory_adamw",
    "make_step",
    "masked",
    "master_weights",
    "minibatches",
    "muon",
    "named_chain",
    "optimizers",
    "partition",
    "precision",
    "quantize_state",
    "schedules",
    "set_hyperparams",
    "sgd",
    "sharding",
    "state_bytes",
    "stochastic_rounding",
    "training",
    "transformation",
    "tree",
    "tunable",
    "types",
    "wrappers",
]
