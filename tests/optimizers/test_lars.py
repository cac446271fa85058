"""LARS: the paper's trust ratio, optax's numbers, degenerate layers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_lite import optimizers
from jaxopt_lite.optimizers.lars import trust_ratio
from tests.oracles import optimizers_more as oracle
from tests.oracles.optimizers_check import against_paper, check, mask, same_signature, schedule

ROWS = [{}, {"trust_coefficient": 0.1, "eps": 0.1, "nesterov": True}]


@pytest.mark.parametrize("options", ROWS, ids=str)
def test_lars_is_the_papers_and_optaxs(options):
    check(optimizers.lars, oracle.lars, options, learning_rate=schedule, peer=optax.lars)


def test_with_masks():
    options = {"weight_decay": 0.1, "weight_decay_mask": mask, "trust_ratio_mask": mask}
    rule = lambda name: oracle.lars(0.1, 0.1 if name == "kernel" else 0.0, scaled=name == "kernel")
    against_paper(optimizers.lars(0.1, **options), rule, names=("bias", "kernel"))


def test_signatures():
    same_signature(optimizers.lars, optax.lars)
    same_signature(optimizers.scale_by_trust_ratio, optax.scale_by_trust_ratio)


@pytest.mark.parametrize(("p", "g"), [(0.0, 1.0), (1.0, 0.0)])
def test_a_layer_of_zeros_takes_the_gradient_as_it_is(p, g):
    tx = optimizers.lars(0.1)
    p, g = jnp.full(2, p), jnp.full(2, g)
    u, _ = tx.update(g, tx.init(p), p)
    np.testing.assert_allclose(u, -0.1 * g, rtol=1e-6)


@pytest.mark.parametrize(("p", "g"), [(1e20, 1.0), (1.0, 1e20), (1e-25, 1.0), (1.0, 1e-25)])
def test_norms_of_any_magnitude(p, g):
    tx = optimizers.lars(1.0, trust_coefficient=1.0, momentum=0.0)
    u, _ = tx.update(jnp.full(3, g), tx.init(jnp.zeros(3)), jnp.full(3, p))
    np.testing.assert_allclose(u, -p, rtol=1e-6)


def test_the_ratio_is_1_where_a_norm_is_0_and_has_a_finite_slope_there():
    slope = jax.grad(lambda x: trust_ratio(jnp.float32(1.0), x))
    assert trust_ratio(jnp.float32(1.0), jnp.float32(0.0)) == 1
    assert slope(jnp.float32(0.0)) == 0
    assert trust_ratio(jnp.float32(3.0), jnp.float32(1.0), 0.5, 1.0) == 0.75
