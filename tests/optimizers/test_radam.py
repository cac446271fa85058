"""RAdam: the paper's formula, with ρ to all digits; optax's numbers."""

import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest

from jaxopt_lite import optimizers
from jaxopt_lite.optimizers.radam import rectification
from tests.oracles import optimizers as oracle
from tests.oracles.optimizers_check import DECAY, against_golden, check, same_signature, schedule

# With the default b2 = 0.999 optax's ρ, a difference of two numbers near 2,000, has three digits in the first steps.
ROWS = [
    ({}, 1e-3),
    ({"b2": 0.9, "nesterov": True, "eps_root": 1e-4}, 1e-5),
    ({"b2": 0.98, "threshold": 6.0}, 1e-4),
]


@pytest.mark.parametrize(("options", "rtol"), ROWS, ids=str)
def test_radam_is_the_papers_and_optaxs(options, rtol):
    check(optimizers.radam, oracle.radam, options, peer=optax.radam, rtol=rtol)


def test_with_weight_decay_and_schedule():
    check(optimizers.radam, oracle.radam, DECAY, learning_rate=schedule)


def test_radam_is_pytorchs():
    against_golden(optimizers.radam(0.01, b2=0.99, eps=0.0), "optimizers_torch.json", "radam", rtol=1e-7)


def test_signatures():
    same_signature(optimizers.radam, optax.radam)
    same_signature(optimizers.scale_by_radam, optax.scale_by_radam)


@pytest.mark.parametrize("b2", [0.9, 0.999, 0.99999])
@pytest.mark.parametrize("t", [4, 6, 20, 1000, 10**6])
def test_the_rectification_has_all_digits(b2, t):
    with mpmath.workdps(40):
        beta = mpmath.mpf(b2)
        limit = 2 / (1 - beta) - 1
        rho = limit - 2 * t * beta**t / (1 - beta**t)
        expected = (
            mpmath.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho)) if rho > 4 else 1
        )
    ready, r = rectification(b2, jnp.int32(t), 5.0)
    assert bool(ready) == (rho >= 5)
    if ready:
        np.testing.assert_allclose(float(r), float(expected), rtol=2e-6)
