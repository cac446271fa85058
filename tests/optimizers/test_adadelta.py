"""AdaDelta: the paper's formula, optax's numbers, downhill without a learning rate too."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_lite import optimizers
from tests.oracles import optimizers_more as oracle
from tests.oracles.optimizers_check import against_golden, check, mask, same_signature, schedule

ROWS = [{}, {"rho": 0.5, "eps": 1e-3}, {"weight_decay": 0.1, "weight_decay_mask": mask}]


@pytest.mark.parametrize("options", ROWS, ids=["default", "rho", "decay"])
def test_adadelta_is_the_papers_and_optaxs(options):
    check(optimizers.adadelta, oracle.adadelta, options, learning_rate=schedule, peer=optax.adadelta)


def test_adadelta_is_pytorchs():
    against_golden(optimizers.adadelta(weight_decay=0.1), "optimizers_torch.json", "adadelta")


def test_signatures():
    same_signature(optimizers.adadelta, optax.adadelta)
    same_signature(optimizers.scale_by_adadelta, optax.scale_by_adadelta)


def test_no_learning_rate_is_the_papers_step_downhill_where_optax_goes_up():
    ours, theirs = optimizers.adadelta(), optax.adadelta()
    g, p = jnp.ones(1), jnp.zeros(1)
    down, up = (tx.update(g, tx.init(p), p)[0] for tx in (ours, theirs))
    np.testing.assert_allclose(down, -np.sqrt(1e-6 / (0.1 + 1e-6)), rtol=1e-6)
    np.testing.assert_allclose(up, -down, rtol=1e-6)
