"""AdEMAMix: the paper's formula with schedules of β₃ and α, optax's numbers, the authors' code."""

import optax
import pytest

from jaxopt_lite import optimizers
from tests.oracles import optimizers as oracle
from tests.oracles.optimizers_check import DECAY, against_golden, check, same_signature, schedule


def warm(end):
    """A schedule from 0 to ``end`` in 100 steps, then constant, in NumPy and in JAX."""
    return lambda step: end * (1 - abs(1 - step / 100) + abs(step / 100)) / 2


WARM = {"alpha": warm(5.0), "b3": warm(0.999)}


@pytest.mark.parametrize("options", [{}, WARM, DECAY], ids=["default", "schedules", "decay"])
def test_ademamix_is_the_papers_and_optaxs(options):
    check(optimizers.ademamix, oracle.ademamix, options, learning_rate=schedule, peer=optax.contrib.ademamix)


def test_ademamix_is_the_code_of_its_authors():
    against_golden(optimizers.ademamix(0.01, weight_decay=0.1), "optimizers_more.json", "ademamix")


def test_signatures():
    same_signature(optimizers.ademamix, optax.contrib.ademamix)
    same_signature(optimizers.scale_by_ademamix, optax.contrib.scale_by_ademamix)
