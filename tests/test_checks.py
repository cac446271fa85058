"""The checks say function, argument, got and expected."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_lite import checks


def test_shape():
    checks.shape("f", "x", np.ones((2, 3)), (2, 3))
    checks.shape("f", "x", 1.0, ())
    with pytest.raises(ValueError, match=r"^f: x has shape \(2, 3\), expected \(3, 2\)$"):
        checks.shape("f", "x", np.ones((2, 3)), (3, 2))


def test_same_shape_names_the_first():
    checks.same_shape("f", a=np.ones(2), b=jnp.ones(2))
    with pytest.raises(ValueError, match=r"^f: c has shape \(1,\), expected \(2,\), the shape of a$"):
        checks.same_shape("f", a=np.ones(2), b=np.ones(2), c=np.ones(1))


def test_dtypes():
    checks.floating("f", x=jnp.ones(1, jnp.bfloat16), y=1.0)
    checks.integer("f", x=np.ones(1, np.uint8), y=1)
    with pytest.raises(TypeError, match=r"^f: x has dtype int32, expected a floating dtype$"):
        checks.floating("f", x=jnp.ones(1, int))
    with pytest.raises(TypeError, match=r"^f: y has dtype complex64, expected a floating dtype$"):
        checks.floating("f", x=1.0, y=1j)
    for wrong in (np.ones(1, bool), np.ones(1, np.float32)):
        with pytest.raises(TypeError, match=r"^f: x has dtype .*, expected an integer dtype$"):
            checks.integer("f", x=wrong)


def test_one_of():
    checks.one_of("f", "mode", "a", ("a", "b"))
    with pytest.raises(ValueError, match=r"^f: mode is 'c', expected one of 'a', 'b'$"):
        checks.one_of("f", "mode", "c", ("a", "b"))


def test_between_looks_at_python_numbers_only():
    for inside in (0, 1, 0.5, np.float32(0.5), np.int64(1), jnp.array(7.0), None, True, lambda step: 9):
        checks.between("f", "x", inside, 0, 1)
    for outside in (-1, 1.5, float("nan"), np.float64(2)):
        with pytest.raises(ValueError, match=r"^f: x is .*, expected a number in \[0, 1\]$"):
            checks.between("f", "x", outside, 0, 1)
    with pytest.raises(ValueError, match=r"in \(0, 1\]$"):
        checks.between("f", "x", 0, 0, 1, open_low=True)
    with pytest.raises(ValueError, match=r"in \[0, 1\)$"):
        checks.between("f", "x", 1, 0, 1, open_high=True)


def test_same_tree():
    tree = {"w": np.ones((2, 3)), "b": None}
    checks.same_tree("f", "updates", tree, "params", {"w": np.ones((2, 3)), "b": np.ones(5)})
    with pytest.raises(
        ValueError,
        match=r"^f: updates\['w'\] has shape \(2, 3\), expected \(3,\), the shape of params\['w'\]$",
    ):
        checks.same_tree("f", "updates", tree, "params", {"w": np.ones(3), "b": None})
    with pytest.raises(ValueError, match=r"^f: the tree of updates differs from that of params: "):
        checks.same_tree("f", "updates", tree, "params", {"w": np.ones((2, 3))})


def test_labels():
    checks.labels(np.array([[0, 2], [-100, 1]]), 3, ignore_index=-100)
    with pytest.raises(ValueError, match=r"^checks.labels: labels\[1, 0\] is -100, expected 0 … 2$"):
        checks.labels(np.array([[0, 2], [-100, 1]]), 3)
    with pytest.raises(ValueError, match=r"^checks.labels: labels\[0\] is 3, expected 0 … 2 or -1$"):
        checks.labels(np.array([3, -1]), 3, ignore_index=-1)
    with pytest.raises(TypeError, match="expected an integer dtype"):
        checks.labels(np.array([0.0]), 3)


def test_require_params():
    checks.require_params("f", {})
    with pytest.raises(ValueError, match=r"^f\.update: params is None, expected the tree of parameters$"):
        checks.require_params("f", None)
