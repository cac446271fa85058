"""Hyperball: the sphere, the paper's step by way of the trust ratio, what is left alone, the laws."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_lite as jol
from jaxopt_lite.optimizers import scale_by_learning_rate, scale_by_muon, scale_by_trust_ratio
from jaxopt_lite.testing import check_transformation
from jaxopt_lite.wrappers import hyperball
from tests.oracles import matrix as oracle


def test_200_steps_are_the_papers():
    """Around sgd the oracle's step is −η·g; then the paper's own −η·R·g/‖g‖."""
    p, grads = oracle.gradients((4, 5))
    relative = jol.chain(scale_by_trust_ratio(), scale_by_learning_rate(0.05))
    got = [oracle.path(hyperball(tx), p, grads) for tx in (jol.sgd(0.05), relative)]
    radius = np.linalg.norm(p.astype(np.float64))
    plain = paper = p.astype(np.float64)
    for t, g in enumerate(grads.astype(np.float64)):
        plain = oracle.hyperball(plain, -0.05 * g, radius)
        paper = oracle.hyperball(paper, -0.05 * radius * g / np.linalg.norm(g), radius)
        np.testing.assert_allclose(got[0][t], plain, atol=2e-5)
        np.testing.assert_allclose(got[1][t], paper, atol=2e-5)
    np.testing.assert_allclose(np.linalg.norm(got[0], axis=(1, 2)), radius, rtol=1e-6)


def test_with_muon_and_with_optax():
    p, grads = oracle.gradients((4, 5), steps=3)
    for tx in (
        jol.chain(scale_by_muon(), scale_by_trust_ratio(), scale_by_learning_rate(0.02)),
        optax.adam(0.1),
    ):
        end = oracle.path(hyperball(tx), p, grads)[-1]
        np.testing.assert_allclose(np.linalg.norm(end), np.linalg.norm(p), rtol=1e-6)
        assert np.abs(end - p).max() > 1e-3


def one(tx, grads, params):
    return jax.jit(lambda g, p: tx.update(g, tx.init(p), p)[0])(grads, params)


def test_vectors_and_zero_matrices_take_the_step_as_it_is():
    params = {
        "bias": jnp.ones(3),
        "zero": jnp.zeros((2, 3)),
        "kernel": jnp.ones((2, 3)),
        "stack": jnp.ones((2, 3)),
    }
    tx = hyperball(jol.sgd(0.1), matrix_axes={"stack": None})
    updates = one(tx, jax.tree.map(jnp.ones_like, params), params)
    for name in ("bias", "zero", "stack"):
        np.testing.assert_allclose(updates[name], -0.1, rtol=1e-6)
    np.testing.assert_allclose(updates["kernel"], 0, atol=1e-6)


def test_each_layer_of_a_stack_has_its_own_radius():
    params = jnp.stack([jnp.ones((2, 2)), 3 * jnp.ones((2, 2))])
    moved = params + one(hyperball(jol.sgd(0.1)), jax.random.normal(jax.random.key(0), params.shape), params)
    np.testing.assert_allclose(jnp.linalg.norm(moved, axis=(1, 2)), [2, 6], rtol=1e-6)


@pytest.mark.parametrize("size", [1e-25, 1e20])
def test_norms_of_any_magnitude(size):
    p = size * jnp.array([[3.0, 0.0], [0.0, 4.0]])
    u = one(hyperball(jol.sgd(1.0)), p * jnp.array([[1.0, 0.0], [0.0, 0.0]]), p)
    np.testing.assert_allclose((p + u) / size, [[0, 0], [0, 5]], atol=1e-5)


def test_params_are_needed():
    tx = hyperball(jol.sgd(0.1))
    with pytest.raises(ValueError, match=r"hyperball.update: params is None"):
        tx.update(jnp.ones((2, 2)), tx.init(jnp.ones((2, 2))))


def test_laws():
    claims = {"leafwise", "odd", "gradient_dtype", "pickles", "strict"}
    check_transformation(hyperball(jol.adam(1e-2)), claims=claims)
