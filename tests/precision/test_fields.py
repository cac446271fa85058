"""Kinds of state arrays: by the state's fields, whatever the parameters are called."""

import warnings

import jax
import jax.numpy as jnp
import optax
import optax.contrib
import pytest

import jaxopt_lite as jol
from jaxopt_lite import optimizers
from jaxopt_lite.compose import path_string
from jaxopt_lite.precision.fields import EXACT, exceptions_of, kind_of
from jaxopt_lite.testing import TransformationCase
from jaxopt_lite.testing.find import all_factories, resolve
from tests.testing import exports

# Leaves named like state fields, as attention's v often is.
PARAMS = {"v": jnp.zeros((64, 64)), "z": jnp.zeros((16, 256))}


def kinds(tx, params=PARAMS):
    state = jax.eval_shape(tx.init, params)
    exceptions = exceptions_of(state)
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {path_string(path): kind_of(path, exceptions) for path, x in leaves if x.size > 64}


def test_the_parameters_names_do_not_matter():
    for tx in (optax.scale_by_adam(), optimizers.scale_by_adam()):
        found = kinds(tx)
        assert found == {"mu/v": "signed", "mu/z": "signed", "nu/v": "square", "nu/z": "square"}
    masked = kinds(optax.masked(optax.adam(0.1), {"v": True, "z": False}))
    assert masked == {"inner_state/0/mu/v": "signed", "inner_state/0/nu/v": "square"}
    assert set(kinds(optax.scale_by_adam(), jnp.zeros((64, 64))).items()) == {
        ("mu", "signed"),
        ("nu", "square"),
    }


def test_fields_that_mean_something_else_in_one_state():
    found = kinds(jol.chain(optax.scale_by_sm3(), optimizers.scale_by_adan()), jnp.zeros((65, 65)))
    assert found["0/nu"] == found["1/v"] == "signed"
    assert found["0/mu/0"] == found["1/n"] == "square"
    cocob = kinds(optax.contrib.cocob())
    assert cocob["2/init_particles/v"] == EXACT
    assert cocob["2/scale/v"] == "square"


def test_a_signed_moment_of_a_parameter_called_v_keeps_its_sign():
    tx, grads = jol.quantize_state(jol.adam(0.1), min_size=1), jax.tree.map(lambda p: p - 1, PARAMS)
    updates, state = jax.jit(tx.update)(grads, tx.init(PARAMS), PARAMS)
    assert (state[0].mu["v"].decode() < 0).all()
    assert (updates["v"] > 0.09).all()


def every():
    yield from (exports.transformation(name) for name in exports.checked())
    seen = set()
    for module in ("optax", "optax.contrib"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            names = all_factories(module)
        for name in names:
            item = resolve(name)
            if id(item) not in seen:
                seen.add(id(item))
                yield TransformationCase(item, name=name)


def large(state):
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {path_string(p): p for p, x in leaves if x.size >= 256 and jnp.issubdtype(x.dtype, jnp.floating)}


@pytest.mark.filterwarnings("ignore:Specifying a key:UserWarning")  # optax.noisy_sgd
@pytest.mark.parametrize("case", list(every()), ids=lambda case: case.name)
def test_every_transformation_of_ours_and_of_optax_can_be_wrapped(case):
    # optax's scale_by_muon by its defaults takes one matrix, not a tree of them.
    params = PARAMS["v"] if case.name.endswith("scale_by_muon") else PARAMS
    plain = jax.eval_shape(case.tx.init, params)
    if not large(plain):
        return  # no state to store
    tx = jol.quantize_state(case.tx, min_size=256)
    state = jax.eval_shape(tx.init, params)
    exceptions = exceptions_of(plain)
    assert {kind_of(path, exceptions) for path in large(state).values()} <= {EXACT}
    extra = (
        case.extra(lambda p: sum(jnp.sum(x * x) for x in jax.tree.leaves(p)), params) if case.extra else {}
    )
    _, new = jax.eval_shape(lambda g, s, p: tx.update(g, s, p, **extra), params, state, params)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(state), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
