"""Transformations as values, leaf rules lifted to trees, and every place where other libraries take one."""

import functools
import pickle
from typing import Any, NamedTuple

import chex
import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import jaxopt_lite as jol
from jaxopt_lite import schedules
from jaxopt_lite.transformation import Transformation, elementwise, transformation

RANDOM = np.random.default_rng(0)
SHAPES = {"a": (3, 4), "b": [(3, 4), (5,)], "c": (), "d": (0, 2)}
SMALL = {"a": (2, 3), "b": [(2, 3), (3,)], "c": (3,), "d": (2, 3)}


def random_tree(dtype=jnp.float32, shapes=SHAPES):
    is_shape = lambda x: isinstance(x, tuple)
    return jax.tree.map(lambda s: jnp.asarray(RANDOM.normal(size=s), dtype), shapes, is_leaf=is_shape)


def only_matrices(params):
    return jax.tree.map(lambda p: jnp.ndim(p) > 1, params)


TXS = {
    "sgd": jol.sgd(0.1),
    "momentum": jol.sgd(0.1, momentum=0.9),
    "nesterov": jol.sgd(schedules.linear(0.1, 0.0, 5), momentum=0.9, nesterov=True),
    "adam": jol.adam(1e-2),
    "adamw": jol.chain(jol.clip_by_global_norm(1.0), jol.adamw(1e-2, weight_decay=0.1, mask=only_matrices)),
    "named_chain": jol.named_chain(
        ("norm", jol.clip_by_global_norm(0.5)), ("adam", jol.adam(schedules.cosine(0.1, 9)))
    ),
    "tunable": jol.tunable(functools.partial(jol.adamw, mask=only_matrices), learning_rate=0.1, b2=0.99),
    "mixed": jol.chain(optax.scale(0.5), jol.adam(0.1), optax.identity()),
    "masked": jol.masked(jol.adam(0.1), only_matrices),
    "partition": jol.partition({"m": jol.adam(0.1), "v": jol.sgd(0.1)}, {"^a|^d|^b/0": "m", "": "v"}),
    "freeze": jol.chain(jol.adamw(0.1), jol.freeze(only_matrices)),
}
every = pytest.mark.parametrize("tx", TXS.values(), ids=TXS)


def signature(tree):
    """Structure, shapes, dtypes and weak types."""
    leaves, treedef = jax.tree.flatten(tree)
    return treedef, [(x.shape, x.dtype, getattr(x, "weak_type", False)) for x in leaves]


def steps_of(tx, params, grads, n=3):
    state = tx.init(params)
    for _ in range(n):
        updates, state = tx.update(grads, state, params)
        params = jol.apply_updates(params, updates)
    return params, state


@every
@pytest.mark.parametrize("dtypes", [("float32", "float32"), ("bfloat16", "float32"), ("float32", "float16")])
def test_state_is_a_fixed_point_and_updates_keep_the_gradients_dtype(tx, dtypes):
    params, grads = random_tree(dtypes[0]), random_tree(dtypes[1])
    state = tx.init(params)
    update = jax.jit(tx.update)
    updates, after = jax.eval_shape(update, grads, state, params)
    assert signature(after) == signature(state)
    assert all(
        jax.tree.leaves(jax.tree.map(lambda u, g: u.dtype == g.dtype and u.shape == g.shape, updates, grads))
    )
    assert not any(weak for *_, weak in signature(state)[1])
    wide = {jnp.dtype(x) for x in (jnp.float32, jnp.int32)}
    assert {x.dtype for x in jax.tree.leaves(state)} <= wide


@every
def test_one_trace_jit_equals_eager_and_donation_of_parameters_and_state(tx):
    chex.clear_trace_counter()
    grads = random_tree()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    @chex.assert_max_traces(n=1)
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return jol.apply_updates(params, updates), state

    start = random_tree()
    expected = steps_of(tx, start, grads)
    params = jax.tree.map(jnp.copy, start)
    state = tx.init(params)
    for _ in range(3):
        params, state = step(params, state, grads)
    chex.assert_trees_all_close((params, state), expected, rtol=2e-5, atol=1e-7)


@every
def test_init_on_shapes_promises_what_init_makes(tx):
    params = random_tree(jnp.bfloat16)
    shapes = jax.eval_shape(lambda: params)
    made = jax.tree.map(lambda x: (x.shape, x.dtype), tx.init(params))
    for abstract in (jax.eval_shape(tx.init, params), jax.eval_shape(lambda: tx.init(shapes))):
        assert jax.tree.map(lambda x: (x.shape, x.dtype), abstract) == made


@every
def test_state_shares_no_buffer_with_parameters_or_itself(tx):
    params = random_tree()
    leaves = [x for x in jax.tree.leaves((params, tx.init(params))) if x.size]
    pointers = [x.unsafe_buffer_pointer() for x in leaves]
    assert len(set(pointers)) == len(pointers)


@every
def test_vmap_and_scan_equal_the_loop(tx):
    params, grads = random_tree(shapes=SMALL), random_tree(shapes=SMALL)
    expected = steps_of(tx, params, grads)

    def body(carry, _):
        updates, state = tx.update(grads, carry[1], carry[0])
        return (jol.apply_updates(carry[0], updates), state), None

    run = lambda p: jax.lax.scan(body, (p, tx.init(p)), None, length=3)[0]
    pair = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), params)
    got = jax.tree.map(lambda x: x[0], jax.jit(jax.vmap(run))(pair))
    chex.assert_trees_all_close(got, expected, rtol=2e-5, atol=1e-7)


@every
def test_a_derivative_through_the_updates_is_finite(tx):
    params = random_tree(shapes=SMALL)
    moved = lambda scale: sum(
        jnp.sum(x.astype(jnp.float32))
        for x in jax.tree.leaves(
            steps_of(tx, params, jax.tree.map(lambda g: scale * jnp.sin(g), params), 2)[0]
        )
    )
    derivatives = jax.jit(jax.vmap(jax.value_and_grad(moved)))(jnp.float32([0.0, 1e-30, 1.0, 1e20]))
    assert np.isfinite(derivatives).all()


@every
def test_tree_map_params_finds_the_parameters_in_the_state(tx):
    params = random_tree()
    state = tx.init(params)
    marked = optax.tree_utils.tree_map_params(
        tx, lambda x: "param", state, transform_non_params=lambda x: "other"
    )
    assert jax.tree.structure(marked) == jax.tree.structure(state)
    for path, mark in jax.tree_util.tree_leaves_with_path(marked):
        text = jax.tree_util.keystr(path)
        assert mark == ("param" if any(f in text for f in (".mu", ".nu", ".trace")) else "other"), text


@every
def test_unknown_extra_arguments_are_ignored(tx):
    params = random_tree()
    state = tx.init(params)
    chex.assert_trees_all_equal(
        tx.update(params, state, params, value=3.0, nonsense=object()), tx.update(params, state, params)
    )


@every
def test_none_gradients_leave_their_parameters_and_state(tx):
    params, grads = random_tree(), random_tree()
    grads["b"][0] = None
    state = tx.init(params)
    updates, after = tx.update(grads, state, params)
    assert updates["b"][0] is None
    assert signature(after) == signature(state)
    assert jol.apply_updates(params, updates)["b"][0] is params["b"][0]


@every
def test_none_parameters(tx):
    params = {"a": jnp.ones((2, 2)), "b": None, "d": [jnp.ones(3), None]}
    updates, _ = tx.update(params, tx.init(params), params)
    assert updates["b"] is None
    assert jol.apply_updates(params, updates)["d"][1] is None


@every
def test_an_empty_tree(tx):
    for nothing in ({}, [], {"a": None}):
        updates, _ = tx.update(nothing, tx.init(nothing), nothing)
        assert updates == nothing


@every
def test_a_zero_gradient_gives_a_zero_update(tx):
    params = {"a": {d: jnp.zeros((2, 3), d) for d in ("float16", "bfloat16", "float32", "complex64")}}
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, state = tx.update(zeros, tx.init(params), params)
    chex.assert_trees_all_equal(updates, zeros)
    chex.assert_tree_all_finite(state)


@pytest.mark.parametrize(
    "wrong",
    [
        {"a": jnp.ones(3), "b": jnp.ones(())},
        {"a": jnp.ones(()), "b": jnp.ones(())},
        {"a": jnp.ones((1, 2)), "b": jnp.ones(())},
        {"a": jnp.ones(2)},
        {"a": jnp.ones(2), "b": jnp.ones(()), "c": jnp.ones(())},
        {"a": jnp.ones(2), "b": {"x": jnp.ones(())}},
        {"a": [jnp.ones(()), jnp.ones(())], "b": jnp.ones(())},
        [jnp.ones(2), jnp.ones(())],
        jnp.ones(()),
    ],
)
def test_a_gradient_that_does_not_fit_is_a_value_error(wrong):
    params = {"a": jnp.ones(2), "b": jnp.ones(())}
    for tx in TXS.values():
        with pytest.raises(ValueError, match="update"):
            tx.update(wrong, tx.init(params), params)
    with pytest.raises(ValueError, match="apply_updates"):
        jol.apply_updates(params, wrong)
    # ... and where the parameters are the deeper tree.
    if jax.tree.structure(wrong) != jax.tree.structure(params):
        with pytest.raises(ValueError, match="update"):
            jol.apply_updates(wrong, params)


def test_the_message_names_function_leaf_and_shapes():
    params = {"w": [jnp.ones((2, 3))]}
    with pytest.raises(
        ValueError,
        match=r"adam\.update: updates\['w'\]\[0\] has shape \(3, 2\), expected \(2, 3\), "
        r"the shape of params\['w'\]\[0\]",
    ):
        jol.adam(0.1).update({"w": [jnp.ones((3, 2))]}, jol.adam(0.1).init(params), params)
    with pytest.raises(ValueError, match=r"add_decayed_weights.update: params is None, expected"):
        jol.adamw(0.1).update(params, jol.adamw(0.1).init(params))


def test_a_state_that_does_not_fit_is_a_value_error():
    params = {"w": jnp.ones((2, 3))}
    with pytest.raises(ValueError, match=r"chain\.update: state is EmptyState, expected a tuple of 2 states"):
        jol.adam(0.1).update(params, jol.sgd(0.1).init(params))
    with pytest.raises(ValueError, match=r"expected keys \['a'\]"):
        jol.named_chain(("a", jol.adam(0.1))).update(params, {"b": jol.adam(0.1).init(params)})
    with pytest.raises(ValueError, match="shape"):
        jol.sgd(0.1, 0.9).update({"w": jnp.ones(())}, jol.sgd(0.1, 0.9).init(params))


# Values


def test_two_equal_transformations_compile_once():
    traces = []

    def step(tx, x):
        traces.append(tx)
        return tx.update(x, tx.init(x), x)[0]

    jitted = jax.jit(step, static_argnums=0)
    make = lambda rate: jol.chain(jol.clip(1.0), jol.adamw(schedules.cosine(rate, 9), mask=only_matrices))
    for rate in (0.1, 0.1, 0.2):
        jitted(make(rate), jnp.ones(3))
    assert len(traces) == 2
    jitted(pickle.loads(pickle.dumps(make(0.1))), jnp.ones(3))
    assert len(traces) == 2


@transformation
def doubled(tx, times=2):
    """A user's own factory."""
    return optax.chain(tx, optax.scale(times))


def test_a_users_factory_becomes_a_value_and_optax_still_takes_it():
    tx = doubled(jol.sgd(0.5))
    assert repr(tx) == "doubled(tx=sgd(learning_rate=0.5))"
    assert pickle.loads(pickle.dumps(tx)) == tx == doubled(jol.sgd(0.5), 2)
    updates, _ = optax.chain(tx).update(jnp.ones(2), optax.chain(tx).init(jnp.ones(2)))
    np.testing.assert_allclose(updates, -1.0)


def test_a_pair_without_a_call_has_no_pickle():
    pair = Transformation(lambda p: (), lambda u, s, p=None: (u, s))
    with pytest.raises(TypeError, match="pickles only when its factory stands under @transformation"):
        pickle.dumps(pair)
    assert pair == pair
    assert hash(pair) == hash(tuple(pair))
    assert "function" in repr(pair)


# elementwise


class TwoState(NamedTuple):
    count: Any
    total: Any
    top: Any


def test_elementwise_gives_the_rule_wide_arrays_and_keeps_the_stored_dtypes():
    seen = []

    def rule(g, p, s, total, top):
        seen.append((g.dtype, p.dtype, total.dtype, top.dtype, s.dtype))
        return s * g + p, total + g, jnp.maximum(top, jnp.abs(g))

    init = lambda leaf: (jnp.zeros_like(leaf), jnp.full_like(leaf, 1, jnp.float32))
    tx = elementwise(
        rule, TwoState, init=init, scalars=lambda t, updates: t.astype(jnp.float32), reads_params=True
    )
    params = jnp.float16([1, 2])
    state = tx.init(params)
    updates, state = tx.update(jnp.float16([0.5, -3]), state, params)
    assert set(seen) == {(jnp.dtype("float32"),) * 5}
    assert updates.dtype == jnp.float16
    np.testing.assert_array_equal(updates, [1.5, -1])
    np.testing.assert_array_equal(state.top, [1, 3])
    assert (state.total.dtype, state.top.dtype, int(state.count)) == (jnp.float16, jnp.float32, 1)
    with pytest.raises(ValueError, match="params is None, expected the tree of parameters"):
        tx.update(params, state)


def test_equal_leaves_are_traced_once():
    traces = []

    def rule(g, p, s):
        traces.append(g.shape)
        return (2 * g,)

    tx = elementwise(rule)
    grads = [jnp.ones(3)] * 50 + [jnp.ones(4)]
    jax.jit(tx.update).lower(grads, tx.init(grads))
    assert sorted(traces) == [(3,), (4,)]


def test_a_mask_needs_a_rule_without_slots():
    with pytest.raises(ValueError, match="elementwise: mask is for rules without slots"):
        elementwise(lambda g, p, s, m: (g, m), optax.TraceState, mask=True)


def test_complex_leaves_stay_complex_and_python_numbers_are_leaves_too():
    params = {"z": jnp.complex64([1 + 1j]), "x": 1.0}
    params, state = steps_of(jol.adamw(0.1), params, {"z": jnp.complex64([1 - 2j]), "x": 0.5})
    assert params["z"].dtype == jnp.complex64
    assert params["x"].dtype == jnp.float32
    assert state[0].nu["z"].dtype == jnp.float32


def test_float64():
    with jax.enable_x64(True):
        for tx in (TXS["adamw"], TXS["nesterov"], TXS["tunable"]):
            params = {"a": jnp.ones((2, 3), jnp.float64)}
            state = tx.init(params)
            updates, after = tx.update(params, state, params)
            assert signature(after) == signature(state)
            assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype("float64")}


# Other libraries


def test_flax_train_state():
    model = nn.Dense(2)
    params = model.init(jax.random.key(0), jnp.ones((1, 3)))["params"]
    make = lambda: TrainState.create(apply_fn=model.apply, params=params, tx=jol.adamw(0.1))
    traces = []

    @jax.jit
    def step(state):
        traces.append(state.tx)
        return state.apply_gradients(grads=jax.tree.map(jnp.ones_like, state.params))

    after = step(step(make()))
    step(make())
    assert len(traces) == 1  # an equal transformation is the same static field
    assert int(after.step) == 2
    assert float(jnp.max(jnp.abs(after.params["bias"]))) > 0.1


def test_flax_nnx_optimizer():
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, jol.chain(jol.clip_by_global_norm(1.0), jol.adam(0.1)), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, x):
        loss, grads = nnx.value_and_grad(lambda m: jnp.mean((m(x) - 1) ** 2))(model)
        optimizer.update(model, grads)
        return loss

    losses = [float(step(model, optimizer, jnp.ones((4, 3)))) for _ in range(30)]
    assert losses[-1] < 0.1 * losses[0]


def test_equinox_models_with_functions_and_none_leaves():
    model = eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0))
    tx = jol.adamw(0.05, mask=only_matrices)
    state = tx.init(eqx.filter(model, eqx.is_inexact_array))
    x = jnp.ones((8, 2))

    @eqx.filter_jit
    def step(model, state, tx):
        loss, grads = eqx.filter_value_and_grad(lambda m: jnp.mean((jax.vmap(m)(x) - 1) ** 2))(model)
        updates, state = tx.update(grads, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state, loss

    losses = []
    for _ in range(20):
        model, state, loss = step(model, state, tx)
        losses.append(float(loss))
    assert losses[-1] < 0.2 * losses[0]
    # The whole model as parameters: its functions are no arrays, so only None stands there.
    frozen = eqx.tree_at(lambda m: m.layers[0].weight, eqx.filter(model, eqx.is_inexact_array), None)
    updates, _ = tx.update(frozen, tx.init(frozen), frozen)
    assert updates.layers[0].weight is None
    assert eqx.apply_updates(model, updates).layers[0].weight is model.layers[0].weight


def test_a_mask_or_labels_may_be_a_callable_model():
    model = eqx.filter(eqx.nn.Linear(2, 2, key=jax.random.key(0)), eqx.is_inexact_array)
    mask, labels = only_matrices(model), jax.tree.map(lambda p: "abc"[p.ndim], model)
    for tx in (
        jol.adamw(0.1, mask=mask),
        jol.masked(jol.adamw(0.1, mask=only_matrices), mask),
        jol.partition({"b": jol.sgd(1.0), "c": jol.adamw(0.1, mask=only_matrices)}, labels),
        jol.chain(jol.adamw(0.1), jol.freeze(mask)),
    ):
        updates, _ = tx.update(model, tx.init(model), model)
        assert jax.tree.structure(updates) == jax.tree.structure(model)


def test_optimistix_minimises_with_ours():
    solver = optimistix.OptaxMinimiser(jol.adam(0.1), rtol=1e-6, atol=1e-6)
    found = optimistix.minimise(lambda y, _: jnp.sum((y - 3.0) ** 2), solver, jnp.zeros(2), max_steps=1000)
    np.testing.assert_allclose(found.value, 3.0, atol=1e-2)
