"""Shares of matrices: which, off a mesh, and on eight devices."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh

from jaxopt_lite.shares import _sharers, by_matrix, divided, fits, grid, on_mesh, share_out


def run_on_eight_devices(what):
    """One part of the script: test_alike.py and test_blocks.py run others, since files run beside each other."""
    script = pathlib.Path(__file__).with_name("mesh_shares.py")
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-W", "error", str(script), what], check=True, env=env)


def test_the_numbers_on_eight_devices():
    run_on_eight_devices("numbers")


def test_matrices_are_shared_out_by_the_smallest_shares_then_the_fewest_parts():
    pod = AbstractMesh((4, 2), ("data", "fsdp"))
    assert set(_sharers(pod, 5)) == set(_sharers(pod, 16)) == {"fsdp", "data"}
    assert _sharers(pod, 4) == _sharers(pod, 3) == ("data",)
    assert _sharers(pod, 2) == ("fsdp",)
    assert _sharers(AbstractMesh((2, 2), ("data", "fsdp")), 2) == ("fsdp",)
    assert _sharers(pod, 1) == ()


def test_off_a_mesh_nothing_is_shared_out():
    assert not on_mesh()
    assert share_out(lambda x: x.shape, jnp.ones((5, 3, 2))) == (5, 3, 2)
    with jax.set_mesh(jax.make_mesh((1,), ("data",))):
        assert not on_mesh()
    assert by_matrix(lambda x, y: (x.shape, y.shape), jnp.ones((5, 3, 2)), jnp.ones((5, 4))) == (
        (5, 3, 2),
        (5, 4),
    )


def test_the_first_axis_that_devices_divide():
    assert divided((3, 16, 8), 8) == 1
    assert divided((3, 0), 8) is None is divided((), 1)


@pytest.mark.parametrize(
    ("length", "size", "expected"),
    [
        (8, 8, True),  # one block
        (5, 16, True),
        (16, 4, True),  # parts of 8, 4 and 2 rows
        (16, 16, True),
        (64, 8, True),
        (36, 9, True),  # eight devices do not divide it
        (25, 8, True),  # no axis does
        (24, 8, False),  # parts of 3 rows
        (12, 8, False),
        (100, 16, False),
        (40, 16, False),  # eight parts of 5
    ],
)
def test_which_blocks_end_where_axes_cut(length, size, expected):
    with jax.sharding.use_abstract_mesh(AbstractMesh((2, 4), ("data", "fsdp"))):
        assert fits(length, size) == expected
    assert fits(length, size)


def test_an_axis_without_parts_cuts_nothing():
    with jax.sharding.use_abstract_mesh(AbstractMesh((1, 8), ("data", "fsdp"))):
        assert fits(25, 8)


@pytest.mark.parametrize(
    ("rows", "columns", "expected"),
    [
        (16, 3, (8, ())),  # whole rows of blocks
        (2, 8, (2, ("fsdp",))),  # a quarter of one
        (1, 16, (1, ("data", "fsdp"))),
        (2, 6, None),
        (4, 4, None),  # an axis would have to split both
        (3, 8, None),
    ],
)
def test_equal_runs_of_blocks(rows, columns, expected):
    with jax.sharding.use_abstract_mesh(AbstractMesh((2, 4), ("data", "fsdp"))):
        assert grid(rows, columns) == expected
