"""AdaMax and AdaMaxW: the paper's formula, optax's numbers."""

import jax.numpy as jnp
import optax
import pytest

from jaxopt_lite import optimizers
from tests.oracles import optimizers as oracle
from tests.oracles.optimizers_check import DECAY, against_golden, check, same_signature, schedule


@pytest.mark.parametrize("options", [{}, {"b1": 0.5, "b2": 0.9, "eps": 1e-3}], ids=str)
def test_adamax_is_the_papers_and_optaxs(options):
    check(optimizers.adamax, oracle.adamax, options, peer=optax.adamax)


def test_adamaxw_is_the_papers_and_optaxs():
    check(optimizers.adamaxw, oracle.adamax, DECAY, learning_rate=schedule, peer=optax.adamaxw)


def test_adamax_is_pytorchs():
    against_golden(optimizers.adamax(0.01), "optimizers_torch.json", "adamax")


def test_signatures():
    same_signature(optimizers.adamax, optax.adamax)
    same_signature(optimizers.adamaxw, optax.adamaxw)
    same_signature(optimizers.scale_by_adamax, optax.scale_by_adamax)


def test_without_eps_a_parameter_without_gradient_stays():
    tx = optimizers.adamax(0.1, eps=0.0)
    u, _ = tx.update(jnp.array([0.0, 2.0]), tx.init(jnp.zeros(2)))
    assert [round(x, 6) for x in u.tolist()] == [0.0, -0.1]
