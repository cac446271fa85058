"""Kernels run shard by shard: the plan's notation, and every language loss on meshes of eight devices."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_lite.losses.spread import Plan, spread
from jaxopt_lite.losses.vocabulary import Head


def kernel(head, x, w):
    """Row sums of ``x·w``, and the gradient of their sum in ``w``."""
    return (x @ w).sum(1), jnp.broadcast_to(x.sum(0)[:, None], w.shape)


def test_the_rule_names_every_axis():
    plan = Plan(kernel, Head(), ("nh", "hv"), ("n", "hv"))
    assert plan.rule() == "n h, h v -> n, h v"


def test_on_one_device_it_is_the_kernel_batched_and_differentiated_too():
    x, w = np.arange(6.0, dtype=np.float32).reshape(3, 2), np.ones((2, 5), np.float32)
    run = lambda x: spread(kernel, Head(), ("nh", "hv"), ("n", "hv"), x, w)
    jax.tree.map(np.testing.assert_array_equal, run(x), kernel(None, x, w))
    twice = jax.vmap(run)(np.stack([x, 2 * x]))
    np.testing.assert_array_equal(twice[0][1], 2 * run(x)[0])
    np.testing.assert_array_equal(twice[1][0], run(x)[1])
    tangent = jax.jvp(run, (x,), (3 * x,))[1]
    np.testing.assert_array_equal(tangent[0], 3 * run(x)[0])


def test_on_a_mesh():
    """Eight devices need a process of their own."""
    script = pathlib.Path(__file__).with_name("mesh_language.py")
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    path = os.pathsep.join([str(script.parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
