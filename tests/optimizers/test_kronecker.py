"""Averages of Gram matrices: the formula in a scaled form, magnitudes, sides left alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxopt_lite.optimizers import kronecker


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e25])
def test_it_is_the_average_divided_by_the_scale_squared(size):
    rng = np.random.default_rng(0)
    sizes = np.array([1, 100, 1e-3, 1e-3, 10]) * size
    grads = [(c * rng.normal(size=(2, 3, 4))).astype(np.float32) for c in sizes]
    state = (jnp.zeros((2, 3, 3)), jnp.zeros((0, 0)), jnp.zeros((2, 1, 1)))
    want = 0
    for g in grads:
        state = kronecker.average(jnp.asarray(g), *state, 0.9)
        wide = g.astype(np.float64)
        want = 0.9 * want + 0.1 * wide @ wide.swapaxes(-1, -2)
    left, right, scale = (np.asarray(x, np.float64) for x in state)
    np.testing.assert_allclose(left * scale**2, want, rtol=2e-5, atol=1e-6 * np.abs(want).max())
    assert right.shape == (0, 0)
    assert 0.09 < np.abs(left).max() < 10


def test_zeros_are_harmless():
    state = kronecker.average(jnp.zeros((3, 2)), jnp.zeros((3, 3)), jnp.zeros((2, 2)), jnp.zeros((1, 1)), 0.9)
    assert not any(x.any() for x in state)


@pytest.mark.parametrize("shape", [(5, 2), (2, 5)])
def test_both_sides(shape):
    rng = np.random.default_rng(0)
    x, left, right = (
        rng.normal(size=shape),
        rng.normal(size=(shape[0],) * 2),
        rng.normal(size=(shape[1],) * 2),
    )
    none = jnp.zeros((0, 0))
    run = lambda *arrays: kronecker.both_sides(*(jnp.asarray(a, jnp.float32) for a in arrays))
    np.testing.assert_allclose(run(left, x, right), left @ x @ right, atol=2e-5)
    np.testing.assert_allclose(run(left, x, none), left @ x, atol=2e-5)
    np.testing.assert_allclose(run(none, x, right), x @ right, atol=2e-5)
    np.testing.assert_allclose(run(none, x, none), x, rtol=1e-7)


@pytest.mark.parametrize("shape", [(5, 2), (2, 5)])
def test_adjoints_of_either_side(shape):
    rng = np.random.default_rng(0)
    x, left, right = (rng.normal(size=size) for size in (shape, (shape[0],) * 2, (shape[1],) * 2))
    left, right = left + 1j * left[::-1], right - 2j * right[::-1]
    run = lambda *arrays: kronecker.both_sides(
        *(jnp.asarray(a, jnp.complex64) for a in arrays[:3]), *arrays[3:]
    )
    np.testing.assert_allclose(run(left, x, right, "left"), left.conj().T @ x @ right, atol=5e-5)
    np.testing.assert_allclose(run(left, x, right, "right"), left @ x @ right.conj().T, atol=5e-5)


def low_rank(n):
    x = np.random.default_rng(n).normal(size=(n, n)).astype(np.float32)
    return x[:, :3] @ x[:3]


SQUARES = {
    "normal": np.random.default_rng(0).normal(size=(23, 23)).astype(np.float32),
    "batch": np.random.default_rng(1).normal(size=(2, 3, 20, 20)).astype(np.float32),
    "low rank": low_rank(21),
    "zero": np.zeros((20, 20), np.float32),
    "falling to 1e-30": np.diag(np.geomspace(1, 1e-30, 22)).astype(np.float32),
    "huge": 1e18 * np.random.default_rng(2).normal(size=(15, 15)).astype(np.float32),
    "few": np.random.default_rng(3).normal(size=(9, 9)).astype(np.float32),
    "complex": np.random.default_rng(4).normal(size=(20, 20)).astype(np.complex64) * (1 + 2j),
}


@pytest.mark.parametrize("name", SQUARES)
def test_the_orthogonal_factor_by_panels(name, monkeypatch):
    monkeypatch.setattr(kronecker, "PANEL", 5)
    x = SQUARES[name]
    q = np.asarray(jax.jit(kronecker.orthogonal_factor)(x), np.complex128)
    adjoint = np.swapaxes(q, -2, -1).conj()
    np.testing.assert_allclose(adjoint @ q, np.broadcast_to(np.eye(x.shape[-1]), q.shape), atol=3e-6)
    assert np.max(np.abs(np.tril(adjoint @ x, -1))) <= 1e-5 * np.max(np.abs(x))  # R


def test_panels_change_no_basis(monkeypatch):
    """Signs too are LAPACK's, so that a state moves between machines."""
    x = jnp.asarray(SQUARES["normal"])
    whole = kronecker.orthogonal_factor(x)
    monkeypatch.setattr(kronecker, "PANEL", 4)
    text = str(jax.make_jaxpr(kronecker.orthogonal_factor)(x))
    assert "triangular_solve" in text
    np.testing.assert_allclose(kronecker.orthogonal_factor(x), whole, atol=3e-6)
    assert jax.grad(lambda x: kronecker.orthogonal_factor(x).sum())(x).tolist() == jnp.zeros_like(x).tolist()


@pytest.mark.cpu
@pytest.mark.parametrize("batch", [(), (1,), (2, 3)])
def test_one_by_one_in_shares_of_a_device(batch):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(*batch, 4, 4)), jnp.float32)
    f = jnp.linalg.eigvalsh
    run = lambda x: kronecker.one_by_one(f, x @ jnp.swapaxes(x, -2, -1))
    mesh = jax.make_mesh((1,), ("data",))
    share = jax.shard_map(run, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)
    assert ("while" in jax.jit(share).lower(x).as_text()) == (len(batch) > 1)
    assert "while" not in jax.jit(run).lower(x).as_text()
    np.testing.assert_allclose(jax.jit(share)(x), run(x), rtol=1e-4, atol=1e-5)
