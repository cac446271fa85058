"""Rprop: iRprop− as published, and as in PyTorch; optax's numbers come one step late."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_lite import optimizers
from tests.oracles import optimizers_more as oracle
from tests.oracles.optimizers_check import ALL, REAL, against_golden, check, path, same_signature

ROWS = [{}, {"eta_minus": 0.3, "eta_plus": 1.5, "min_step_size": 1e-3, "max_step_size": 0.05}]


@pytest.mark.parametrize("options", ROWS, ids=["default", "bounds"])
def test_rprop_is_the_papers(options):
    check(optimizers.rprop, oracle.rprop, options, roundings=128)  # a size is a product of up to 200 factors


def test_rprop_is_pytorchs():
    against_golden(optimizers.rprop(0.01), "optimizers_torch.json", "rprop")


def test_optax_makes_each_step_one_gradient_late_or_not_at_all():
    ours, theirs = path(optimizers.rprop(1e-2), ALL), path(optax.rprop(1e-2), REAL)
    for name in REAL:
        late = np.where(ours[name][1:] == 0, 0, ours[name][:-1])
        np.testing.assert_allclose(theirs[name][1:], late, rtol=1e-6)
        assert not theirs[name][0].any()
        assert ours[name][0].any()


def test_after_a_change_of_sign_there_is_one_step_without_move():
    tx = optimizers.rprop(0.1)
    state, moves = tx.init(jnp.zeros(())), []
    for g in (1.0, 1e30, -1e-30, -2.0, -2.0, 0.0, -1.0):
        u, state = tx.update(jnp.float32(g), state)
        moves.append(float(u))
    np.testing.assert_allclose(moves, [-0.1, -0.12, 0, 0.06, 0.072, 0, 0.072], rtol=1e-6)


def test_a_schedule_gives_the_first_size():
    tx = optimizers.rprop(lambda step: 0.5 / (1 + step))
    assert tx.init(jnp.zeros(1))[0].step_sizes.tolist() == [0.5]


def test_signatures():
    same_signature(optimizers.rprop, optax.rprop)
    same_signature(optimizers.scale_by_rprop, optax.scale_by_rprop)
