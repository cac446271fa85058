"""Which leaves are matrices, and leaves of any rank as batches of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_lite.optimizers import matrices
from jaxopt_lite.optimizers.matrices import Axes

PARAMS = {
    "dense": {"bias": jnp.zeros((4, 6)), "kernel": jnp.zeros((4, 5, 6))},
    "out": jnp.zeros((2, 3, 6)),
    "temperature": jnp.zeros(()),
}


def named(matrix_axes, params=PARAMS):
    axes = matrices.axes_of("f", matrix_axes, params)
    paths = [
        "/".join(str(k.key) for k in path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]
    ]
    return dict(zip(paths, axes, strict=True))


DEFAULT3, MERGED = Axes((1,), (2,), (0,)), Axes((0, 1), (2,), ())
WANTED = {"dense/bias": None, "dense/kernel": DEFAULT3, "out": MERGED, "temperature": None}


@pytest.mark.parametrize(
    "matrix_axes",
    [
        {"bias": None, "^out$": ((0, 1), 2)},
        {"dense": {"bias": None, "kernel": (1, -1)}, "out": ((0, 1), 2), "temperature": None},
        lambda path, leaf: None if "bias" in path else ((0, 1), 2) if path == "out" else (-2, -1),
    ],
    ids=["patterns", "tree", "function"],
)
def test_three_ways_to_name_the_axes(matrix_axes):
    assert named(matrix_axes) == WANTED


def test_default_and_one_pair_for_all():
    assert named(None) == {"dense/bias": Axes((0,), (1,), ()), "dense/kernel": DEFAULT3, "out": DEFAULT3} | {
        "temperature": None
    }
    assert named((1, 0))["dense/bias"] == Axes((1,), (0,), ())
    assert named(optax.contrib.MuonDimensionNumbers(0, 1))["dense/kernel"] == Axes((0,), (1,), (2,))
    tree = {"dense": None, "out": (0, 1), "temperature": None}
    assert named(tree)["dense/kernel"] is None


def test_masked_leaves_and_none_keep_the_others_in_place():
    masked = {"dense": {"bias": optax.MaskedNode(), "kernel": PARAMS["dense"]["kernel"]}, "out": None}
    assert matrices.axes_of("f", {"bias": None}, masked) == [DEFAULT3, None]


@pytest.mark.parametrize("pair", [(0, 0), (0, 7), ((), 1), (0, 1, 2), ("a", 1)])
def test_wrong_axes_are_named(pair):
    with pytest.raises(ValueError, match="f: the matrix axes of 'w', of shape"):
        matrices.axes_of("f", lambda path, leaf: pair, {"w": jnp.zeros((2, 3, 4))})


def test_there_and_back():
    x = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    axes = matrices.axes_of("f", ((3, 1), 0), x)[0]
    view = matrices.to_matrices(jnp.asarray(x), axes)
    assert view.shape == (4, 15, 2)
    assert matrices.sizes(x.shape, axes) == (15, 2)
    assert view[3, 2 * 3 + 1, 0] == x[0, 1, 3, 2]
    np.testing.assert_array_equal(matrices.from_matrices(view, x.shape, axes), x)
