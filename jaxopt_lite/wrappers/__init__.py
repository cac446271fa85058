"""Wrappers: what goes around a transformation or between two of them."""

from jaxopt_lite.wrappers.accumulate import accumulate
from jaxopt_lite.wrappers.average import ema_params, ema_values
from jaxopt_lite.wrappers.cautious import cautious
from jaxopt_lite.wrappers.clip import clip, clip_by_global_norm
from jaxopt_lite.wrappers.clip_blocks import adaptive_grad_clip, clip_by_block_rms
from jaxopt_lite.wrappers.decay import decay
from jaxopt_lite.wrappers.diloco import diloco
from jaxopt_lite.wrappers.guard import dynamic_loss_scale, loss_scale, skip_nonfinite
from jaxopt_lite.wrappers.hyperball import hyperball
from jaxopt_lite.wrappers.hyperparams import get_hyperparams, set_hyperparams, tunable
from jaxopt_lite.wrappers.lookahead import lookahead
from jaxopt_lite.wrappers.monitor import monitor, monitored
from jaxopt_lite.wrappers.per_example import per_example_clip
from jaxopt_lite.wrappers.sharpness import sam

__all__ = [
    "accumulate",
    "adaptive_grad_clip",
    "cautious",
    "clip",
    "clip_by_block_rms",
    "clip_by_global_norm",
    "decay",
    "diloco",
    "dynamic_loss_scale",
    "ema_params",
    "ema_values",
    "get_hyperparams",
    "hyperball",
    "lookahead",
    "loss_scale",
    "monitor",
    "monitored",
    "per_example_clip",
    "sam",
    "set_hyperparams",
    "skip_nonfinite",
    "tunable",
]
