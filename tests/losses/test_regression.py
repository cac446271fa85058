"""Regression losses: the textbook case, optax at ordinary inputs, and the edges of each formula."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_lite import losses

P = np.array([[1.2, 1.8, 3.5], [-0.3, 0.0, 40.0]], np.float32)
T = np.array([[1.0, 2.0, 3.0], [0.5, 0.0, -2.0]], np.float32)


def test_squared_error_textbook():
    value = losses.squared_error(jnp.array([1.2, 1.8, 3.5]), jnp.array([1.0, 2.0, 3.0]), reduction="mean")
    np.testing.assert_allclose(value, 0.11, rtol=1e-6)


@pytest.mark.parametrize("name", ["squared_error", "l2_loss", "huber_loss", "log_cosh"])
def test_elementwise_equals_optax(name):
    ours, theirs = getattr(losses, name), getattr(optax.losses, name)
    np.testing.assert_allclose(ours(P, T), theirs(P, T), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours(P), theirs(P), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["squared_error", "absolute_error", "huber_loss", "log_cosh", "quantile_loss"]
)
def test_wrong_shape_and_dtype_name_the_function(name):
    loss = getattr(losses, name)
    with pytest.raises(ValueError, match=rf"{name}: targets has shape \(3,\), expected \(2, 3\)"):
        loss(P, T[0])
    with pytest.raises(TypeError, match=f"{name}: predictions has dtype int32, expected a floating dtype"):
        loss(jnp.arange(3), jnp.arange(3))


def test_huber_second_derivative_at_the_target():
    second = jax.grad(jax.grad(losses.huber_loss))
    assert second(0.0) == 1.0
    assert second(3.0) == 0.0
