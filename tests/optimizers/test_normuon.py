"""NorMuon: the paper's formula, what a neuron is, stacks, hostile gradients, the laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_lite import optimizers
from tests.oracles import matrix as oracle
from tests.oracles.optimizers import adam, trajectory


def schedule(step):
    return 0.02 / (1 + 0.02 * step)


@pytest.mark.parametrize(
    "options", [{}, {"momentum": 0.8, "b2": 0.9, "weight_decay": 0.1}], ids=["default", "decay"]
)
def test_200_steps_are_the_papers(options):
    (p, g), (vector, gv) = oracle.gradients((6, 5)), oracle.gradients((4,), 1)
    got = oracle.path(optimizers.normuon(schedule, **options), {"a": p, "b": vector}, {"a": g, "b": gv})
    np.testing.assert_allclose(got["a"], trajectory(oracle.normuon(schedule, **options), p, g)[1:], atol=2e-5)
    np.testing.assert_allclose(got["b"], trajectory(adam(schedule), vector, gv)[1:], atol=2e-5)


def test_pytorch_optimizers_numbers():
    oracle.check_golden("normuon", optimizers.normuon(0.02, momentum=0.9, b2=0.9), 2e-5)


def test_every_neuron_has_the_same_size_at_muons_norm():
    g = jnp.asarray(np.random.default_rng(0).normal(size=(6, 5)) * [1, 2, 3, 4, 100], jnp.float32)
    norm = jnp.linalg.norm
    run = lambda tx: jax.jit(lambda g: tx.update(g, tx.init(g), g)[0])(g)
    ours, muons = run(optimizers.normuon(1.0)), run(optimizers.muon(1.0))
    np.testing.assert_allclose(norm(ours, axis=0), norm(muons) / 5**0.5, rtol=1e-5)


def test_state_and_matrix_axes():
    params = {"stack": jnp.ones((2, 3, 4)), "out": jnp.ones((2, 3, 5)), "bias": jnp.ones((2, 4))}
    tx = optimizers.scale_by_normuon(matrix_axes={"out": ((0, 1), 2), "bias": None})
    state = tx.init(params)
    shapes = jax.tree.map(lambda x: x.shape, state.nu, is_leaf=lambda x: hasattr(x, "shape"))
    assert shapes == {"stack": (2, 1, 4), "out": (1, 1, 5), "bias": (0,)}
    updates, _ = jax.jit(tx.update)(params | {"stack": jnp.zeros((2, 3, 4))}, state)
    assert not updates["stack"].any()
    assert jnp.isfinite(updates["out"]).all()


@pytest.mark.parametrize("size", [1e-30, 1e20])
def test_the_size_of_gradients_does_not_matter(size):
    g = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)), jnp.float32)
    tx = optimizers.normuon(0.1)
    run = jax.jit(lambda g: tx.update(g, tx.init(g), g)[0])
    np.testing.assert_allclose(run(size * g), run(g), atol=1e-5)
