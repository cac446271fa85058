"""Yogi: the paper's formula, optax's numbers where optax follows it."""

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxopt_lite import optimizers
from tests.oracles import optimizers as oracle
from tests.oracles.optimizers_check import DECAY, check, same_signature, schedule


def yogi_from_zero(learning_rate, **options):
    """optax's Yogi with its average of gradients started at 0, as in the paper, not at 1e-6."""
    tx = optax.yogi(learning_rate, **options)

    def init(params):
        first, *others = tx.init(params)
        return (first._replace(mu=jax.tree.map(jnp.zeros_like, first.mu)), *others)

    return optax.GradientTransformation(init, tx.update)


@pytest.mark.parametrize("options", [{}, {"b1": 0.5, "b2": 0.9, "eps": 1e-2}], ids=str)
def test_yogi_is_the_papers_and_optaxs(options):
    check(optimizers.yogi, oracle.yogi, options, peer=yogi_from_zero)


def test_with_weight_decay_and_schedule():
    check(optimizers.yogi, oracle.yogi, DECAY, learning_rate=schedule)


def test_a_parameter_without_gradient_stays_where_optax_lets_it_drift():
    p, g = jnp.zeros(1), jnp.zeros(1)
    ours, theirs = (jax.jit(tx.update)(g, tx.init(p), p)[0] for tx in (optimizers.yogi(0.1), optax.yogi(0.1)))
    assert ours == 0
    assert theirs < 0


def test_signatures():
    same_signature(optimizers.yogi, optax.yogi)
    same_signature(optimizers.scale_by_yogi, optax.scale_by_yogi)
