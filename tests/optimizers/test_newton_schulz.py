"""Newton–Schulz: the polynomial on singular values, both iterations, coefficient sets, hostile matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_lite.optimizers import newton_schulz as ns
from tests.oracles.matrix import golden, newton_schulz, polar

JORDAN = ns.coefficients_of("test", "jordan", 5)


def matrix(shape, seed=0, decay=0.0):
    """Gaussian, or with singular values falling from 1 to 10^−decay."""
    rng = np.random.default_rng(seed)
    u, s, vh = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    return u * (np.geomspace(1, 10**-decay, len(s)) if decay else s) @ vh


@pytest.mark.parametrize("name", ["jordan", "polar_express", "dion"])
@pytest.mark.parametrize("shape", [(12, 40), (16, 12)])
def test_it_is_the_polynomial_of_the_singular_values(name, shape):
    x, abc = matrix(shape), ns.coefficients_of("test", name, 5)
    got = ns.orthogonalize(jnp.asarray(x, jnp.float32), abc)
    np.testing.assert_allclose(got, newton_schulz(x, abc), atol=3e-6)


def test_complex_matrices_and_stacks():
    x = matrix((3, 6)) + 1j * matrix((3, 6), 1)
    got = ns.orthogonalize(jnp.asarray(np.stack([x, 2j * x]), jnp.complex64), JORDAN)
    want = newton_schulz(x, JORDAN)
    np.testing.assert_allclose(got, np.stack([want, 1j * want]), atol=2e-6)


@pytest.mark.parametrize("name", ["oblong", "square"])
def test_pytorch_optimizers_numbers(name):
    record = golden()[f"newton_schulz {name}"]
    got = ns.orthogonalize(jnp.asarray(record["x"], jnp.float32), JORDAN)
    np.testing.assert_allclose(got, record["standard"], atol=3e-6)
    np.testing.assert_allclose(got, record["gram"], atol=3e-6)


@pytest.mark.parametrize("steps", [2, 5, 9])
def test_gram_iteration_agrees_with_the_standard_one(steps):
    x = ns.normalized(jnp.asarray(matrix((64, 256)), jnp.float32))
    abc = ns.coefficients_of("test", "polar_express", steps)
    got, want = ns._iterate_gram(x, abc, False), ns._iterate(x, abc, False)
    np.testing.assert_allclose(got, want, atol=8e-6)


def test_gram_is_chosen_by_the_count_of_operations():
    cheaper = [r for r in (1, 1.5, 1.75, 2, 4, 8) if ns.gram_is_cheaper((100, int(100 * r)), 5)]
    assert cheaper == [1.75, 2, 4, 8]
    assert ns.gram_is_cheaper((3, 400, 100), 5)
    assert not ns.gram_is_cheaper((100, 800), 1)


def test_tpus_iterate_on_the_matrix_itself():
    shape = jax.ShapeDtypeStruct((8, 64), jnp.float32)
    lower = lambda platform: jax.export.export(
        jax.jit(lambda x: ns.orthogonalize(x, JORDAN)), platforms=[platform]
    )(shape)
    products = {p: lower(p).mlir_module().count("stablehlo.dot_general") for p in ("cpu", "cuda", "tpu")}
    assert products == {"cpu": 18, "cuda": 18, "tpu": 15}


@pytest.mark.parametrize("shape", [(24, 24), (24, 96)])
def test_error_to_the_polar_factor_is_no_larger_than_optaxs(shape):
    peer = optax.contrib.scale_by_muon(weight_dimension_numbers=optax.contrib.MuonDimensionNumbers())
    update = jax.jit(lambda x: peer.update(x, peer.init(x))[0])
    for decay in (0, 2, 4):
        x = matrix(shape, decay=decay)
        x32 = jnp.asarray(x, jnp.float32)
        error = lambda y, x=x: np.linalg.norm(np.asarray(y, np.float64) - polar(x))
        assert error(ns.orthogonalize(x32, JORDAN)) <= error(update(x32)) * (1 + 1e-5)


def test_polar_express_converges_to_float32_accuracy():
    x = matrix((32, 48), decay=2)
    got = ns.orthogonalize(jnp.asarray(x, jnp.float32), ns.coefficients_of("test", "polar_express", 9))
    np.testing.assert_allclose(got, polar(x), atol=2e-6)


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e20, 1e37])
def test_the_size_of_the_entries_does_not_matter(size):
    x = matrix((5, 9))
    got = ns.orthogonalize(jnp.asarray(size * x, jnp.float32), JORDAN)
    np.testing.assert_allclose(got, newton_schulz(x, JORDAN), atol=3e-6)


def test_zeros_stay_zeros_and_have_a_finite_slope():
    for shape in ((3, 3), (2, 2, 7), (0, 4), (2, 3, 0)):
        zeros = jnp.zeros(shape)
        value, slope = jax.jit(jax.value_and_grad(lambda x: jnp.sum(ns.orthogonalize(x, JORDAN))))(zeros)
        assert value == 0
        assert jnp.isfinite(slope).all()


def test_coefficients():
    assert len(ns.coefficients_of("f", "polar_express", 8)) == 8
    assert ns.coefficients_of("f", "polar_express", 8)[-1] == (1.875, -1.25, 0.375)
    assert ns.coefficients_of("f", [(2, -1.5, 0.5)], 2) == ((2.0, -1.5, 0.5),) * 2
    assert ns.coefficients_of("f", [(1, 2, 3), (4, 5, 6)], 1) == ((1.0, 2.0, 3.0),)
    for wrong in ([(1, 2)], [], np.zeros((2, 2, 3))):
        with pytest.raises(ValueError, match="f: coefficients have shape"):
            ns.coefficients_of("f", wrong, 5)
    with pytest.raises(ValueError, match="expected one of 'jordan'"):
        ns.coefficients_of("f", "quick", 5)
    with pytest.raises(ValueError, match="f: steps is 0"):
        ns.coefficients_of("f", "jordan", 0)


def test_published_polynomials_stay_near_one():
    s = np.linspace(0.01, 1, 2000)
    for name, width in (("jordan", 0.32), ("dion", 0.033), ("polar_express", 0.13)):
        x = s
        for a, b, c in ns.coefficients_of("f", name, 5):
            x = a * x + b * x**3 + c * x**5
        assert np.abs(x - 1).max() < width, (name, np.abs(x - 1).max())
