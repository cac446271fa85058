"""Classification losses: textbook cases, optax at ordinary inputs, masks, labels out of range, infinities."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxopt_lite import losses

INF = np.inf
Z = np.array([[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]], np.float32)
Y = np.array([0, 1])


def test_cross_entropy_textbook():
    targets, predictions = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([[0.8, 0.2], [0.3, 0.7]])
    value = losses.cross_entropy(predictions, targets, reduction="mean")
    np.testing.assert_allclose(value, 0.2899, atol=5e-5)


def test_equal_to_optax_at_ordinary_inputs():
    rows = jax.nn.one_hot(Y, 3)
    np.testing.assert_allclose(
        losses.softmax_cross_entropy_with_integer_labels(Z, Y),
        optax.softmax_cross_entropy_with_integer_labels(Z, Y),
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        losses.softmax_cross_entropy(Z, rows), optax.softmax_cross_entropy(Z, rows), rtol=1e-6
    )
    np.testing.assert_allclose(
        losses.sigmoid_binary_cross_entropy(Z, rows), optax.sigmoid_binary_cross_entropy(Z, rows), rtol=1e-6
    )
    np.testing.assert_allclose(
        losses.hinge_loss(Z, 2 * rows - 1), optax.losses.hinge_loss(Z, 2 * rows - 1), rtol=1e-6
    )
