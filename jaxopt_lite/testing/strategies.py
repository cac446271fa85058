"""Hypothesis strategies for tests of losses and transformations: trees, gradients, logits, hostile floats, masks.

This module alone of the package imports hypothesis.

>>> from hypothesis import HealthCheck, given, settings
>>> @settings(suppress_health_check=[HealthCheck.too_slow])  # the first draw compiles
... @given(logits_and_labels(max_batch=3))
... def test_cross_entropy_is_finite(example):
...     logits, labels = example
...     assert logits.shape[:-1] == labels.shape
>>> test_cross_entropy_is_finite()
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from jaxopt_lite.testing.trees import in_containers

FLOATS = (jnp.float32, jnp.bfloat16, jnp.float16)


def dtypes(kinds: tuple[Any, ...] = FLOATS) -> st.SearchStrategy[Any]:
    """Floating dtypes; float32 first, so that failures shrink to it."""
    return st.sampled_from(kinds)


def hostile_floats(dtype: Any = jnp.float32, *, allow_nan: bool = False, allow_infinity: bool = False) -> Any:
    """Floats exact in ``dtype``: ordinary ones, and the edges where formulas break.

    Zero of both signs, the smallest subnormal and normal, epsilon, 1 ± epsilon, ±1e4, the largest.

    >>> from hypothesis import find
    >>> find(hostile_floats(jnp.float16), lambda x: x > 10001.0)
    65504.0
    """
    info = jnp.finfo(dtype)
    tiny, smallest, eps, largest = (
        float(x) for x in (info.tiny, info.smallest_subnormal, info.eps, info.max)
    )
    edges = [0.0, -0.0, 1.0, -1.0, tiny, smallest, eps, 1.0 + eps, 1.0 - eps / 2, 1e-4, 1e4, largest]
    edges += [-x for x in edges[4:]]
    edges += [np.nan] * allow_nan + [np.inf, -np.inf] * allow_infinity
    exact = lambda x: float(np.asarray(x, dtype))
    return st.one_of(st.floats(-4.0, 4.0), st.sampled_from(edges)).map(exact)


def arrays(shape: tuple[int, ...], elements: st.SearchStrategy[float], dtype: Any = jnp.float32) -> Any:
    """JAX arrays of one shape."""
    size = int(np.prod(shape))
    fill = lambda xs: jnp.asarray(np.array(xs, np.float64).reshape(shape), dtype)
    return st.lists(elements, min_size=size, max_size=size).map(fill)


def shapes(max_rank: int = 3, max_side: int = 5) -> Any:
    """Shapes from 0-d on, zero-sized ones among them."""
    return st.lists(st.integers(0, max_side), max_size=max_rank).map(tuple)


@st.composite
def params(draw: Any, *, dtype: Any = None, max_leaves: int = 4, containers: bool = True) -> Any:
    """Parameter trees: dictionaries (or named tuples, lists and dataclasses) of leaves of any shape, one dtype.

    >>> from hypothesis import given, settings
    >>> @settings(max_examples=5)
    ... @given(st.data())
    ... def test_init_takes_any_tree(data):
    ...     tree = data.draw(params(dtype=jnp.float32))
    ...     grads = data.draw(gradients_for(tree))
    ...     assert jax.tree.structure(grads) == jax.tree.structure(tree)
    >>> test_init_takes_any_tree()
    """
    kind = draw(dtypes()) if dtype is None else dtype
    sizes = draw(st.lists(shapes(), min_size=1, max_size=max_leaves))
    tree = {f"leaf{i}": draw(arrays(s, st.floats(-2.0, 2.0), kind)) for i, s in enumerate(sizes)}
    return in_containers(tree) if containers and draw(st.booleans()) else tree


@st.composite
def gradients_for(draw: Any, tree: Any, *, elements: Any = None) -> Any:
    """A gradient for a parameter tree: same tree, shapes and dtypes."""
    one = lambda p: draw(arrays(p.shape, st.floats(-10.0, 10.0) if elements is None else elements, p.dtype))
    return jax.tree.map(one, tree)


@st.composite
def logits_and_labels(
    draw: Any, *, max_batch: int = 6, max_classes: int = 8, dtype: Any = jnp.float32, hostile: bool = True
) -> tuple[Any, Any]:
    """Logits [B, C] and integer labels [B] in range."""
    batch, classes = draw(st.integers(1, max_batch)), draw(st.integers(2, max_classes))
    elements = hostile_floats(dtype).filter(lambda x: abs(x) <= 1e4) if hostile else st.floats(-5.0, 5.0)
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=batch, max_size=batch))
    return draw(arrays((batch, classes), elements, dtype)), jnp.asarray(labels, jnp.int32)


@st.composite
def masks(draw: Any, shape: tuple[int, ...], *, ragged: bool = False) -> Any:
    """Boolean masks; ``ragged`` keeps a prefix of every row, as padded sequences do.

    >>> from hypothesis import find
    >>> find(masks((1, 3), ragged=True), lambda mask: mask.sum() == 2).tolist()
    [[True, True, False]]
    """
    if not ragged or not shape:
        bits = draw(st.lists(st.booleans(), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
        return jnp.asarray(np.array(bits, bool).reshape(shape))
    rows = int(np.prod(shape[:-1]))
    lengths = draw(st.lists(st.integers(0, shape[-1]), min_size=rows, max_size=rows))
    return jnp.asarray((np.arange(shape[-1]) < np.array(lengths, int)[:, None]).reshape(shape))
