"""AMSGrad: the paper's formula, optax's numbers, huge gradients."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_lite import optimizers
from tests.oracles import optimizers as oracle
from tests.oracles.optimizers_check import DECAY, check, same_signature, schedule

ROWS = [{}, {"b2": 0.9, "bias_correction_mu": False, "bias_correction_nu": False}]


@pytest.mark.parametrize("options", ROWS, ids=str)
def test_amsgrad_is_the_papers_and_optaxs(options):
    check(optimizers.amsgrad, oracle.amsgrad, options, peer=optax.amsgrad)


def test_with_weight_decay_and_schedule():
    check(optimizers.amsgrad, oracle.amsgrad, DECAY, learning_rate=schedule)


def test_signature():
    same_signature(optimizers.amsgrad, optax.amsgrad)
    same_signature(optimizers.scale_by_amsgrad, optax.scale_by_amsgrad)


def test_one_huge_gradient_is_never_forgotten():
    tx = optimizers.amsgrad(0.1, b1=0.0)
    state, path = tx.init(jnp.zeros(())), [1e20] + [1.0] * 4
    for g in path:
        u, state = tx.update(jnp.float32(g), state, jnp.zeros(()))
    np.testing.assert_allclose(u, -0.1 * 1e-20, rtol=1e-6)
