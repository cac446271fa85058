"""Norms and inner products that stay right in 16 bits, at extreme magnitudes and at the edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_lite import tree
from tests import users
from tests.oracles.optimizers import global_norm

NORM = jax.jit(tree.norm)
RANDOM = np.random.default_rng(0)

TREES = {
    "fp16 300s": [np.full(40, 300, np.float16)],
    "fp16 subnormals": [np.full(40, 6e-8, np.float16)],
    "bf16 leaves 32 and 400 ones": [jnp.full(1, 32, jnp.bfloat16), jnp.ones(400, jnp.bfloat16)],
    "1e20": [np.full((3, 4), 1e20, np.float32), np.zeros(2, np.float32)],
    "1e38": [np.full(2, 1e38, np.float32)],
    "1e-25": [np.full(7, 1e-25, np.float32)],
    "1e-37": [np.full(7, 1e-37, np.float32)],
    "mixed magnitudes": [np.array([1e20, 1e-20, 3.0], np.float32), np.array(-1e20, np.float32)],
    "just comfortable": [np.full(3, 3e-11, np.float32)],
    "mixed dtypes": [
        np.full(3, 300, np.float16),
        jnp.full(5, 1e20, jnp.bfloat16),
        np.ones((2, 2), np.float32),
    ],
    "normal": [RANDOM.normal(size=(30, 20)).astype(np.float32), RANDOM.normal(size=5).astype(np.float32)],
    "complex": [np.array([3 + 4j, -1j], np.complex64), np.array([2.0], np.float32)],
    "complex 1e20": [np.array([3e20 + 4e20j], np.complex64)],
    "integers": [np.arange(5)],
    "zeros": [np.zeros(3, np.float32)],
    "zero-size and 0-d": [np.zeros((0, 3), np.float32), np.float32(-2)],
}


@pytest.mark.parametrize("name", TREES)
def test_norm_equals_float64(name):
    leaves = [jnp.asarray(x) for x in TREES[name]]
    got = NORM({"tree": leaves, "none": None})
    assert got.dtype == jnp.float32
    assert got.shape == ()
    np.testing.assert_allclose(got, exact(leaves), rtol=5e-7)


def exact(leaves):
    return global_norm([np.asarray(x, np.result_type(np.float64, x.dtype)) for x in leaves])


@pytest.fixture
def on_a_gpu(monkeypatch):
    """What is written for a GPU, on whatever runs the tests."""
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *x, cuda, **others: cuda(*x))
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.parametrize("name", TREES)
def test_norm_as_on_a_gpu(name, on_a_gpu):
    leaves = [jnp.asarray(x) for x in TREES[name]]
    np.testing.assert_allclose(jax.jit(lambda leaves: tree.norm(leaves))(leaves), exact(leaves), rtol=5e-7)


@pytest.mark.parametrize("scale", [0.0, 1e-25, 1.0, 1e20, 5e37])
def test_gradient_as_on_a_gpu(scale, on_a_gpu):
    x = jnp.float32([3, -4, 0]) * scale
    expected = np.array([0.6, -0.8, 0]) if scale else np.zeros(3)
    np.testing.assert_allclose(jax.grad(lambda x: tree.norm(x))(x), expected, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_as_on_a_gpu(bad, on_a_gpu):
    assert str(float(jax.jit(lambda x: tree.norm(x))(jnp.float32([bad, 1])))) == str(abs(bad))


@pytest.mark.parametrize(("bad", "expected"), [(np.inf, np.inf), (-np.inf, np.inf), (np.nan, np.nan)])
def test_norm_of_what_is_not_finite(bad, expected):
    for rest in (np.ones(3), np.full(3, 1e20), np.zeros(3)):
        np.testing.assert_equal(
            np.asarray(NORM([jnp.float32([bad, 1]), jnp.float32(rest)])), np.float32(expected)
        )


def test_norm_of_nothing_is_zero():
    assert tree.norm({}) == 0
    assert tree.norm([None]) == 0
    assert tree.norm(jnp.zeros((0,))) == 0


@pytest.mark.parametrize("scale", [0.0, 1e-25, 1.0, 1e20])
def test_gradient_of_the_norm_is_the_unit_vector(scale):
    x = jnp.float32([3, -4, 0]) * scale
    expected = np.array([0.6, -0.8, 0]) if scale else np.zeros(3)
    np.testing.assert_allclose(jax.grad(tree.norm)(x), expected, rtol=1e-6)
    np.testing.assert_allclose(
        jax.jvp(tree.norm, (x,), (jnp.ones(3),))[1], expected.sum(), rtol=1e-6, atol=1e-7
    )


def test_gradient_in_its_own_dtype_of_a_difference_and_under_vmap():
    x = {"a": jnp.array([3.0, 0], jnp.bfloat16), "b": jnp.complex64([4j])}
    slope = jax.grad(tree.norm)(x)
    assert (slope["a"].dtype, slope["b"].dtype) == (jnp.bfloat16, jnp.complex64)
    np.testing.assert_allclose(np.float32(slope["a"]), [0.6, 0], rtol=4e-3)
    np.testing.assert_allclose(slope["b"], [-0.8j], rtol=1e-6)  # JAX's convention: the conjugate
    two = jnp.float32([3, 4]), jnp.float32([0, 8])
    slopes = jax.grad(lambda a, b: tree.norm(a, minus=b), (0, 1))(*two)
    np.testing.assert_allclose(slopes, [[0.6, -0.8], [-0.6, 0.8]], rtol=1e-6)
    rows = jnp.float32([[3, 4]]) * jnp.float32([[1e20], [1e-25], [0], [1]])
    np.testing.assert_allclose(jax.vmap(jax.grad(tree.norm))(rows)[::3], [[0.6, 0.8]] * 2, rtol=1e-6)
    np.testing.assert_allclose(jax.hessian(tree.norm)(rows[3]), [[0.128, -0.096], [-0.096, 0.072]], rtol=1e-5)


def test_norm_under_vmap_equals_the_loop():
    rows = jnp.float32([[1e20, 1e20], [0, 0], [3, 4], [1e-25, 0], [np.nan, 1]])
    expected = np.stack([NORM(row) for row in rows])
    np.testing.assert_allclose(jax.jit(jax.vmap(tree.norm))(rows), expected, rtol=1e-6)


def test_float64():
    with jax.enable_x64(True):
        got = tree.norm({"a": jnp.full(4, 1e200, jnp.float64), "b": jnp.ones(2, jnp.float32)})
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(got, 2e200, rtol=1e-15)
        # A scale that only float64 can hold meets a float32 leaf.
        tiny = {"a": jnp.full(4, 1e-300, jnp.float64), "b": jnp.zeros(2, jnp.float32)}
        np.testing.assert_allclose(tree.norm(tiny), 2e-300, rtol=1e-15)


def test_norm_sums_over_a_mesh_axis():
    rows = jnp.float32([[3, 0], [0, 4]])
    for scale in (1.0, 1e20):
        got = jax.vmap(lambda x: tree.norm([x], axis_name="d"), axis_name="d")(rows * scale)
        np.testing.assert_allclose(got, [5 * scale] * 2, rtol=1e-6)


def test_vdot_accumulates_in_float32():
    a = {"h": jnp.full(300, 100, jnp.float16), "c": jnp.complex64([1 + 2j])}
    got = tree.vdot(a, a)
    np.testing.assert_allclose(got, 300 * 100.0**2 + 5)
    np.testing.assert_allclose(tree.vdot(jnp.complex64([1j]), jnp.complex64([1 + 1j])), -1j * (1 + 1j))
    assert tree.vdot({}, {}) == 0


def test_cast_keeps_integers():
    got = tree.cast({"x": jnp.ones(2), "i": jnp.arange(2), "n": None}, jnp.bfloat16)
    assert got["x"].dtype == jnp.bfloat16
    assert got["i"].dtype == jnp.int32
    assert got["n"] is None


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [
        (jnp.float16, jnp.float32),
        (jnp.bfloat16, jnp.float32),
        (jnp.float32, jnp.float32),
        (jnp.complex64, jnp.complex64),
        (jnp.int8, jnp.float32),
    ],
)
def test_accumulators_are_float32_or_better(dtype, kept):
    assert tree.zeros(jnp.ones(3, dtype)).dtype == kept
    assert tree.zeros(jax.ShapeDtypeStruct((3,), dtype)).dtype == kept
    assert not tree.zeros(jnp.ones(3, dtype)).weak_type


def test_broadcast_prefix_counts_none_as_a_leaf():
    part = {"a": [1, None, 2], "b": {"c": 3}, "d": {}}
    assert tree.broadcast_prefix(True, part) == [True] * 4
    assert tree.broadcast_prefix({"a": "x", "b": "y", "d": "z"}, part) == ["x", "x", "x", "y"]
    assert tree.broadcast_prefix({"a": ["x", "y", "z"], "b": {"c": "w"}, "d": {}}, part) == [
        "x",
        "y",
        "z",
        "w",
    ]


def test_safe_sqrt_and_bounds():
    np.testing.assert_array_equal(tree.safe_sqrt(jnp.float32([0, 4, np.inf])), [0, 2, np.inf])
    assert np.isnan(tree.safe_sqrt(jnp.float32(np.nan)))
    np.testing.assert_array_equal(jax.vmap(jax.grad(tree.safe_sqrt))(jnp.float32([0, 4])), [0, 0.25])
    z = jnp.complex64([3 - 4j])
    assert tree.abs2(z) == 25
    assert tree.abs_bound(z) == 4
    assert not jnp.iscomplexobj(tree.abs2(z))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64", "int8", "uint32"])
def test_known_late_is_true_whatever_the_bits_and_not_known_while_compiling(dtype):
    bits = np.random.default_rng(3).integers(0, 256, (200, 3, 8), np.uint8)
    for word in bits:
        arrays = {
            "a": jnp.asarray(word).view(dtype),
            "none": jnp.zeros((0, 4), dtype),
            "one": jnp.ones((), dtype),
        }
        assert tree.known_late(arrays)
    assert " multiply(" in users.compiled(jax.jit(tree.known_late).lower(arrays)).as_text()
