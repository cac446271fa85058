"""NovoGrad: the paper's formula, optax's numbers."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_lite import optimizers
from tests.oracles import optimizers_more as oracle
from tests.oracles.optimizers_check import DECAY, check, same_signature, schedule


@pytest.mark.parametrize("options", [{}, {"b1": 0.5, "b2": 0.9, "weight_decay": 0.1}], ids=str)
def test_novograd_is_the_papers_and_optaxs(options):
    check(optimizers.novograd, oracle.novograd, options, learning_rate=schedule, peer=optax.novograd)


def test_with_a_mask():
    check(optimizers.novograd, oracle.novograd, DECAY)


def test_signatures():
    same_signature(optimizers.novograd, optax.novograd)
    same_signature(optimizers.scale_by_novograd, optax.scale_by_novograd)


def test_a_decay_schedule_is_read_step_by_step():
    tx = optimizers.novograd(1.0, b1=0.0, weight_decay=lambda step: 0.1 * step)
    p, state = jnp.ones(2), tx.init(jnp.ones(2))
    decays = []
    for _ in range(3):
        u, state = tx.update(jnp.zeros(2), state, p)
        decays.append(-float(u[0]))
    np.testing.assert_allclose(decays, [0, 0.1, 0.2], rtol=1e-6)


@pytest.mark.parametrize("size", [1e30, 1e20, 1e-25])
def test_the_first_step_is_normalised_at_any_magnitude(size):
    tx = optimizers.novograd(0.1, eps=0.0)
    u, _ = tx.update(size * jnp.array([3.0, 4.0]), tx.init(jnp.zeros(2)), jnp.zeros(2))
    np.testing.assert_allclose(u, [-0.06, -0.08], rtol=1e-6)
