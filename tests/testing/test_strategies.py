"""The strategies give what they promise, and reach the edges."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import find, given, settings
from hypothesis import strategies as st

from jaxopt_lite.testing.strategies import (
    gradients_for,
    hostile_floats,
    logits_and_labels,
    masks,
    params,
    shapes,
)


@given(st.data())
def test_gradients_fit_their_parameters(data):
    tree = data.draw(params())
    grads = data.draw(gradients_for(tree))
    assert jax.tree.structure(tree) == jax.tree.structure(grads)
    for p, g in zip(jax.tree.leaves(tree), jax.tree.leaves(grads), strict=True):
        assert (p.shape, p.dtype) == (g.shape, g.dtype)


@given(st.data())
def test_floats_are_exact_in_their_dtype(data):
    dtype = data.draw(st.sampled_from([jnp.float32, jnp.bfloat16, jnp.float16]))
    x = data.draw(hostile_floats(dtype))
    assert np.isfinite(x)
    assert float(np.asarray(x, dtype)) == x


@settings(max_examples=200)
@given(logits_and_labels())
def test_labels_are_in_range(example):
    logits, labels = example
    assert logits.shape[:1] == labels.shape
    assert ((np.asarray(labels) >= 0) & (np.asarray(labels) < logits.shape[1])).all()
    z = np.asarray(logits, np.float32)
    loss = np.logaddexp.reduce(z, axis=1) - z[np.arange(len(z)), labels]
    assert np.isfinite(loss).all()


@given(masks((3, 5), ragged=True))
def test_ragged_masks_are_prefixes(mask):
    assert mask.shape == (3, 5)
    assert (np.diff(np.asarray(mask, int), axis=-1) <= 0).all()


def test_the_edges_are_reached():
    quick = settings(max_examples=2000, database=None, derandomize=True)
    assert np.isnan(find(hostile_floats(allow_nan=True), np.isnan, settings=quick))
    assert find(hostile_floats(jnp.float16), lambda x: 0 < x < 1e-7, settings=quick) < 1e-7
    assert find(shapes(), lambda s: 0 in s, settings=quick)
    assert find(shapes(), lambda s: s == (), settings=quick) == ()
    assert not find(masks((4,)), lambda m: not m.any(), settings=quick).any()
    find(params(), lambda t: not isinstance(t, dict), settings=quick)
