"""Optimizers and the parts they are made of, one file per family."""

from jaxopt_lite.optimizers.adabelief import adabelief, scale_by_belief
from jaxopt_lite.optimizers.adadelta import adadelta, scale_by_adadelta
from jaxopt_lite.optimizers.adafactor import adafactor, scale_by_factored_rms, scale_by_param_block_rms
from jaxopt_lite.optimizers.adagrad import adagrad, scale_by_rss
from jaxopt_lite.optimizers.adam import adam, adamw, scale_by_adam
from jaxopt_lite.optimizers.adam_mini import adam_mini, scale_by_adam_mini
from jaxopt_lite.optimizers.adamax import adamax, adamaxw, scale_by_adamax
from jaxopt_lite.optimizers.adan import adan, scale_by_adan
from jaxopt_lite.optimizers.ademamix import ademamix, scale_by_ademamix
from jaxopt_lite.optimizers.amsgrad import amsgrad, scale_by_amsgrad
from jaxopt_lite.optimizers.dowg import dowg, scale_by_dowg
from jaxopt_lite.optimizers.fromage import fromage
from jaxopt_lite.optimizers.lamb import lamb
from jaxopt_lite.optimizers.lars import lars, scale_by_trust_ratio
from jaxopt_lite.optimizers.lion import lion, scale_by_lion
from jaxopt_lite.optimizers.mars import mars, scale_by_mars
from jaxopt_lite.optimizers.muon import muon, scale_by_muon
from jaxopt_lite.optimizers.nadam import nadam, nadamw
from jaxopt_lite.optimizers.normuon import normuon, scale_by_normuon
from jaxopt_lite.optimizers.novograd import novograd, scale_by_novograd
from jaxopt_lite.optimizers.prodigy import prodigy
from jaxopt_lite.optimizers.radam import radam, scale_by_radam
from jaxopt_lite.optimizers.rmsprop import rmsprop, scale_by_rms, scale_by_stddev
from jaxopt_lite.optimizers.rprop import rprop, scale_by_rprop
from jaxopt_lite.optimizers.scale import (
    add_decayed_weights,
    identity,
    scale,
    scale_by_learning_rate,
    scale_by_schedule,
)
from jaxopt_lite.optimizers.schedule_free import schedule_free, schedule_free_eval_params
from jaxopt_lite.optimizers.sgd import sgd, trace
from jaxopt_lite.optimizers.shampoo import scale_by_shampoo, shampoo
from jaxopt_lite.optimizers.sign import ema, scale_by_sign, sign_sgd, signum
from jaxopt_lite.optimizers.sm3 import scale_by_sm3, sm3
from jaxopt_lite.optimizers.soap import scale_by_soap, soap
from jaxopt_lite.optimizers.sophia import hutchinson_estimator_diag_hessian, scale_by_sophia, sophia
from jaxopt_lite.optimizers.yogi import scale_by_yogi, yogi

__all__ = [
    "adabelief",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adam_mini",
    "adamax",
    "adamaxw",
    "adamw",
    "adan",
    "add_decayed_weights",
    "ademamix",
    "amsgrad",
    "dowg",
    "ema",
    "fromage",
    "hutchinson_estimator_diag_hessian",
    "identity",
    "lamb",
    "lars",
    "lion",
    "mars",
    "muon",
    "nadam",
    "nadamw",
    "normuon",
    "novograd",
    "prodigy",
    "radam",
    "rmsprop",
    "rprop",
    "scale",
    "scale_by_adadelta",
    "scale_by_adam",
    "scale_by_adam_mini",
    "scale_by_adamax",
    "scale_by_adan",
    "scale_by_ademamix",
    "scale_by_amsgrad",
    "scale_by_belief",
    "scale_by_dowg",
    "scale_by_factored_rms",
    "scale_by_learning_rate",
    "scale_by_lion",
    "scale_by_mars",
    "scale_by_muon",
    "scale_by_normuon",
    "scale_by_novograd",
    "scale_by_param_block_rms",
    "scale_by_radam",
    "scale_by_rms",
    "scale_by_rprop",
    "scale_by_rss",
    "scale_by_schedule",
    "scale_by_shampoo",
    "scale_by_sign",
    "scale_by_sm3",
    "scale_by_soap",
    "scale_by_sophia",
    "scale_by_stddev",
    "scale_by_trust_ratio",
    "scale_by_yogi",
    "schedule_free",
    "schedule_free_eval_params",
    "sgd",
    "shampoo",
    "sign_sgd",
    "signum",
    "sm3",
    "soap",
    "sophia",
    "trace",
    "yogi",
]
