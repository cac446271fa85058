"""RMSProp: the papers' formulas with every option, optax's numbers."""

import optax
import pytest

from jaxopt_lite import optimizers
from tests.oracles import optimizers_more as oracle
from tests.oracles.optimizers_check import DECAY, REAL, against_golden, check, same_signature, schedule

ROWS = [
    {},
    {"eps_in_sqrt": False, "initial_scale": 1.0, "momentum": 0.9},
    {"bias_correction": True, "momentum": 0.9, "nesterov": True},
]
# v̂ − m̂² is exactly 0 after one gradient, and rounding leaves some 1e-7·g² of it: ε must be larger.
CENTERED = [{"centered": True, "eps": 1e-3}, {"centered": True, "eps": 10.0, "bias_correction": True}]


@pytest.mark.parametrize("options", ROWS, ids=str)
def test_rmsprop_is_the_papers_and_optaxs(options):
    check(optimizers.rmsprop, oracle.rmsprop, options, peer=optax.rmsprop)


@pytest.mark.parametrize("options", CENTERED, ids=["plain", "corrected"])
def test_centered_rmsprop_is_the_papers_and_optaxs(options):
    check(optimizers.rmsprop, oracle.rmsprop, options, peer=optax.rmsprop, roundings=32)


def test_with_weight_decay_and_schedule():
    check(optimizers.rmsprop, oracle.rmsprop, DECAY | {"momentum": 0.5}, learning_rate=schedule, names=REAL)


@pytest.mark.parametrize(
    ("case", "options"), [("rmsprop", {"momentum": 0.9}), ("rmsprop_centered", {"centered": True})]
)
def test_rmsprop_is_pytorchs(case, options):
    against_golden(optimizers.rmsprop(0.01, eps_in_sqrt=False, **options), "optimizers_torch.json", case)


def test_signatures():
    same_signature(optimizers.rmsprop, optax.rmsprop)
    same_signature(optimizers.scale_by_rms, optax.scale_by_rms)
    same_signature(optimizers.scale_by_stddev, optax.scale_by_stddev)
