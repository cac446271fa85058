"""Mini-batches: every row once, in an order that the key alone decides."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxopt_lite.batches import minibatches, stream

KEY = jax.random.key(0)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31 - 1), st.booleans())
def test_every_row_once(rows, batch_size, seed, drop_remainder):
    batch_size = min(batch_size, rows)
    data = {"x": np.arange(rows), "pair": (10 * np.arange(rows), np.arange(rows)[:, None] * np.ones((1, 2)))}
    batches = list(minibatches(jax.random.key(seed), data, batch_size, drop_remainder=drop_remainder))
    kept = rows - rows % batch_size if drop_remainder else rows
    sizes = [len(batch["x"]) for batch in batches]
    assert sizes == [batch_size] * (rows // batch_size) + [rows % batch_size] * (kept % batch_size > 0)
    seen = np.concatenate([batch["x"] for batch in batches]) if batches else np.array([])
    assert len(set(seen.tolist())) == len(seen) == kept
    assert set(seen.tolist()) <= set(range(rows))
    for batch in batches:  # the rows of all arrays stay together
        np.testing.assert_array_equal(batch["pair"][0], 10 * batch["x"])
        np.testing.assert_array_equal(batch["pair"][1], np.stack([batch["x"]] * 2, axis=1))


def order(key, rows=9, batch_size=4):
    return np.concatenate(list(minibatches(key, np.arange(rows), batch_size))).tolist()


def test_the_key_decides_the_order():
    assert order(KEY) == order(KEY)
    assert order(KEY) == order(jax.random.PRNGKey(0))  # typed keys and old ones alike
    assert order(KEY) == order(KEY, batch_size=3)
    assert len({tuple(order(jax.random.key(seed))) for seed in range(10)}) == 10


def test_the_permutation_is_uniform():
    rows, trials = 4, 600
    orders = np.array([order(key, rows) for key in jax.random.split(KEY, trials)])
    counts = np.array([(orders == row).sum(axis=0) for row in range(rows)])
    # chi-square with 9 degrees of freedom; 33.7 is exceeded once in 10,000
    assert ((counts - trials / rows) ** 2 / (trials / rows)).sum() < 33.7


def test_arrays_stay_where_they_are():
    batch = next(minibatches(KEY, {"host": np.arange(6.0), "device": jnp.arange(6.0)}, 2))
    assert isinstance(batch["host"], np.ndarray)
    assert isinstance(batch["device"], jax.Array)
    np.testing.assert_array_equal(batch["host"], batch["device"])


@pytest.mark.parametrize(
    ("data", "batch_size", "message"),
    [
        ({"x": np.ones(5), "y": np.ones(4)}, 2, "data['y'] has 4 rows, expected 5, those of data['x']"),
        ({}, 2, "data has no arrays, expected at least one"),
        ({"x": np.ones((0, 3))}, 2, "data has 0 rows, expected at least 1"),
        (
            {"x": np.ones(5), "y": 1.0},
            2,
            "data['y'] is a scalar, expected an array with a leading axis of rows",
        ),
        (np.ones(5), 6, "batch_size is 6, expected at most 5, the rows of data"),
        (np.ones(5), 0, "batch_size is 0, expected an integer of at least 1"),
        (np.ones(5), 2.0, "batch_size is 2.0, expected an integer of at least 1"),
    ],
)
def test_errors_at_the_call(data, batch_size, message):
    with pytest.raises(ValueError, match=f"^minibatches: {re.escape(message)}$"):
        minibatches(KEY, data, batch_size)


def test_stream_begins_anywhere():
    data = np.arange(7)
    whole = [(batch.tolist(), last) for batch, last in stream(KEY, data, 3, 0, 9)]
    epochs = [batch.tolist() for e in range(3) for batch in minibatches(jax.random.fold_in(KEY, e), data, 3)]
    assert [batch for batch, _ in whole] == epochs
    assert [last for _, last in whole] == [False] * 8 + [True]
    for start in range(10):
        assert [(b.tolist(), last) for b, last in stream(KEY, data, 3, start, 9)] == whole[start:]
