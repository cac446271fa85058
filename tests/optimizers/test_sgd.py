"""SGD: the paper's momentum, optax's numbers."""

import jax.numpy as jnp
import optax
import pytest

from jaxopt_lite import optimizers
from tests.oracles import optimizers as oracle
from tests.oracles.optimizers_check import against_golden, check, same_signature, schedule

ROWS = [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}]


@pytest.mark.parametrize("options", ROWS, ids=str)
def test_sgd_is_the_papers_and_optaxs(options):
    check(optimizers.sgd, oracle.sgd, options, learning_rate=schedule, peer=optax.sgd)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_pytorchs(nesterov):
    case = "sgd_nesterov" if nesterov else "sgd"
    against_golden(optimizers.sgd(0.1, 0.9, nesterov), "optimizers_torch.json", case)


def test_signatures():
    same_signature(optimizers.sgd, optax.sgd, without=("accumulator_dtype",))
    same_signature(optimizers.trace, optax.trace)


def test_without_momentum_there_is_no_state_to_store():
    tx = optimizers.sgd(0.1)
    assert not [x for x in tx.init(jnp.zeros(3)) if getattr(x, "size", 0) > 1]


def test_momentum_is_stored_as_asked():
    tx = optimizers.trace(0.9, accumulator_dtype=jnp.bfloat16)
    assert tx.init(jnp.zeros(2)).trace.dtype == jnp.bfloat16
    assert optimizers.trace(0.9).init(jnp.zeros(2, jnp.bfloat16)).trace.dtype == jnp.float32


def test_momentum_outside_0_to_1_is_named():
    with pytest.raises(ValueError, match=r"trace: decay is 1\.5"):
        optimizers.sgd(0.1, momentum=1.5)
