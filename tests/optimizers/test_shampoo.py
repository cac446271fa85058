"""Shampoo: the papers' formula with every kind of grafting and blocks, its roots, hostile gradients, the laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_lite import optimizers
from jaxopt_lite.optimizers.shampoo import inverse_root
from tests.oracles import matrix as oracle
from tests.oracles.optimizers import adam, trajectory


def schedule(step):
    return 0.02 / (1 + 0.02 * step)


# ε is so large that no eigenvalue is noise in float32.
ROWS = [
    {"eps": 1e-2},
    {"eps": 1e-2, "graft": "sgd", "block_size": 3, "weight_decay": 0.2, "precondition_every": 4},
    {"eps": 1e-2, "graft": None, "b1": 0.5, "b2": 0.9, "precondition_every": 1},
]
NAMES = {"precondition_every": "every", "block_size": "block"}


@pytest.mark.parametrize("options", ROWS, ids=["default", "blocks", "alone"])
def test_200_steps_are_the_papers(options):
    (p, g), (vector, gv) = oracle.gradients((5, 4)), oracle.gradients((4,), 1)
    got = oracle.path(optimizers.shampoo(schedule, **options), {"a": p, "b": vector}, {"a": g, "b": gv})
    rule = oracle.shampoo(schedule, **{NAMES.get(k, k): v for k, v in options.items()})
    np.testing.assert_allclose(got["a"], trajectory(rule, p, g)[1:], atol=2e-5)
    plain = adam(schedule, **{k: v for k, v in options.items() if k in ("b1", "b2", "weight_decay")})
    np.testing.assert_allclose(got["b"], trajectory(plain, vector, gv)[1:], atol=2e-5)


def test_hand_case():
    """A first diagonal gradient becomes its sign."""
    g = jnp.diag(jnp.array([4.0, -1.0, 0.25]))
    tx = optimizers.shampoo(0.1, graft=None)
    np.testing.assert_allclose(tx.update(g, tx.init(g))[0], -0.1 * jnp.sign(g), atol=1e-6)


def test_roots_where_eigenvalues_are_noise_or_zero():
    x = np.random.default_rng(0).normal(size=(6, 2))
    low_rank = jnp.asarray(x @ x.T, jnp.float32)
    root = inverse_root(low_rank, jnp.ones((1, 1)), 0.0)
    values = np.linalg.eigvalsh(np.asarray(root, np.float64))
    top = np.linalg.eigvalsh(x @ x.T)[-1]
    np.testing.assert_allclose(values[:1], top**-0.25, rtol=1e-3)
    np.testing.assert_allclose(values[-4:], (top * 6 * np.finfo(np.float32).eps) ** -0.25, rtol=1e-2)
    assert not inverse_root(jnp.zeros((3, 3)), jnp.zeros((1, 1)), 0.0).any()
    np.testing.assert_allclose(
        inverse_root(jnp.zeros((2, 2)), jnp.zeros((1, 1)), 1e-12), 1e3 * np.eye(2), rtol=1e-5
    )


@pytest.mark.parametrize("size", [1e-30, 1e20])
@pytest.mark.parametrize("graft", ["adam", None])
def test_extreme_gradients(size, graft):
    _, grads = oracle.gradients((3, 3), steps=3)
    tx = optimizers.shampoo(0.1, precondition_every=2, graft=graft)
    state, step = tx.init(grads[0]), jax.jit(tx.update)
    other = state
    for g in grads:
        got, state = step(jnp.asarray(size * g, jnp.float32), state)
        want, other = step(jnp.asarray(g), other)
        assert all(jnp.isfinite(x).all() for x in jax.tree.leaves((got, state)))
    if size > 1:
        np.testing.assert_allclose(got, want, atol=1e-4)


def test_wrong_arguments():
    for options in ({"precondition_every": 0}, {"b2": 1.0}, {"block_size": 0}, {"graft": "lamb"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            optimizers.shampoo(0.1, **options)
