"""Wrappers: what goes around a transformation or between two of them."""

from jaxopt_lite.wrappers.clip import clip, clip_by_global_norm
from jaxopt_lite.wrappers.hyperparams import get_hyperparams, set_hyperparams, tunable

__all__ = ["clip", "clip_by_global_norm", "get_hyperparams", "set_hyperparams", "tunable"]
