"""NAdam and NAdamW: the paper's formula and optax's numbers."""

import jax.numpy as jnp
import optax
import pytest

from jaxopt_lite import optimizers
from tests.oracles import optimizers as oracle
from tests.oracles.optimizers_check import DECAY, check, same_signature, schedule


def nadam(learning_rate, **options):
    """Dozat 2016, Alg. 8."""
    return oracle.adam(learning_rate, nesterov=True, **options)


@pytest.mark.parametrize("options", [{}, {"b1": 0.8, "eps_root": 1e-4}], ids=str)
def test_nadam_is_the_papers_and_optaxs(options):
    check(optimizers.nadam, nadam, options, peer=optax.nadam)


def test_nadamw_is_the_papers_and_optaxs():
    check(optimizers.nadamw, nadam, DECAY, learning_rate=schedule, peer=optax.nadamw)


def test_signatures():
    same_signature(optimizers.nadam, optax.nadam)
    same_signature(optimizers.nadamw, optax.nadamw)


def test_mu_dtype_is_the_storage_of_the_average():
    state = optimizers.nadam(0.1, mu_dtype=jnp.bfloat16).init(jnp.zeros(2))
    assert state[0].mu.dtype == jnp.bfloat16
    assert state[0].nu.dtype == jnp.float32
