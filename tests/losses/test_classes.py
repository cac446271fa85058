"""The mechanism of losses over classes, where the losses themselves do not reach it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_lite.losses import classes

INF = np.inf


def test_below_top_takes_the_limit_of_infinite_logits():
    z = jnp.array([[1.0, 3.0], [INF, 0.0], [-INF, -INF], [INF, INF]])
    shifted, top = classes.below_top(z, -1)
    np.testing.assert_array_equal(shifted, [[-2, 0], [0, -INF], [0, 0], [0, 0]])
    np.testing.assert_array_equal(top[:, 0], [3, INF, -INF, INF])


def test_log_probabilities():
    z = jnp.array([[0.0, np.log(3.0)], [-INF, 5.0], [-INF, -INF]])
    np.testing.assert_allclose(
        classes.log_probabilities(z), [[np.log(0.25), np.log(0.75)], [-INF, 0], [0, 0]], rtol=1e-6
    )


def test_pick_returns_zero_for_a_label_that_is_no_class():
    values = jnp.arange(6.0).reshape(2, 3) + 1
    np.testing.assert_array_equal(classes.pick(values, jnp.array([2, 3])), [3, 0])


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint32])
def test_labels_are_compared_as_signed_integers(dtype):
    labels, where = classes.label_mask(
        "loss", np.array([0, 200 % np.iinfo(dtype).max], dtype), (2,), None, None, 0
    )
    assert labels.dtype == jnp.int32
    np.testing.assert_array_equal(where, [False, True])
    assert labels[0] == 0


def test_wide_labels_keep_their_width():
    with jax.enable_x64(True):
        labels, _ = classes.label_mask("loss", np.array([2**32]), (1,), None, None)
        assert np.isnan(classes.valid_or_nan(jnp.ones(1), labels, 4)).all()
