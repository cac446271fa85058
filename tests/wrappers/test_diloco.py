import os
import pathlib
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_lite as jol
from jaxopt_lite.testing import check_transformation
from jaxopt_lite.wrappers.diloco import diloco

NESTEROV = jol.sgd(0.7, momentum=0.9, nesterov=True)


def randoms(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("inner", [jol.adamw(0.3, weight_decay=0.1), optax.adam(1e-3)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_worker_is_the_inner_optimizer_to_the_bit(inner, dtype):
    """Also where a parameter is tiny beside its update, and the way gone is no exact difference."""
    tx = diloco(inner, jol.sgd(1.0), sync_every=1, axis_name=None)
    start = jnp.asarray(randoms(64) * 10.0 ** np.arange(-32, 32) / 1e10, dtype)
    both = [(start, t.init(start), jax.jit(lambda *trees, t=t: t.update(*trees))) for t in (tx, inner)]
    for k in range(10):
        g = jnp.asarray(randoms(64, seed=k), dtype)
        updates = [update(g, state, params) for params, state, update in both]
        np.testing.assert_array_equal(updates[0][0], updates[1][0])
        both = [(optax.apply_updates(p, u), s, f) for (p, _, f), (u, s) in zip(both, updates, strict=True)]
        np.testing.assert_array_equal(both[0][0], both[1][0])


def oracle(targets, steps, sync_every):
    """DiLoCo in float64 on ½|θ − target|², one target a worker: inner momentum 0.5, outer Nesterov 0.9."""
    anchor = np.zeros(targets.shape[1])
    theta, m, outer_m = np.zeros_like(targets), np.zeros_like(targets), np.zeros_like(anchor)
    for t in range(1, steps + 1):
        m = 0.5 * m + (theta - targets)
        theta = theta - 0.1 * m
        if t % sync_every == 0:
            delta = np.mean(anchor - theta, axis=0)
            outer_m = 0.9 * outer_m + delta
            anchor = anchor - 0.7 * (delta + 0.9 * outer_m)
            theta = np.tile(anchor, (len(targets), 1))
        yield theta


def test_workers_follow_the_papers_algorithm():
    tx = diloco(jol.sgd(0.1, momentum=0.5), NESTEROV, sync_every=3, axis_name="workers")
    targets = randoms(4, 5)

    @jax.jit
    def step(params, state):
        one = lambda p, s, target: tx.update(p - target, s, p)
        updates, state = jax.vmap(one, axis_name="workers")(params, state, jnp.asarray(targets, jnp.float32))
        return optax.apply_updates(params, updates), state

    params = jnp.zeros((4, 5))
    state = jax.vmap(tx.init)(params)
    for true in oracle(targets, 12, 3):
        params, state = step(params, state)
        np.testing.assert_allclose(params, true, rtol=0, atol=2e-6)


def test_sixteen_bits_stay_by_the_anchor():
    """Rounding in θ + (a − θ) does not add up over exchanges."""
    tx = diloco(jol.adam(1e-2), jol.sgd(1.0), sync_every=4, axis_name=None)
    params = jnp.asarray(randoms(256), jnp.bfloat16)
    state = tx.init(params)
    step = jax.jit(lambda p, s, g: (lambda u, s: (optax.apply_updates(p, u), s))(*tx.update(g, s, p)))
    for k in range(40):
        params, state = step(params, state, jnp.asarray(randoms(256, seed=k), jnp.bfloat16))
    apart = np.abs(np.asarray(params, np.float32) - np.asarray(state.anchor, np.float32))
    assert (apart <= 2.0**-7 * np.abs(np.asarray(params, np.float32)) + 1e-6).all()


def test_no_gradient_leaves_a_parameter_alone():
    tx = diloco(jol.sgd(0.5), jol.sgd(0.5), sync_every=1, axis_name=None)
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    updates, state = tx.update({"a": jnp.ones(2), "b": None}, tx.init(params), params)
    assert updates["b"] is None
    assert updates["a"].tolist() == [-0.25, -0.25]
    assert state.anchor["b"].tolist() == [1.0, 1.0, 1.0]


def test_it_is_a_value_and_says_what_is_wrong():
    make = lambda **options: diloco(jol.sgd(0.5), NESTEROV, axis_name="w", **options)
    assert pickle.loads(pickle.dumps(make(sync_every=3))) == make(sync_every=3) != make(sync_every=4)
    for wrong in (0, -1, 2.5):
        with pytest.raises(ValueError, match="diloco: sync_every is"):
            make(sync_every=wrong)
    with pytest.raises(TypeError, match="diloco: outer is the function 'sgd'"):
        diloco(jol.sgd(0.5), jol.sgd, sync_every=1, axis_name=None)
    with pytest.raises(ValueError, match=r"diloco.update: params is None"):
        make(sync_every=3).update(jnp.ones(2), make(sync_every=3).init(jnp.ones(2)))


def test_laws():
    why = "at an exchange the update also undoes what 16-bit parameters lost since the last one"
    known = {"bfloat16_tracks_float32": why, "float16_tracks_float32": why}
    tx = diloco(jol.adam(1e-3), NESTEROV, sync_every=2, axis_name=None)
    check_transformation(tx, expected_failures=known)


def test_on_eight_devices():
    script = pathlib.Path(__file__).with_name("mesh_diloco.py")
    flags = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-W", "error", str(script)], check=True, env=flags)
