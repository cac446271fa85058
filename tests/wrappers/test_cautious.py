"""Cautious updates: the mask of the paper, by signs, and nothing hidden."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_lite as jol
from jaxopt_lite.wrappers import cautious, decay
from tests.oracles import wrappers as oracles
from tests.wrappers.common import (
    GRADS,
    MOMENTUM,
    MOMENTUM_ORACLE,
    PARAMS,
    close,
    equal,
    needs_value,
    run,
    wide,
)

SLOW = jol.sgd(0.125, momentum=0.9)
SLOW_ORACLE = oracles.momentum(0.125, 0.9)


def test_equals_its_oracle():
    updates, path, _ = run(cautious(SLOW))
    want, points, _ = oracles.run(oracles.cautious(SLOW_ORACLE), wide(PARAMS), map(wide, GRADS))
    for u, w, p, q in zip(updates, want, path, points, strict=True):
        close(u, w)
        close(p, q)
    assert min((np.asarray(u["kernel"]) == 0).sum() for u in updates[1:]) > 0, "the test masks nothing"


def test_complex_entries_count_by_the_real_part_of_their_product():
    rng = np.random.default_rng(0)
    grads = [
        {"z": jnp.asarray(rng.normal(size=8) + 1j * rng.normal(size=8), jnp.complex64)} for _ in range(4)
    ]
    updates = run(cautious(SLOW), grads, {"z": jnp.zeros(8, jnp.complex64)})[0]
    want = oracles.run(oracles.cautious(SLOW_ORACLE), [np.zeros(8, complex)], map(wide, grads))[0]
    for u, w in zip(updates, want, strict=True):
        close(u, w)


@pytest.mark.parametrize("size", [1e-30, 1e20])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.complex64])
def test_signs_survive_where_the_product_would_not(size, dtype):
    tx = cautious(jol.sgd(1.0))
    g = jnp.asarray([size, -size, size], dtype)
    updates, _ = tx.update(g, tx.init(g), g)
    np.testing.assert_array_equal(updates, -g)


def test_one_aligned_entry_in_many_is_scaled_by_a_thousand_at_most():
    """The mean is bounded by 1e-3, as in the authors' code."""
    momentum = jnp.full(5000, 1.0).at[7].set(-1.0)
    tx = cautious(optax.GradientTransformation(lambda p: (), lambda g, s, p=None: (momentum, s)))
    updates, _ = tx.update(jnp.ones(5000), tx.init(momentum))
    assert (float(updates[7]), float(jnp.sum(jnp.abs(updates)))) == (-1000, 1000)


def test_an_entry_without_gradient_does_not_count_as_aligned():
    tx = cautious(jol.sgd(1.0))
    g = jnp.float32([0, 1, 0, 0])
    np.testing.assert_array_equal(tx.update(g, tx.init(g))[0], [0, -4, 0, 0])


def test_nothing_aligned_moves_nothing():
    tx = cautious(optax.scale(1.0))  # a part that points along the gradient: the docstring says what it gives
    updates, _ = tx.update(GRADS[0], tx.init(PARAMS))
    equal(updates, jax.tree.map(jnp.zeros_like, GRADS[0]))


def test_a_nan_is_not_hidden():
    tx = cautious(jol.sgd(1.0))
    g = jnp.float32([jnp.nan, 1, 2])
    updates, _ = tx.update(g, tx.init(g))
    assert np.isnan(updates[0])
    assert np.isfinite(updates[1:]).all()


def test_weight_decay_outside_is_not_masked():
    masked = cautious(MOMENTUM)
    for u, v, p in zip(
        run(decay(masked, 0.25), GRADS[:1])[0], run(masked, GRADS[:1])[0], [PARAMS], strict=True
    ):
        close(u, [a - 0.25 * b for a, b in zip(wide(v), wide(p), strict=True)])
    want = oracles.run(oracles.cautious(MOMENTUM_ORACLE), wide(PARAMS), map(wide, GRADS[:1]))[0]
    close(run(masked, GRADS[:1])[0][0], want[0])


def test_keeps_dtypes_extra_arguments_none_and_the_inner_state():
    tx = cautious(needs_value())
    grads = {"a": jnp.float16([1, -2]), "none": None, "empty": jnp.ones((0, 2)), "scalar": jnp.float32(3)}
    updates, state = tx.update(grads, tx.init(grads), grads, value=jnp.float16(2))
    assert state == optax.EmptyState()
    assert (updates["a"].dtype, updates["none"], updates["empty"].shape) == (jnp.float16, None, (0, 2))
    np.testing.assert_array_equal(updates["a"], [-2, 4])
    np.testing.assert_array_equal(updates["scalar"], -6)
