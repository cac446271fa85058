"""Sign descent: signSGD, Signum and the average they use."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_lite import optimizers
from tests.oracles import optimizers as oracle
from tests.oracles.optimizers_check import DECAY, REAL, against_optax, check, same_signature, schedule


def sign_sgd(learning_rate, **options):
    """Bernstein et al. 2018, Alg. 1."""
    return oracle.signum(learning_rate, beta=0.0, **options)


def test_sign_sgd_is_the_papers_and_optaxs():
    check(optimizers.sign_sgd, sign_sgd, {}, peer=optax.sign_sgd)
    check(optimizers.sign_sgd, sign_sgd, DECAY, learning_rate=schedule)


def test_signum_is_the_papers_and_optaxs():
    check(optimizers.signum, oracle.signum, {}, peer=optax.signum)
    check(optimizers.signum, oracle.signum, DECAY | {"beta": 0.7}, learning_rate=schedule)


@pytest.mark.parametrize("debias", [True, False])
def test_ema_is_optaxs(debias):
    against_optax(optimizers.ema(0.99, debias), optax.ema(0.99, debias), names=REAL)


def test_signatures():
    same_signature(optimizers.sign_sgd, optax.sign_sgd)
    same_signature(optimizers.signum, optax.signum)
    same_signature(optimizers.ema, optax.ema)
    same_signature(optimizers.scale_by_sign, optax.scale_by_sign)


def test_a_complex_sign_is_the_direction():
    tx = optimizers.scale_by_sign()
    u, _ = tx.update(jnp.array([3 + 4j, 0j]), tx.init(jnp.zeros(2, jnp.complex64)))
    np.testing.assert_allclose(u, [0.6 + 0.8j, 0], rtol=1e-6)
