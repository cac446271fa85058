"""Chains, masks, partitions and apply_updates; ours inside optax's wrappers and optax's inside ours."""

import enum

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_lite as jol
from jaxopt_lite.compose import path_string

RANDOM = np.random.default_rng(1)


def normal(*shape, dtype=jnp.float32):
    return jnp.asarray(RANDOM.normal(size=shape), dtype)


PARAMS = {"embed": normal(4, 3), "layers": [{"kernel": normal(3, 3), "bias": normal(3)} for _ in range(2)]}
GRADS = jax.tree.map(lambda p: normal(*p.shape), PARAMS)


def only_matrices(params):
    return jax.tree.map(lambda p: p.ndim > 1, params)


def run(tx, params=PARAMS, grads=GRADS, steps=3, **extra):
    """The updates of each step, from one compilation."""
    update = jax.jit(lambda g, s, p: tx.update(g, s, p, **extra))
    state, history = tx.init(params), []
    for _ in range(steps):
        updates, state = update(grads, state, params)
        params = jol.apply_updates(params, updates)
        history.append(updates)
    return history


def assert_close(a, b, rtol=1e-5):
    chex.assert_trees_all_close(a, b, rtol=rtol, atol=1e-7)


# Chains


def test_a_chain_of_ours_equals_optax_stage_by_stage():
    ours = jol.chain(jol.clip_by_global_norm(1.0), jol.chain(jol.clip(0.3), jol.adam(0.1)), jol.adamw(0.2))
    theirs = optax.chain(
        optax.clip_by_global_norm(1.0), optax.clip(0.3), optax.adam(0.1), optax.adamw(0.2, weight_decay=1e-4)
    )
    assert_close(run(ours), run(theirs), rtol=1e-4)


@pytest.mark.parametrize(
    "tx",
    [
        jol.chain(optax.clip_by_global_norm(1.0), jol.adamw(0.1, weight_decay=0.1)),
        jol.chain(jol.clip_by_global_norm(1.0), optax.adamw(0.1, weight_decay=0.1)),
        optax.chain(jol.clip_by_global_norm(1.0), jol.adamw(0.1, weight_decay=0.1)),
        jol.named_chain(("norm", optax.clip_by_global_norm(1.0)), ("step", jol.adamw(0.1, weight_decay=0.1))),
        jol.chain(
            jol.chain(), jol.chain(jol.chain(jol.clip_by_global_norm(1.0))), jol.adamw(0.1, weight_decay=0.1)
        ),
    ],
)
def test_ours_and_optax_mix(tx):
    expected = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1, weight_decay=0.1))
    assert_close(run(tx), run(expected), rtol=1e-4)


def test_a_second_look_at_the_whole_tree_sees_what_came_before():
    tx = jol.chain(jol.clip_by_global_norm(2.0), optax.scale(3.0), jol.clip_by_global_norm(1.0))
    updates = run(tx, steps=1)[0]
    np.testing.assert_allclose(optax.tree_utils.tree_norm(updates), 1.0, rtol=1e-6)
    ours = jol.chain(jol.clip(0.1), jol.clip_by_global_norm(0.05))
    np.testing.assert_allclose(optax.tree_utils.tree_norm(run(ours, steps=1)[0]), 0.05, rtol=1e-6)


def test_the_state_is_the_tuple_of_the_parts_states():
    tx = jol.chain(jol.clip(1.0), jol.chain(jol.adam(0.1), optax.trace(0.9)))
    state = tx.init(PARAMS)
    assert (len(state), len(state[1])) == (2, 2)
    assert state[1][0][0]._fields == ("count", "mu", "nu")
    assert jol.chain().init(PARAMS) == ()
    assert jol.chain().update(GRADS, ()) == (GRADS, ())


def test_joined_stages_stay_in_float32():
    """1e-3·300² overflows float16 on the way, and 6e-8² vanishes; the result is a float16 number."""
    tx = jol.chain(*[jol.clip(1e30), jol.chain(jol.adam(1.0), jol.sgd(1e-4)), jol.sgd(1e4)])
    updates, _ = tx.update(jnp.float16([300, 6e-8, -1]), tx.init(jnp.zeros(3, jnp.float16)))
    assert updates.dtype == jnp.float16
    np.testing.assert_allclose(updates, [-1, -0.85, 1], rtol=2e-2)


def test_a_named_chain_keeps_its_states_by_name():
    tx = jol.named_chain(("z", jol.adam(0.1)), ("a", jol.clip(0.01)))
    state = tx.init(PARAMS)
    assert set(state) == {"a", "z"}
    updates, after = tx.update(GRADS, jax.tree.map(jnp.copy, state), PARAMS)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert float(jnp.max(jnp.abs(updates["embed"]))) <= np.float32(0.01)  # z first, although a sorts before


def a_factory(learning_rate):
    return optax.sgd(learning_rate)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (
            lambda: jol.chain(jol.clip(1.0), jol.adam),
            TypeError,
            r"chain: argument 2 is the function 'adam'.*adam\(\.\.\.\)",
        ),
        (
            lambda: jol.chain(optax.adam),
            TypeError,
            r"chain: argument 1 is the function 'adam', expected a transf",
        ),
        (lambda: jol.chain(a_factory), TypeError, r"chain: argument 1 is the function 'a_factory'"),
        (lambda: jol.chain(0.1), TypeError, r"chain: argument 1 is 0.1, expected a gradient transformation"),
        (lambda: jol.chain([jol.adam(0.1)]), TypeError, r"chain: argument 1 is \[adam"),
        (lambda: jol.chain(None), TypeError, r"chain: argument 1 is None"),
        (lambda: jol.named_chain(("a", jol.adam)), TypeError, r"named_chain: 'a' is the function 'adam'"),
        (lambda: jol.named_chain(jol.adam(0.1)), TypeError, r"named_chain: argument 1 is adam.*pair"),
        (
            lambda: jol.named_chain(("a", jol.clip(1.0)), ("a", jol.clip(1.0))),
            ValueError,
            r"named_chain: names are \('a', 'a'\), expected each only once",
        ),
        (lambda: jol.masked(jol.adam, True), TypeError, r"masked: tx is the function 'adam'"),
        (lambda: jol.partition({"x": jol.adam}, {}), TypeError, r"partition: 'x' is the function 'adam'"),
    ],
)
def test_what_is_no_transformation_is_named(wrong, error, message):
    with pytest.raises(error, match=message):
        wrong()


def test_extra_arguments_reach_every_part():
    seen = []

    def keep(updates, state, params=None, *, value, **extra):
        seen.append((value, extra))
        return updates, state

    part = optax.GradientTransformationExtraArgs(lambda p: (), keep)
    tx = jol.chain(jol.clip(1.0), part, jol.named_chain(("a", part), ("b", optax.scale(1.0))))
    tx.update(GRADS, tx.init(PARAMS), PARAMS, value=3.0, other="x")
    assert seen == [(3.0, {"other": "x"})] * 2


# Inside optax's wrappers


def test_inside_multi_steps():
    ours, theirs = (optax.MultiSteps(tx, 2) for tx in (jol.adam(0.1), optax.adam(0.1)))
    assert_close(run(ours, steps=4), run(theirs, steps=4), rtol=1e-4)


WRAPPERS = {
    "masked": lambda tx: optax.masked(tx, only_matrices),
    "multi_transform": lambda tx: optax.multi_transform(
        {"x": tx, "y": optax.set_to_zero()}, {"embed": "x", "layers": [{"kernel": "y", "bias": "x"}] * 2}
    ),
    "partition": lambda tx: optax.partition({True: tx, False: tx}, only_matrices),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "schedule_free": lambda tx: optax.contrib.schedule_free(tx, 0.1),
    "chain": lambda tx: optax.chain(tx, optax.scale(0.5), tx),
    "flatten": lambda tx: optax.flatten(tx),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_inside_optax(wrap):
    ours, theirs = wrap(jol.adamw(0.1, weight_decay=0.1)), wrap(optax.adamw(0.1, weight_decay=0.1))
    assert_close(run(ours), run(theirs), rtol=1e-3)


def test_inside_apply_if_finite_a_nan_step_is_skipped():
    tx = optax.apply_if_finite(jol.adam(0.1), 3)
    state = tx.init(jnp.ones(2))
    updates, after = tx.update(jnp.float32([jnp.nan, 1]), state, jnp.ones(2))
    np.testing.assert_array_equal(updates, 0)
    chex.assert_trees_all_equal(after.inner_state, state.inner_state)


# Masks


@pytest.mark.parametrize(
    "mask", [only_matrices, only_matrices(PARAMS), {"embed": True, "layers": False}, True, False]
)
def test_masked_leaves_the_others_untouched_and_without_state(mask):
    tx = jol.masked(jol.adam(0.1), mask)
    expected = mask(PARAMS) if callable(mask) else mask
    updates, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    flags = jax.tree.leaves(
        jax.tree.map(lambda on, part: jax.tree.map(lambda _: on, part), expected, PARAMS),
        is_leaf=lambda x: x is None,
    )
    for on, g, u in zip(flags, jax.tree.leaves(GRADS), jax.tree.leaves(updates), strict=True):
        if on:
            np.testing.assert_allclose(np.abs(u), 0.1, rtol=1e-3)
        else:
            np.testing.assert_array_equal(u, g)
    moments = jax.tree.leaves(state.inner_state[0].mu)
    assert len(moments) == sum(flags)


def test_masks_agree_with_optax():
    ours, theirs = (m.masked(m.adamw(0.1, weight_decay=0.1), only_matrices) for m in (jol, optax))
    assert_close(run(ours), run(theirs), rtol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1.0])
def test_freeze_is_exactly_zero_whatever_the_gradient(bad):
    grads = jax.tree.map(lambda g: jnp.full_like(g, bad), GRADS)
    tx = jol.chain(jol.adamw(0.1, weight_decay=0.5), jol.freeze({"embed": True, "layers": [False, True]}))
    updates, state = tx.update(grads, tx.init(PARAMS), PARAMS)
    frozen = (updates["embed"], updates["layers"][1])
    chex.assert_trees_all_equal(frozen, jax.tree.map(jnp.zeros_like, frozen))
    assert all((u != 0).all() for u in jax.tree.leaves(updates["layers"][0]))
    assert jax.tree.leaves(state[1]) == []


def test_freeze_takes_a_function_of_the_parameters():
    updates = run(jol.freeze(only_matrices), steps=1)[0]
    np.testing.assert_array_equal(updates["embed"], 0)
    np.testing.assert_array_equal(updates["layers"][0]["bias"], GRADS["layers"][0]["bias"])


# Partitions


def label_of_path(path, leaf):
    return "fast" if path.endswith("bias") else ("slow" if leaf.shape == (4, 3) else "none")


LABELS = [
    label_of_path,
    {"bias$": "fast", "^embed$": "slow", r"layers/\d/kernel": "none"},
    {"bias": "fast", "embed": "slow", "": "none"},
    {"embed": "slow", "layers": [{"kernel": "none", "bias": "fast"}] * 2},
    lambda params: {"embed": "slow", "layers": [{"kernel": "none", "bias": "fast"}] * 2},
]
PARTS = {"fast": jol.sgd(1.0), "slow": jol.adam(0.1), "none": optax.set_to_zero()}


@pytest.mark.parametrize("labels", LABELS)
def test_partition_by_path_pattern_or_tree(labels):
    tx = jol.partition(PARTS, labels)
    theirs = optax.partition(
        {"fast": optax.sgd(1.0), "slow": optax.adam(0.1), "none": optax.set_to_zero()}, LABELS[-2]
    )
    assert_close(run(tx), run(theirs), rtol=1e-4)
    without_params, _ = tx.update(GRADS, tx.init(PARAMS))
    np.testing.assert_array_equal(without_params["layers"][0]["kernel"], 0)


def test_the_first_pattern_that_matches_wins():
    x = {"a/b": jnp.ones(1), "c": {"a": jnp.ones(1)}}
    tx = jol.partition({"one": jol.sgd(1.0), "two": jol.sgd(2.0)}, {"^c": "two", "a": "one"})
    updates, _ = tx.update(x, tx.init(x), x)
    assert (updates["a/b"].item(), updates["c"]["a"].item()) == (-1, -2)


def test_a_dict_with_the_parameters_own_keys_is_a_label_tree():
    """Keys of a flat checkpoint hold dots, which as patterns would match too much."""
    x = {"layers.1.w": jnp.ones(1), "layers.11w": jnp.ones(1)}
    labels = {"layers.1.w": "one", "layers.11w": "two"}
    tx = jol.partition({"one": jol.sgd(1.0), "two": jol.sgd(2.0)}, labels)
    updates, _ = tx.update(x, tx.init(x), x)
    assert [u.item() for u in updates.values()] == [-1, -2]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"bias": "fast"}, r"partition: no pattern of \['bias'\] matches the path 'embed'"),
        (
            lambda path, leaf: "wrong",
            r"partition: 'embed' has the label 'wrong', expected one of \['fast', 'slow', 'none'\]",
        ),
    ],
)
def test_labels_that_do_not_fit(labels, message):
    with pytest.raises(ValueError, match=message):
        jol.partition(PARTS, labels).init(PARAMS)


def test_partition_forwards_extra_arguments():
    def update(updates, state, params=None, *, value, **extra):
        return jax.tree.map(lambda u: u * value, updates), state

    part = optax.GradientTransformationExtraArgs(lambda p: (), update)
    tx = jol.partition({"x": part, "y": jol.sgd(1.0)}, {"bias": "x", "": "y"})
    updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS, value=7.0)
    np.testing.assert_allclose(updates["layers"][0]["bias"], 7 * GRADS["layers"][0]["bias"])


def test_path_string():
    paths = [path_string(path) for path, _ in jax.tree_util.tree_leaves_with_path(PARAMS)]
    assert paths == ["embed", "layers/0/bias", "layers/0/kernel", "layers/1/bias", "layers/1/kernel"]


# apply_updates


def test_apply_updates_adds_in_the_wider_dtype_and_keeps_the_parameters():
    params = {"h": jnp.bfloat16([256, 1]), "f": jnp.ones(1), "i": jnp.arange(2), "n": None}
    updates = {"h": jnp.float32([1.5, 1e-4]), "f": jnp.float16([0.5]), "i": jnp.int32([1, 1]), "n": None}
    got = jol.apply_updates(params, updates)
    np.testing.assert_array_equal(got["h"], jnp.bfloat16([258, 1]))
    assert jax.tree.map(lambda x: x.dtype, got) == jax.tree.map(lambda x: x.dtype, params)
    np.testing.assert_array_equal(got["f"], [1.5])
    np.testing.assert_array_equal(got["i"], [1, 2])


def test_apply_updates_leaves_a_parameter_where_there_is_no_update():
    x = jnp.ones(3)
    assert jol.apply_updates({"a": x, "b": x}, {"a": None, "b": x})["a"] is x
    np.testing.assert_array_equal(jol.apply_updates(1.0, 0.5), 1.5)


def test_apply_updates_equals_optax_to_the_bit():
    for p, u in (
        ("float32", "float32"),
        ("bfloat16", "float32"),
        ("float16", "float16"),
        ("float32", "bfloat16"),
    ):
        params, updates = normal(50, dtype=p), normal(50, dtype=u)
        chex.assert_trees_all_equal(jol.apply_updates(params, updates), optax.apply_updates(params, updates))


@pytest.mark.parametrize(
    "updates", [{"a": jnp.ones(2)}, {"a": jnp.ones((3, 1))}, {"a": jnp.ones(())}, {"b": jnp.ones(3)}]
)
def test_apply_updates_refuses_what_does_not_fit(updates):
    with pytest.raises(ValueError, match="apply_updates: "):
        jol.apply_updates({"a": jnp.ones(3)}, updates)


class Group(enum.Enum):
    FAST, SLOW = "fast", "slow"


def test_labels_need_no_order():
    labels = {"a": Group.FAST, "b": Group.SLOW}
    tx = jol.partition({Group.FAST: jol.sgd(1.0), Group.SLOW: jol.sgd(0.5)}, labels)
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    updates, _ = tx.update(params, tx.init(params), params)
    assert updates["a"].tolist() == [-1, -1]
    assert updates["b"].tolist() == [-0.5, -0.5]
