"""A kernel over chunks of rows gives what it gives at once."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_lite.losses.chunks import Chunks, over_devices, sizes
from jaxopt_lite.losses.vocabulary import Head, stream_back


def kernel(head, x, w, b):
    """Per row its size and its sum of ``x·w + b``; per column, in the dtype of ``w`` or exactly, sums over rows."""
    z = x @ w + (0 if b is None else b[None])
    dw = jnp.broadcast_to(x.sum(0)[:, None], w.shape)
    return {"n": x, "sum": z.sum(1)}, dw.astype(jnp.float32 if head.partial else w.dtype), None


@pytest.mark.parametrize("rows", [16, 13, 3])
@pytest.mark.parametrize("bias", [None, np.ones(5, np.float32)])
def test_chunks_are_put_together(rows, bias):
    x = 300 + np.arange(2.0 * rows, dtype=np.float32).reshape(rows, 2)  # no float16 holds a part of its sums
    w = jnp.ones((2, 5), jnp.float16)
    outputs = {"n": "nh", "sum": "n"}, "hv", None
    for devices in (1, 2):
        chunks = Chunks(
            kernel, Head(tokens=2), ("nh", "hv", "v" if bias is not None else None), outputs, devices
        )
        got, true = jax.jit(lambda *a, f=chunks: f(*a))(x, w, bias), kernel(Head(), x, w, bias)
        jax.tree.map(np.testing.assert_array_equal, got, true)
        assert got[1].dtype == jnp.float16


@pytest.mark.parametrize(
    ("rows", "most", "devices", "count", "size"),
    [(16_384, 4096, 8, 4, 4096), (48, 20, 8, 3, 16), (13, 4, 2, 4, 3), (3, 8, 4, 1, 3), (0, 8, 4, 1, 0)],
)
def test_chunks_fit_the_devices(rows, most, devices, count, size):
    assert sizes(rows, most, devices) == (count, size)


def test_on_one_device_it_is_the_kernel():
    x, w = np.ones((6, 2), np.float32), np.ones((2, 5), np.float32)
    whole = lambda head, x, w: (x @ w).sum(1)
    run = jax.jit(lambda x, w: over_devices(whole, Head(), ("nh", "hv"), "n", x, w))
    np.testing.assert_array_equal(run(x, w), np.full(6, 10))
    assert "while" not in run.lower(x, w).as_text()


def test_a_gradient_is_rounded_once():
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.normal(size=s), jnp.bfloat16) for s in ((64, 8), (8, 40)))
    y, stats, head = (
        np.zeros(64, int),
        {"max": jnp.zeros(64), "rest": jnp.ones(64)},
        Head(columns=40, tokens=2),
    )
    arrays = x, w, None, y, stats, {"rest": jnp.ones(64), "label": jnp.zeros(64)}
    chunks = Chunks(stream_back, head, ("nh", "hv", None, "n", *[dict.fromkeys(k, "n") for k in arrays[4:]]),
                    ("nh", "hv", None), 1)  # fmt: skip
    got, true = (jax.jit(lambda *a, f=f: f(*a)[1])(*arrays) for f in (chunks, partial(stream_back, head)))
    assert np.mean(got != true) < 0.05  # a rounding in every chunk moves most
