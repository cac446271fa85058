"""Blocks of logits: every column once, statistics exact, the gradient through a capped logit, work and memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_lite.losses import vocabulary, walk
from jaxopt_lite.losses.language import linear_softmax_cross_entropy
from jaxopt_lite.losses.vocabulary import Head
from tests import users
from tests.oracles import language as oracle

EVERYTHING = ("sum", "entropy", "argmax")


def streamed(z, y, size, head=Head(want=EVERYTHING)):  # noqa: B008
    """Statistics of whole logits, block by block."""
    body = lambda start, width, carry: vocabulary.update(carry, walk.part(z, start, width, 1), start, y)
    carry = vocabulary.first(head, jnp.zeros(z.shape[0], z.dtype))
    return vocabulary.finish(walk.over_blocks(body, carry, z.shape[1], size))


def hostile_logits():
    """Rows of ordinary, peaked, huge, tied and hidden (-inf) logits: all of the first block, or all but one."""
    z = np.random.default_rng(0).normal(size=(7, 43))
    z[1], z[2], z[3] = z[1] * 160, 1e4 + z[2], 0.0
    z[4, :9], z[5, :42], z[6, 5] = -np.inf, -np.inf, 1e30
    return z.astype(np.float32)


def test_statistics_of_blocks_are_those_of_rows():
    z, y = hostile_logits(), np.int32([0, 42, 7, 8, 42, 42, 5])
    stats = jax.jit(streamed, static_argnums=2)(z, y, 8)
    exact = z.astype(np.float64)
    lse, log_p = oracle.log_softmax(exact)
    rows = np.arange(len(z))
    np.testing.assert_allclose(stats["max"] + stats["rest"], lse, rtol=1e-6)
    np.testing.assert_allclose(
        vocabulary.log_softmax(z, stats)[rows, y], log_p[rows, y], rtol=1e-6, atol=3e-7
    )
    np.testing.assert_array_equal(stats["label"], z[rows, y])
    np.testing.assert_array_equal(stats["argmax"], z.argmax(1))
    np.testing.assert_allclose(stats["sum"], exact.sum(1), rtol=1e-6, atol=2e-3)
    np.testing.assert_allclose(stats["entropy"], oracle.entropy(log_p), rtol=2e-6, atol=2e-6)


def test_shards_of_the_vocabulary_combine():
    """As under shard_map, whose collectives ``vmap`` stands in for; a shard may be all -inf."""
    z = np.tile(hostile_logits(), (1, 2))[:, :84]
    y, parts = np.int32([0, 42, 83, 8, 42, 42, 5]), z.reshape(7, 4, 21).swapaxes(0, 1)

    def shard(index, part):
        head = Head(want=EVERYTHING, axis_name="model")
        stats = streamed(part, y - 21 * index, 8, head)
        return vocabulary.combine(head, stats | {"argmax": stats["argmax"] + 21 * index})

    got = jax.jit(jax.vmap(shard, axis_name="model"))(np.arange(4), parts)
    whole = jax.jit(streamed, static_argnums=2)(z, y, 84)
    for name in whole:
        for of_shard in got[name]:
            np.testing.assert_allclose(of_shard, whole[name], rtol=2e-6, atol=2e-3 if name == "sum" else 2e-6)


@pytest.mark.parametrize("head", [Head(), Head(softcap=20.0), Head(softcap=5.0, temperature=0.7)])
def test_the_pull_through_logits_is_their_derivative(head):
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32) * 3
    w, dz = np.eye(3, 5, dtype=np.float32), np.ones((4, 5), np.float32)
    b = np.linspace(-40, 40, 5).astype(np.float32)
    z, pull = jax.vjp(lambda b: vocabulary.logits(head, x, w, b), b)
    true, slope = oracle.logits(x, w, b, head.softcap, head.temperature)
    da = vocabulary.logits_pull(head, z, dz)
    np.testing.assert_allclose(z, true, rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(da, slope, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(da.sum(0), pull(dz)[0], rtol=1e-5, atol=2e-6)


def dots(program, platform, *arrays):
    """The operands and the result of every matrix product, in the text lowered for a platform."""
    text = jax.jit(program).trace(*arrays).lower(lowering_platforms=(platform,)).as_text()
    types = [line.rsplit(" : ", 1)[1] for line in text.splitlines() if "stablehlo.dot_general" in line]
    return [[word.rstrip(">),").split("x")[-1] for word in t.split() if word.startswith(("tensor", "(tensor"))]
            for t in types]  # fmt: skip


@pytest.mark.parametrize("recompute", [True, False])
def test_products_take_bfloat16_and_give_float32(recompute):
    x, w, y = (jnp.zeros((24, 8), jnp.bfloat16), jnp.zeros((8, 100), jnp.bfloat16), np.zeros(24, int))
    options = {"reduction": "mean", "recompute": recompute, "chunk_size": 16}
    gradient = jax.grad(lambda x, w: linear_softmax_cross_entropy(x, w, y, **options), (0, 1))
    found = dots(gradient, "tpu", x, w)
    assert len(found) == (8 if recompute else 6)  # 4 or 3, in the loop and in the last, narrower block
    assert found == [["bf16", "bf16", "f32"]] * len(found)
    on_cpu = dots(gradient, "cpu", x, w)  # which has no unit for bfloat16
    assert len(on_cpu) == len(found)
    assert all(result == "f32" for *_, result in on_cpu)
    shapes = {v.aval.shape for eqn in equations(jax.make_jaxpr(gradient)(x, w).jaxpr) for v in eqn.outvars}
    assert not shapes & {(24, 100), (100, 24)}


def equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


@pytest.mark.cpu
def test_memory_work_and_no_copy_of_a_tied_embedding():
    n, h, v = 512, 64, 8192
    args = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((n, h), (v, h))]
    y = np.zeros(n, int)
    options = {"transpose_kernel": True, "reduction": "mean"}
    f = lambda x, e: linear_softmax_cross_entropy(x, e, y, recompute=True, **options)
    both, frozen = (users.compiled(jax.jit(jax.grad(f, a)).lower(*args)) for a in ((0, 1), 0))
    assert both.memory_analysis().temp_size_in_bytes < n * v * 4 / 3
    assert not [line for line in both.as_text().splitlines() if f"f32[{h},{v}]" in line]
    default = lambda x, e: linear_softmax_cross_entropy(x, e, y, **options)
    # 3·64 ≤ 512: gradient in the forward pass
    fused = users.compiled(jax.jit(jax.grad(default, (0, 1))).lower(*args))
    assert f"f32[{n},1024]" in both.as_text()
    assert f"f32[{n},1024]" not in fused.as_text()
    chunk, blocks = 4 * 128 * v, 4 * 1024 * (2 * 128 + h)  # the accumulator is the gradient itself
    assert fused.memory_analysis().temp_size_in_bytes < 1.05 * (chunk + blocks)
    one = 2 * n * h * 1024  # cost_analysis counts the body of a loop once: a block of 1,024 columns
    assert both.cost_analysis()["flops"] - frozen.cost_analysis()["flops"] == pytest.approx(one, rel=0.05)
