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


def spectrum(s, columns):
    """A matrix with those singular values."""
    rng = np.random.default_rng(0)
    u, _, vh = np.linalg.svd(rng.normal(size=(len(s), columns)), full_matrices=False)
    return u * s @ vh


HOSTILE = {
    "falling by 100": np.geomspace(1, 1e-2, 64),
    "falling by 10,000": np.geomspace(1, 1e-4, 64),
    "one large": np.r_[1, np.full(63, 1e-3)],
    "rank 3": np.r_[1, 1, 1, np.zeros(61)],
}


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize(("name", "steps"), [("jordan", 5), ("jordan", 7), ("dion", 5), ("polar_express", 5)])
def test_the_gram_iteration_adds_less_than_an_eighth_of_what_the_coefficients_leave(name, steps, hostile):
    x, abc = spectrum(HOSTILE[hostile], 256), ns.coefficients_of("test", name, steps)
    s = np.geomspace(0.01, 1, 500)
    for a, b, c in abc:
        s = a * s + b * s**3 + c * s**5
    runs = ns.gram_runs(abc, float(jnp.finfo(jnp.float32).eps))
    assert ns.gram_is_cheaper(x.shape, runs)
    got = ns._iterate_gram(ns.normalized(jnp.asarray(x, jnp.float32)), abc, False, runs)
    assert np.linalg.norm(got - newton_schulz(x, abc), 2) < np.max(abs(s - 1)) / 8


def test_runs_are_as_long_as_rounding_allows():
    runs = lambda name, steps, dtype: ns.gram_runs(
        ns.coefficients_of("test", name, steps), jnp.finfo(dtype).eps
    )
    assert runs("jordan", 5, jnp.float32) == (5,)
    assert runs("jordan", 7, jnp.float32) == (5, 2)
    assert runs("dion", 5, jnp.float32) == (4, 1)
    assert runs("polar_express", 5, jnp.float32) == (3, 2)
    assert runs("polar_express", 9, jnp.float32) == (1,) * 9
    assert runs("jordan", 5, jnp.bfloat16) == (1,) * 5
    assert runs("jordan", 5, jnp.float64) == (5,)
    assert ns.gram_runs(((30.0, 30.0, 30.0),) * 9, 1e-7) == (9,)  # infinitely far from 1, without a warning


def test_gram_is_chosen_by_the_count_of_operations():
    cheaper = [r for r in (1, 1.5, 1.75, 2, 4, 8) if ns.gram_is_cheaper((100, int(100 * r)), (5,))]
    assert cheaper == [1.75, 2, 4, 8]
    assert ns.gram_is_cheaper((3, 400, 100), (2, 3))
    assert not ns.gram_is_cheaper((100, 800), (1, 1))


@pytest.mark.parametrize(("precision", "oblong"), [(None, 15), ("highest", 19)])
def test_accelerators_iterate_on_the_matrix_itself_unless_products_are_exact(precision, oblong):
    shape = jax.ShapeDtypeStruct((8, 64), jnp.float32)
    lower = lambda platform: jax.export.export(
        jax.jit(lambda x: ns.orthogonalize(x, JORDAN)), platforms=[platform]
    )(shape)
    with jax.default_matmul_precision(precision):
        products = {p: lower(p).mlir_module().count("stablehlo.dot_general") for p in ("cpu", "cuda", "tpu")}
    assert products == {"cpu": 19, "cuda": oblong, "tpu": oblong}


@pytest.mark.parametrize("shape", [(24, 24), (24, 96)])
def test_error_to_the_polar_factor_is_no_larger_than_optaxs(shape):
    peer = optax.contrib.scale_by_muon(weight_dimension_numbers=optax.contrib.MuonDimensionNumbers())
    update = jax.jit(lambda x: peer.update(x, peer.init(x))[0])
    for decay in (0, 2, 4):
        x = matrix(shape, decay=decay)
        x32 = jnp.asarray(x, jnp.float32)
        error = lambda y, x=x: np.linalg.norm(np.asarray(y, np.float64) - polar(x))
        assert error(ns.orthogonalize(x32, JORDAN)) <= error(update(x32)) * (1 + 1e-5)


@pytest.mark.parametrize("shape", [(32, 48), (64, 256)])
def test_polar_express_converges_to_float32_accuracy(shape):
    x = matrix(shape, decay=2)
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
