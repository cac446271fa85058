"""A call as a value: text, equality, hash, pickle and copy, for every kind of argument."""

import copy
import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_lite as jol
from jaxopt_lite import schedules
from jaxopt_lite.call import by_value, show


def only_matrices(params):
    return jax.tree.map(lambda p: p.ndim > 1, params)


SAME = [  # two spellings of one call
    (lambda: jol.adam(1e-3), lambda: jol.adam(learning_rate=0.001, b1=0.9)),
    (lambda: jol.sgd(jnp.float32(0.1)), lambda: jol.sgd(np.array(0.1, np.float32))),
    (lambda: jol.adamw(0.1, mask=only_matrices), lambda: jol.adamw(0.1, mask=only_matrices)),
    (
        lambda: jol.adamw(0.1, mask={"a": True, "b": [False]}),
        lambda: jol.adamw(0.1, mask={"b": [False], "a": True}),
    ),
    (lambda: jol.chain(jol.clip(1.0), jol.sgd(0.1)), lambda: jol.chain(jol.clip(1.0), jol.sgd(0.1))),
    (lambda: jol.named_chain(("a", jol.clip(1.0))), lambda: jol.named_chain(("a", jol.clip(max_delta=1.0)))),
    (
        lambda: jol.adamw(schedules.cosine(0.1, 5)),
        lambda: jol.adamw(schedules.cosine(init_value=0.1, steps=5)),
    ),
    (
        lambda: jol.tunable(functools.partial(jol.adam, b1=0.8), learning_rate=0.1, b2=0.9),
        lambda: jol.tunable(functools.partial(jol.adam, b1=0.8), b2=0.9, learning_rate=0.1),
    ),
    (
        lambda: jol.partition({"x": jol.sgd(1.0)}, {"^a": "x"}),
        lambda: jol.partition(labels={"^a": "x"}, transformations={"x": jol.sgd(1.0)}),
    ),
]


@pytest.mark.parametrize(("first", "second"), SAME)
def test_equal_calls_are_equal_and_survive_pickle_and_copy(first, second):
    a, b = first(), second()
    assert a == b
    assert (a != b) is False
    assert hash(a) == hash(b)
    assert len({a, b}) == 1
    for again in (pickle.loads(pickle.dumps(a)), copy.copy(a), copy.deepcopy(a)):
        assert again == a
        assert hash(again) == hash(a)
        assert repr(again) == repr(a)


DIFFERENT = [
    jol.sgd(0.1),
    jol.sgd(0.2),
    jol.sgd(0.1, 0.0),
    jol.sgd(jnp.float32(0.1)),
    jol.sgd(schedules.constant(0.1)),
    jol.adam(0.1),
    jol.adamw(0.1),
    jol.adamw(0.1, mask=only_matrices),
    jol.adamw(0.1, mask={"a": True}),
    jol.adamw(0.1, mask=[True]),
    jol.adamw(0.1, mask=(True,)),
    jol.chain(jol.sgd(0.1)),
    jol.chain(jol.sgd(0.1), jol.sgd(0.1)),
    jol.named_chain(("a", jol.sgd(0.1))),
    jol.named_chain(("b", jol.sgd(0.1))),
    optax.sgd(0.1),
]


def test_different_calls_differ():
    for i, a in enumerate(DIFFERENT):
        for j, b in enumerate(DIFFERENT):
            assert (a == b) == (i == j), (a, b)
            assert (a != b) == (i != j), (a, b)
    assert jol.sgd(0.1) != 3
    assert jol.sgd(0.1) != "sgd(learning_rate=0.1)"


@pytest.mark.parametrize(
    ("tx", "text"),
    [
        (jol.adamw(1e-3, weight_decay=0.1), "adamw(learning_rate=0.001, weight_decay=0.1)"),
        (jol.adam(1e-3, 0.9, 0.999), "adam(learning_rate=0.001)"),
        (jol.sgd(np.float32(0.5)), "sgd(learning_rate=np.float32(0.5))"),
        (jol.clip(jnp.float32(2)), "clip(max_delta=float32(2.0))"),
        (jol.adamw(0.1, mask=only_matrices), "adamw(learning_rate=0.1, mask=only_matrices)"),
        (
            jol.chain(jol.clip_by_global_norm(1.0), optax.scale(-1.0)),
            "chain(clip_by_global_norm(max_norm=1.0), <optax scale>)",
        ),
        (
            jol.adamw(schedules.warmup_cosine(1.0, warmup_steps=2, decay_steps=6)),
            "adamw(learning_rate=warmup_cosine(peak_value=1.0, warmup_steps=2, decay_steps=6))",
        ),
        (
            jol.tunable(functools.partial(jol.adam, b1=0.8), learning_rate=0.1),
            "tunable(factory=partial(adam, b1=0.8), learning_rate=0.1)",
        ),
        (jol.named_chain(("a", jol.sgd(0.1))), "named_chain(('a', sgd(learning_rate=0.1)))"),
    ],
)
def test_prints_as_its_call(tx, text):
    assert repr(tx) == text
    assert str(tx) == text


def test_arrays_print_by_shape_and_compare_by_content():
    assert show(jnp.zeros((2, 3))) == "float32[2, 3]"
    assert by_value(np.arange(3)) == by_value(np.arange(3))
    assert by_value(np.arange(3)) != by_value(np.arange(3.0))
    assert by_value(np.arange(4)) != by_value(np.arange(4).reshape(2, 2))


def test_prints_and_compares_under_a_trace():
    def f(learning_rate):
        tx = jol.sgd(learning_rate)
        assert repr(tx) == "sgd(learning_rate=float32[])"
        assert tx == jol.sgd(learning_rate)
        assert tx != jol.sgd(learning_rate + 1)
        return learning_rate

    jax.jit(f)(1.0)


def test_unhashable_argument_is_itself():
    class Odd:
        __hash__ = None

    one, other = Odd(), Odd()
    assert by_value(one) == by_value(one)
    assert by_value(one) != by_value(other)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            lambda: jol.adam(0.1, beta=1),
            r"adam: got an unexpected keyword argument 'beta'; its signature is \(",
        ),
        (lambda: jol.adam(), r"adam: missing a required argument: 'learning_rate'"),
        (lambda: jol.sgd(1, 2, 3, 4), r"sgd: too many positional arguments"),
        (lambda: schedules.cosine(1.0), r"cosine: missing a required argument: 'steps'"),
    ],
)
def test_wrong_arguments_name_the_factory(wrong, message):
    with pytest.raises(TypeError, match=message):
        wrong()
