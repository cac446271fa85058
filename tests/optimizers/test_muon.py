"""Muon: the papers' formula, optax's numbers, hand cases, which leaf goes where, hostile leaves, the laws."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_lite as jol
from jaxopt_lite.optimizers import muon as muon_factory
from jaxopt_lite.optimizers import newton_schulz, scale_by_muon
from tests import users
from tests.oracles import matrix as oracle
from tests.oracles.optimizers import adam, trajectory

SHAPES = {"wide": (4, 9), "tall": (6, 5)}


def schedule(step):
    return 0.02 / (1 + 0.02 * step)


@functools.cache
def data(steps=oracle.STEPS):
    pairs = {n: oracle.gradients(s, k, steps) for k, (n, s) in enumerate(SHAPES.items())}
    pairs["bias"] = oracle.gradients((3,), 7, steps)
    return {n: p for n, (p, _) in pairs.items()}, {n: g for n, (_, g) in pairs.items()}


ROWS = [
    {},
    {"nesterov": False, "momentum": 0.8, "scale": "match_rms_adamw", "weight_decay": 0.1},
    {"coefficients": "polar_express", "steps": 7},
]


@pytest.mark.parametrize("options", ROWS, ids=["default", "rms", "polar_express"])
def test_200_steps_are_the_papers(options):
    params, grads = data()
    got = oracle.path(jol.muon(schedule, **options), params, grads)
    options = dict(options)
    abc = newton_schulz.coefficients_of("", options.pop("coefficients", "jordan"), options.pop("steps", 5))
    for name in SHAPES:
        rule = oracle.muon(schedule, coefficients=abc, **options)
        want = trajectory(rule, params[name], grads[name])[1:]
        np.testing.assert_allclose(got[name], want, atol=2e-5)
    np.testing.assert_allclose(
        got["bias"], trajectory(adam(schedule), params["bias"], grads["bias"])[1:], atol=2e-5
    )


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"scale": "match_rms_adamw", "weight_decay": 0.1}, {"consistent_rms": 0.2, "weight_decay": 0.1}),
        (
            {"coefficients": "dion", "adam_learning_rate": 0.1},
            {"ns_coeffs": "dion", "adam_learning_rate": 0.1},
        ),
    ],
    ids=["default", "rms", "dion"],
)
def test_optax_without_nesterov(ours, theirs):
    """With Nesterov optax corrects the bias of both terms, the authors of neither."""
    params, grads = data(100)
    got = oracle.path(jol.muon(0.02, nesterov=False, **ours), params, grads)
    want = oracle.path(optax.contrib.muon(0.02, nesterov=False, **theirs), params, grads)
    for name in params:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", ["original", "match_rms_adamw"])
def test_torchs_numbers(scale):
    """Its iteration runs in bfloat16: 25 steps of about 0.02 each are followed to a tenth of one step."""
    tx = jol.muon(0.02, scale=scale, weight_decay=0.1)
    oracle.check_golden("muon" if scale == "original" else "muon rms", tx, 5e-3)


def one(tx, grads, params=None):
    return jax.jit(lambda g, p: tx.update(g, tx.init(g), p)[0])(grads, params)


def test_hand_case():
    """Singular values 3 and 4 on a 2×4 kernel: p(0.6), p(0.8), times √(4/2)."""
    p = lambda s: functools.reduce(lambda s, _: 3.4445 * s - 4.775 * s**3 + 2.0315 * s**5, range(5), s)
    g = jnp.zeros((2, 4)).at[0, 1].set(3.0).at[1, 3].set(-4.0)
    want = np.zeros((2, 4))
    want[0, 1], want[1, 3] = -0.1 * np.sqrt(2) * p(0.6), 0.1 * np.sqrt(2) * p(0.8)
    np.testing.assert_allclose(one(jol.muon(0.1), g, g), want, atol=1e-6)
    np.testing.assert_allclose(one(jol.muon(0.1), g.T, g.T), want.T / np.sqrt(2), atol=1e-6)


def test_stacks_biases_and_merged_axes():
    rng = np.random.default_rng(0)
    grads = {
        "layers/bias": rng.normal(size=(3, 4)),
        "layers/kernel": rng.normal(size=(3, 4, 6)),
        "out": rng.normal(size=(2, 3, 5)),
        "same": rng.normal(size=(4, 6)),
    }
    grads = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), grads)
    tx = jol.muon(1.0, matrix_axes={"bias": None, "^out$": ((0, 1), 2)})
    got = one(tx, grads, grads)
    np.testing.assert_allclose(got["layers/bias"], -jnp.sign(grads["layers/bias"]), rtol=1e-5)
    alone = lambda g: one(jol.muon(1.0), g, g)
    each = jnp.stack([alone(g) for g in grads["layers/kernel"]])
    np.testing.assert_allclose(got["layers/kernel"], each, atol=1e-6)
    np.testing.assert_allclose(got["same"], alone(grads["same"]), atol=1e-6)
    np.testing.assert_allclose(got["out"].reshape(6, 5), alone(grads["out"].reshape(6, 5)), atol=1e-6)
    assert jax.tree.leaves(one(scale_by_muon(matrix_axes={"bias": None}), grads))[0].shape == (3, 4)


def test_a_nan_stays_in_its_leaf_although_leaves_are_stacked():
    g = jax.random.normal(jax.random.key(0), (3, 4, 4))
    got = one(jol.muon(1.0), [g[0].at[0, 0].set(jnp.nan), g[1], g[2]])
    np.testing.assert_allclose(got[1], one(jol.muon(1.0), g[1]), atol=1e-6)
    assert jnp.isnan(got[0]).all()


def test_stacks_are_bounded():
    module = importlib.import_module("jaxopt_lite.optimizers.muon")  # hidden by the function
    views = [
        jax.ShapeDtypeStruct((b, m, 128), jnp.float32) for b, m in [(1, 128)] * 17 + [(1, 256), (40, 128)]
    ]
    assert [len(g) for g in module._groups(views)] == [16, 1, 1, 1]


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_16_bits(dtype):
    g = jnp.asarray(np.random.default_rng(0).normal(size=(4, 9)), dtype)
    tx = jol.muon(0.1)
    updates, state = tx.update(g, tx.init(g), g)
    assert updates.dtype == dtype
    assert {x.dtype for x in jax.tree.leaves(state)} <= {jnp.dtype("float32"), jnp.dtype("int32")}
    np.testing.assert_allclose(updates, one(tx, g.astype(jnp.float32)), atol=2e-3)
    assert not one(tx, jnp.zeros_like(g)).any()


@pytest.mark.parametrize("size", [1e-30, 1e20])
def test_extreme_gradients(size):
    g = jnp.asarray(np.random.default_rng(0).normal(size=(4, 9)), jnp.float32)
    np.testing.assert_allclose(one(jol.muon(0.1), size * g), one(jol.muon(0.1), g), atol=1e-6)


def test_odd_leaves():
    tree = {
        "empty": jnp.zeros((0, 3)),
        "none": None,
        "row": jnp.ones((1, 5)),
        "scalar": jnp.array(2.0),
        "e": {},
    }
    updates = one(jol.muon(0.1), tree, tree)
    assert jax.tree.structure(updates) == jax.tree.structure(tree)
    assert all(jnp.isfinite(u).all() for u in jax.tree.leaves(updates))
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones((2, 2)), "c": jnp.ones(3)}
    grads = params | {"a": None, "c": None}
    tx = jol.muon(0.1)
    updates, _ = tx.update(grads, tx.init(params), params)
    assert updates["a"] is None
    assert updates["c"] is None


@pytest.mark.cpu
def test_on_a_cpu_matrices_are_worked_on_one_after_the_other():
    """The temporaries of twelve matrices are those of one or two: its Gram matrix, polynomials and products."""
    params = [jax.ShapeDtypeStruct((256, 1024), jnp.float32)] * 12
    temporaries = users.compiled_step(jol.muon(1e-3), params).memory_analysis().temp_size_in_bytes
    assert temporaries < 3 * 4 * 256 * 1024, temporaries / (4 * 256 * 1024)


def test_a_matrix_that_is_not_finite_spoils_no_other():
    params = [jnp.ones((600, 600)), jnp.ones((600, 600))]  # too large to be stacked
    updates = one(jol.muon(0.1), [jnp.full((600, 600), jnp.nan), jnp.eye(600)], params)
    assert jnp.isnan(updates[0]).all()
    assert jnp.isfinite(updates[1]).all()


def test_leaves_that_vary_over_different_axes_of_a_shard_map():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    tx = jol.muon(0.1)
    params = [jnp.arange(1.0, 37).reshape(6, 6), jnp.ones((7, 3))]
    step = lambda *g: tuple(one(tx, list(g)))
    placed = jax.sharding.PartitionSpec("data"), jax.sharding.PartitionSpec()
    got = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=placed, out_specs=placed))(*params)
    for a, b in zip(got, one(tx, params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="momentum is 1"):
        jol.muon(0.1, momentum=1.0)
    with pytest.raises(ValueError, match="expected one of 'original', 'match_rms_adamw'"):
        jol.muon(0.1, scale="rms")
    with pytest.raises(ValueError, match="matrix axes of 'w'"):
        jol.muon(0.1, matrix_axes=(0, 5)).init({"w": jnp.zeros((2, 2))})


def test_it_prints_as_its_call():
    assert repr(jol.muon(0.02, steps=7)) == "muon(learning_rate=0.02, steps=7)"
    assert muon_factory is jol.muon
