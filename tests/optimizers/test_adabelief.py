"""AdaBelief: the paper's formula, optax's numbers."""

import optax
import pytest

from jaxopt_lite import optimizers
from tests.oracles import optimizers as oracle
from tests.oracles.optimizers_check import DECAY, check, same_signature, schedule

ROWS = [{}, {"b1": 0.5, "b2": 0.9, "eps": 1e-3, "nesterov": True}]


@pytest.mark.parametrize("options", ROWS, ids=str)
def test_adabelief_is_the_papers_and_optaxs(options):
    check(optimizers.adabelief, oracle.adabelief, options, peer=optax.adabelief)


def test_with_weight_decay_and_schedule():
    check(optimizers.adabelief, oracle.adabelief, DECAY, learning_rate=schedule)


def test_signatures():
    same_signature(optimizers.adabelief, optax.adabelief)
    same_signature(optimizers.scale_by_belief, optax.scale_by_belief)
