"""What optimizers share: bias corrections to 2 ulp, second moments of any magnitude, buffers of their own."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from jaxopt_lite.optimizers import moments
from tests import users

DECAYS = (0.0, 0.1, 0.5, 0.9, 0.95, 0.99, 0.999, 0.9999, 1 - 1e-5, 1 - 1e-6, 1 - 1e-7)
STEPS = sorted({*range(1, 40), *(2**k for k in range(6, 31)), *(10**k for k in range(2, 10))})


def exact(decay, t):
    """1 − βᵗ to 50 digits, rounded once."""
    with mpmath.workdps(50):
        return float(1 - mpmath.mpf(decay) ** t)


@pytest.mark.parametrize("decay", DECAYS)
def test_bias_correction_is_right_to_2_ulp(decay):
    """A float32 power is off by 1.3e-5 at step 1 for 0.999, and by 19 % for 1 − 1e-7."""
    got = jax.jit(lambda t: moments.bias_correction(decay, t))(jnp.array(STEPS, jnp.int32))
    expected = np.array([exact(decay, t) for t in STEPS])
    ulp = np.spacing(expected.astype(np.float32)).astype(np.float64)
    assert got.dtype == jnp.float32
    assert np.max(np.abs(np.asarray(got, np.float64) - expected) / ulp) <= 2


def test_bias_correction_in_float64():
    with jax.enable_x64(True):
        got = moments.bias_correction(0.999, jnp.array([1, 10, 1000, 10**6]))
    np.testing.assert_allclose(got, [exact(0.999, t) for t in (1, 10, 1000, 10**6)], rtol=1e-13)


@pytest.mark.parametrize("decay", [0.9, 0.999, 0.0])
def test_bias_correction_of_an_array_is_that_of_its_float32_value(decay):
    t = jnp.array([1, 7, 100], jnp.int32)
    got = jax.jit(moments.bias_correction)(jnp.float32(decay), t)
    np.testing.assert_allclose(got, [exact(float(np.float32(decay)), int(n)) for n in t], rtol=1e-6)


def reference(path, b2):
    """√v after each gradient in float64."""
    v, roots = 0.0, []
    for g in path:
        v = b2 * v + (1 - b2) * np.float64(g) ** 2
        roots.append(np.sqrt(v))
    return np.array(roots)


PATHS = [
    [1.0, -2.0, 0.5, 0.0, 3.0],
    [1e20, 1.0, 1e20, 0.0, 1e10, 1.0],
    [1e22, -1e22, 0.0],
    [1e17, 1e18, 1.2e18, 5e18, 1e19, 1e17],
    [1e-12, 1e20, 1e-12, 0.0],
]


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize("b2", [0.5, 0.999])
def test_second_moments_of_any_magnitude(path, b2):
    step = jax.jit(lambda nu, g: moments.second_moment(nu, g, b2))
    nu, got = jnp.float32(0), []
    for g in np.float32(path):
        nu = step(nu, g)
        assert jnp.isfinite(nu)
        got.append(moments.root_of(nu))
    np.testing.assert_allclose(got, reference(np.float32(path), b2), rtol=2e-6)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e20, 1e35])
def test_running_root_of_any_magnitude(scale):
    path = np.float32(scale) * np.float32([0.0, 1.0, 3.0, 0.0, 1e-6])
    step, root, got = jax.jit(lambda root, x: moments.running_root(root, x, 0.5, 0.5)), jnp.float32(0), []
    for x in path:
        root = step(root, x)
        got.append(root)
    np.testing.assert_allclose(got, reference(path, 0.5), rtol=1e-6)


def test_second_moments_of_complex_entries_are_real():
    g = jnp.array([3 + 4j, 3e20 + 4e20j], jnp.complex64)
    nu = moments.second_moment(jnp.zeros(2), g, 0.0)
    assert nu.dtype == jnp.float32
    np.testing.assert_allclose(moments.root_of(nu), [5, 5e20], rtol=1e-6)


def test_the_root_of_0_is_no_divisor_of_0_and_has_a_finite_slope():
    nu = moments.second_moment(jnp.zeros(()), jnp.zeros(()), 0.999)
    assert nu == 0
    assert 0 < moments.root_of(nu) < 1.2e-16
    slope = jax.grad(lambda g: g / moments.root_of(moments.second_moment(jnp.zeros(()), g, 0.999)))(0.0)
    assert jnp.isfinite(slope)


@pytest.mark.parametrize("eps", [0, 0.0, 1e-8, 2.0, jnp.float32(1e-3)], ids=str)
def test_root_of_v_plus_eps(eps):
    root = jnp.array([0.0, 1.0, 1e10, 1e21])
    nu = moments.second_moment(jnp.zeros(4), root, 0.0)
    expected = np.sqrt(np.float64(root) ** 2 + float(eps))
    np.testing.assert_allclose(moments.root_of(nu, eps), expected, rtol=1e-6, atol=1.2e-16)


def test_after_is_the_value_itself():
    x, y = jnp.array([1.0, jnp.nan]), jnp.array([-jnp.inf, 2.0])
    np.testing.assert_array_equal(moments.after(x, y), x)


def test_slots_have_the_right_dtypes():
    half, turn = jnp.ones(2, jnp.float16), jnp.ones(2, jnp.complex64)
    assert [x.dtype for x in moments.two_moments(half)] == [jnp.float32, jnp.float32]
    assert [x.dtype for x in moments.two_moments(half, jnp.bfloat16)] == [jnp.bfloat16, jnp.float32]
    assert [x.dtype for x in moments.two_moments(turn, jnp.bfloat16)] == [jnp.complex64, jnp.float32]
    assert (moments.real_moment(turn, 0.5) / moments.K**2).tolist() == [0.5, 0.5]
    assert moments.first_moment(half, value=2.0).tolist() == [2, 2]
    assert moments.scalar_dtype({"a": half, "b": turn}) == jnp.float32
    assert moments.scalar_dtype({}) == jnp.float32


def test_own_copy_shares_no_buffer():
    x = jnp.ones(3)
    assert moments.own_copy(x, x.dtype).unsafe_buffer_pointer() != x.unsafe_buffer_pointer()
    shape = jax.ShapeDtypeStruct((3,), jnp.float16)
    assert moments.own_copy(shape, jnp.float32).tolist() == [0, 0, 0]


def test_ema_is_exact_for_floats():
    assert moments.ema(jnp.float32(1.0), jnp.float32(0.0), 0.75) == 0.75


@pytest.mark.parametrize("bad", [1.0, -0.1, float("nan")])
def test_rates_out_of_range_are_named(bad):
    with pytest.raises(ValueError, match="name: b1 is"):
        moments.check_rates("name", decays={"b1": bad})
    with pytest.raises(ValueError, match="name: eps is"):
        moments.check_rates("name", decays={}, epsilons={"eps": -1.0})
    moments.check_rates("name", decays={"b1": jnp.float32(2)}, epsilons={"eps": float("inf")})


@pytest.mark.parametrize("axis", [None, 0, (0, 1), ()])
@pytest.mark.parametrize("size", [1.0, 3e20, 1e-10])
def test_mean_squared_is_numpys_where_the_square_itself_overflows(axis, size):
    x = np.array([[3.0, -4.0, 0.0], [1.0, 2.0, -2.0]], np.float32) * np.float32(size)
    expected = np.mean((moments.K * x.astype(np.float64)) ** 2, axis=axis, keepdims=True)
    got = users.compiled(jax.jit(lambda x: moments.mean_squared(x, axis)).lower(x))(x)
    np.testing.assert_allclose(got, np.broadcast_to(expected, got.shape), rtol=1e-6)


def test_mean_squared_at_the_edges():
    assert moments.mean_squared(jnp.zeros((0, 3)), 0).tolist() == [[0, 0, 0]]
    assert moments.mean_squared(jnp.float32(1024.0)) == 1
    assert moments.mean_squared(jnp.array([3 + 4j, 0j]))[0] == 12.5 * moments.K**2
    assert jnp.isnan(moments.mean_squared(jnp.array([jnp.nan, 1.0]))[0])
    assert moments.mean_squared(jnp.array([jnp.inf, 1.0]))[0] == jnp.inf
