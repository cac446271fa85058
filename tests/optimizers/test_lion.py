"""Lion: the paper's formula, optax's numbers, momentum stored in 16 bits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_lite import optimizers
from tests.oracles import optimizers as oracle
from tests.oracles.optimizers_check import DECAY, against_optax, check, same_signature, schedule

ROWS = [{}, {"b1": 0.95, "b2": 0.3}, DECAY]


@pytest.mark.parametrize("options", ROWS, ids=["default", "short memory", "decay"])
def test_lion_is_the_papers_and_optaxs(options):
    check(optimizers.lion, oracle.lion, options, learning_rate=schedule, peer=optax.lion)


@pytest.mark.parametrize("mode", ["smooth", "refined"])
def test_continuous_signs_are_optaxs(mode):
    ours, theirs = (
        make(b2=0.9, mode=mode, smooth_beta=2.0) for make in (optimizers.scale_by_lion, optax.scale_by_lion)
    )
    against_optax(ours, theirs)


def test_signatures():
    same_signature(optimizers.lion, optax.lion)
    same_signature(optimizers.scale_by_lion, optax.scale_by_lion)


def test_gradients_of_any_magnitude_move_by_the_learning_rate():
    g = jnp.array([1e30, -1e-30, 0.0, 5.0])
    tx = optimizers.lion(0.25, weight_decay=0.0)
    u, state = tx.update(g, tx.init(jnp.zeros(4)), jnp.zeros(4))
    assert u.tolist() == [-0.25, 0.25, 0.0, -0.25]
    # The momentum outweighs a gradient of the opposite sign up to b1/(1 − b1)·m = 0.09·g.
    for back, sign in ((0.08, -0.25), (0.1, 0.25)):
        assert tx.update(-back * g, state, jnp.zeros(4))[0].tolist() == [sign, -sign, 0.0, sign]


def test_mu_dtype_is_the_storage_of_the_momentum():
    tx = optimizers.lion(0.1, mu_dtype=jnp.bfloat16)
    state = tx.init(jnp.zeros(2))
    assert state[0].mu.dtype == jnp.bfloat16
    _, state = jax.jit(tx.update)(jnp.ones(2), state, jnp.zeros(2))
    assert state[0].mu.dtype == jnp.bfloat16
    np.testing.assert_allclose(state[0].mu.astype(jnp.float32), 0.01, rtol=2**-8)
