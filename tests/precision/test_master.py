"""Kahan summation and master weights: nothing is lost, and apply_updates lands on the intended number."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_lite as jol
from jaxopt_lite.testing import check_transformation
from tests import users
from tests.precision.test_rounding import run

FAILS = {
    "dtypes_kept": "emits float32 updates for 16-bit parameters",
    "bfloat16_tracks_float32": "its updates land on bfloat16 numbers",
    "float16_tracks_float32": "its updates land on float16 numbers",
}
WRAPPERS = {"kahan": jol.kahan, "int16": lambda tx: jol.master_weights(tx, "int16")}
WRAPPERS |= {"float32": jol.master_weights, "int8": lambda tx: jol.master_weights(tx, "int8")}


@pytest.mark.parametrize(
    "tx",
    [jol.kahan(jol.adam(1e-2)), jol.stochastic_rounding(jol.adam(1e-2)), jol.low_memory_adamw(1e-2)],
    ids=repr,
)
def test_exact_updates_are_float32(tx):
    """The laws that exports.py leaves out for them are indeed broken."""
    check_transformation(tx, laws=list(FAILS), expected_failures=FAILS)


def test_laws_with_a_correction_in_a_byte():
    tx = jol.master_weights(jol.adam(1e-2), "int8")
    check_transformation(tx, claims={"pickles", "strict"}, expected_failures=FAILS)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["kahan", "int16", "float32"])
@pytest.mark.parametrize("compiler", [lambda update: update, users.with_excess_precision], ids=["cpu", "gpu"])
def test_10_000_updates_of_a_thousandth_of_the_spacing_arrive(name, dtype, compiler):
    ulp = float(jnp.finfo(dtype).eps)
    params = jnp.asarray(np.random.default_rng(0).uniform(1.1, 1.9, 64), dtype)
    grads = jnp.full(64, -ulp / 1024, dtype)
    exact = 10_240 * float(-grads[0])
    tx = WRAPPERS[name](jol.sgd(1.0))
    tx = optax.GradientTransformation(tx.init, compiler(tx.update))
    moved = run(tx, params, grads, 10_240)[0].astype(jnp.float32) - params
    assert abs(float(moved.mean()) / exact - 1) < 0.02


def test_float32_corrections_give_the_float32_trajectory():
    rng = np.random.default_rng(1)
    grads = [jnp.asarray(rng.normal(size=50), jnp.float32) for _ in range(30)]
    params = jnp.asarray(rng.normal(size=50), jnp.bfloat16)
    tx, plain = jol.master_weights(jol.adamw(1e-3)), jol.adamw(1e-3)
    state, wide, wide_state = (
        tx.init(params),
        params.astype(jnp.float32),
        plain.init(params.astype(jnp.float32)),
    )
    for g in grads:
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        updates, wide_state = plain.update(g, wide_state, wide)
        wide = optax.apply_updates(wide, updates)
        np.testing.assert_array_equal(params.astype(jnp.float32) + state.correction, wide)
        np.testing.assert_array_equal(params, wide.astype(jnp.bfloat16))


@pytest.mark.parametrize(("kind", "bits"), [("int16", 15), ("int8", 7)])
def test_integer_corrections_give_so_many_more_bits(kind, bits):
    rng = np.random.default_rng(2)
    params = jnp.asarray(rng.normal(size=4000) * 10.0 ** rng.uniform(-20, 20, 4000), jnp.bfloat16)
    tx = jol.master_weights(jol.sgd(1.0), kind)
    grads = params * jnp.asarray(rng.uniform(-1, 1, 4000), jnp.bfloat16)
    updates, state = tx.update(grads, tx.init(params), params)
    after = np.asarray(optax.apply_updates(params, updates), np.float64)
    target = np.asarray(params, np.float64) - np.asarray(grads, np.float64)
    half = 2.0 ** (np.floor(np.log2(np.where(after == 0, 2.0**-126, np.abs(after)))) - 8)
    kept = after + np.asarray(state.correction, np.float64) / (2**bits - 1) * half
    assert (np.abs(kept - target) <= half * 0.51 / (2**bits - 1) + 2.0**-24 * np.abs(target)).all()


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_apply_updates_lands_on_the_rounded_sum(name, dtype):
    rng = np.random.default_rng(3)
    params = jnp.asarray(rng.normal(size=2000), dtype)
    grads = params * jnp.asarray(1 - 2.0 ** rng.uniform(-10, 3, 2000), dtype)
    tx = WRAPPERS[name](jol.sgd(1.0))
    updates, _ = tx.update(grads, tx.init(params), params)
    want = (params.astype(jnp.float32) - grads.astype(jnp.float32)).astype(dtype)
    assert updates.dtype == jnp.float32
    for apply_updates in (optax.apply_updates, jol.apply_updates):
        np.testing.assert_array_equal(apply_updates(params, updates), want)


def test_mixed_trees_none_and_errors():
    params = {"half": jnp.ones(3, jnp.bfloat16), "wide": jnp.ones(3), "none": None}
    tx = jol.master_weights(jol.adam(0.1), "int8")
    state = tx.init(params)
    assert state.correction["wide"] is None
    assert state.correction["half"].dtype == jnp.int8
    assert state.inner[0].mu["half"].dtype == jnp.float32
    updates, after = tx.update(params, state, params)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert updates["none"] is None
    with pytest.raises(ValueError, match=r"kahan\.update: params is None"):
        jol.kahan(jol.adam(0.1)).update(params, jol.kahan(jol.adam(0.1)).init(params))
    with pytest.raises(ValueError, match="master_weights: correction is 'int4'"):
        jol.master_weights(jol.adam(0.1), "int4")


def test_an_infinite_parameter_has_no_correction():
    tx = jol.kahan(jol.sgd(1.0))
    params = jnp.array([jnp.inf, jnp.nan, 1.0], jnp.bfloat16)
    _, state = tx.update(jnp.zeros_like(params), tx.init(params), params)
    np.testing.assert_array_equal(state.correction, 0)
