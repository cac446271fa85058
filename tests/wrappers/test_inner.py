"""Any transformation, however it treats its state, becomes one that keeps form, dtypes and buffers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_lite as jol
from jaxopt_lite.wrappers import inner
from tests.wrappers.common import PARAMS


def foreign(init, update=lambda g, s, p=None: (g, s)):
    return optax.GradientTransformation(init, update)


def test_a_state_of_weak_type_and_python_numbers_becomes_strong_arrays():
    tx = inner.adopt("x", foreign(lambda p: (0, 1.0, jnp.asarray(2.0), True, np.float32(1)), _add_one))
    state = tx.init(PARAMS)
    assert [x.dtype.name for x in state] == ["int32", "float32", "float32", "bool", "float32"]
    _, after = tx.update(PARAMS, state)
    for x, y in zip(state, after, strict=True):
        assert (x.dtype, x.weak_type) == (y.dtype, y.weak_type) == (x.dtype, False)


def _add_one(updates, state, params=None):
    return updates, tuple(x + 1 for x in state)


def test_a_state_keeps_its_dtypes_where_the_inner_one_would_not():
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    _, theirs = optax.trace(0.9).update(PARAMS, optax.trace(0.9).init(params))
    assert theirs.trace["bias"].dtype == jnp.float32
    tx = inner.adopt("x", optax.trace(0.9))
    _, state = tx.update(PARAMS, tx.init(params))
    assert state.trace["bias"].dtype == jnp.bfloat16


def test_a_state_shares_no_buffer_with_parameters_or_itself():
    twice = lambda p: (p, p, jax.tree.map(jnp.zeros_like, p))
    for init in (inner.adopt("x", foreign(twice)).init, jax.jit(inner.adopt("x", foreign(twice)).init)):
        state = init(PARAMS)
        pointers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves((PARAMS, state))]
        assert len(set(pointers)) == len(pointers)


def test_what_is_no_transformation_is_named():
    with pytest.raises(TypeError, match="skip: tx is the function 'adam'"):
        inner.adopt("skip", jol.adam)


def test_branch_runs_one_side_only_outside_of_jit_and_agrees_inside():
    fail = lambda: 1 / 0
    assert inner.branch(jnp.array(True), lambda: 3, fail) == 3
    assert inner.branch(jnp.array(False), fail, lambda: 4) == 4
    traced = jax.jit(lambda flag: inner.branch(flag, lambda: 3.0, lambda: 4.0))
    assert (traced(True).item(), traced(False).item()) == (3.0, 4.0)


@pytest.mark.parametrize(
    ("tree", "finite"),
    [
        ({}, True),
        ({"n": jnp.arange(3), "b": jnp.array(True)}, True),
        ({"a": jnp.ones(2), "none": None, "empty": jnp.ones((0, 2))}, True),
        ({"a": jnp.bfloat16([3e38, 1])}, True),
        ({"a": jnp.float16([jnp.inf, 1])}, False),
        ({"a": jnp.ones(2), "b": jnp.array(jnp.nan)}, False),
        ({"a": jnp.array(complex(0, jnp.nan))}, False),
    ],
)
def test_all_finite_looks_at_floating_entries(tree, finite):
    assert bool(inner.all_finite(tree)) is finite
    assert bool(inner.all_finite({"a": jnp.ones(1)}, tree)) is finite


def test_updates_keep_the_dtype_that_the_inner_one_gives_for_16_bit_gradients():
    exact = foreign(lambda p: (), lambda g, s, p=None: (jax.tree.map(lambda x: x.astype(jnp.float32), g), s))
    low = jnp.ones(2, jnp.bfloat16)
    dtypes = lambda tx, g: inner.update_dtypes(optax.with_extra_args_support(tx), g, (), None, {})
    assert dtypes(exact, {"a": low, "b": None}) == [jnp.float32, None]
    assert dtypes(optax.identity(), {"a": low, "b": jnp.ones(2)}) == [jnp.bfloat16, jnp.float32]
    zeros = inner.zero_leaves({"a": low, "b": None}, [jnp.float32, None])
    assert (zeros["a"].dtype, zeros["b"]) == (jnp.float32, None)
    assert inner.cast_leaves({"a": jnp.ones(2), "b": None}, [jnp.bfloat16, None])["a"].dtype == jnp.bfloat16


def test_find_state_wants_exactly_one():
    class State(tuple):
        pass

    jax.tree_util.register_pytree_node(State, lambda s: (tuple(s), None), lambda _, x: State(x))
    one = State((1,))
    assert inner.find_state("f", {"a": (one, 2)}, State) is one
    for wrong in ((1, 2), (one, [one])):
        with pytest.raises(ValueError, match=r"f: state holds [02] State, expected one"):
            inner.find_state("f", wrong, State)


def test_small_helpers():
    assert inner.arrays({"a": 1.0, "b": PARAMS["bias"]})["a"].dtype == jnp.float32
    np.testing.assert_allclose(inner.norm({"a": jnp.full(4, 1e20)}), 2e20, rtol=1e-6)
