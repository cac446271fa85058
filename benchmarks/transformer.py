"""A decoder of the usual make as shapes, specs and a loss, for compile_for.py: 7B and 70B parameters, never run."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxopt_lite.losses import linear_softmax_cross_entropy, softmax_cross_entropy_with_integer_labels


class Model(NamedTuple):
    """Sizes, and where it trains: a mesh of the axes ``AXES``."""

    width: int
    depth: int
    heads: int
    kv_heads: int
    hidden: int
    vocabulary: int
    length: int
    batch: int
    target: str
    mesh: tuple[int, int, int]


AXES = ("fsdp", "data", "model")
"""Rows of parameters lie over the first, columns over the others; the batch over the first two, the vocabulary over the
last. (With chips of the second as parts of the vocabulary too, "70B/16", there are too few classes on each for its
logits to be much more than a hidden gradient.)"""
BATCH = P(("fsdp", "data"))
BLOCK = 256  # queries

MODELS = {
    "7B": Model(4096, 32, 32, 32, 12_288, 32_768, 2048, 512, "v5p:8x8x8", (512, 1, 1)),
    "70B": Model(8192, 80, 64, 8, 28_672, 131_072, 2048, 1024, "v4:16x16x16", (512, 2, 8)),
    "70B/16": Model(8192, 80, 64, 8, 28_672, 131_072, 2048, 512, "v4:16x16x16", (512, 1, 16)),
}


def shapes(model):
    """Float32 parameters; the layers' are stacked along a first axis."""
    d, depth, key_value = model.width, model.depth, model.kv_heads * model.width // model.heads
    sizes = {
        "query": (d, d), "key_value": (d, 2 * key_value), "out": (d, d),
        "gate": (d, model.hidden), "up": (d, model.hidden), "down": (model.hidden, d), "norms": (2, d),
    }  # fmt: skip
    stacked = {name: (depth, *size) for name, size in sizes.items()}
    every = stacked | {"embedding": (model.vocabulary, d)}
    return {name: jax.ShapeDtypeStruct(size, jnp.float32) for name, size in every.items()}


def specs(model):
    """Every matrix by its rows and by its columns: whole tiles of 8 × 128 on every chip."""
    columns = ("data", "model")
    matrices = dict.fromkeys(("query", "key_value", "out", "gate", "up", "down"), P(None, "fsdp", columns))
    return matrices | {"norms": P(None, None, AXES), "embedding": P("fsdp", columns)}


COLUMNS, ROWS = P(None, "model"), P("model", None)
USED = dict.fromkeys(("query", "key_value", "gate", "up"), COLUMNS) | {
    "out": ROWS,
    "down": ROWS,
    "norms": P(),
}
"""How a layer's matrices lie while they are used: whole, or over "model" by heads and hidden units."""


def gathered(leaf, stored, used):
    """A parameter in 16 bits, brought from where it is stored to where it is used.

    Said aloud, since the partitioner would else pass the shards around a ring inside of every product, in programs
    that take it a minute a layer. The gradient is asked for where the parameter is stored; for hundreds of chips the
    compiler sums the whole all the same, and cuts it afterwards.
    """
    move = jax.custom_vjp(lambda x: lax.with_sharding_constraint(x, used))
    move.defvjp(lambda x: (move(x), None), lambda _, g: (lax.with_sharding_constraint(g, stored),))
    return move(lax.with_sharding_constraint(leaf.astype(jnp.bfloat16), stored))


def normed(x, gain):
    wide = x.astype(jnp.float32)
    return (wide * lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + 1e-6)).astype(x.dtype) * gain


def attention(layer, x, model):
    """Causal attention with shared keys and values, without positions (they change nothing here).

    In blocks of queries: the weights of all would be the largest array of the program, and a mask of 2048 × 2048 alone
    takes TPU's compiler half a minute.
    """
    batch, length, d = x.shape
    size, groups = d // model.heads, model.heads // model.kv_heads
    query = (x @ layer["query"]).reshape(batch, -1, BLOCK, model.kv_heads, groups, size)
    key, value = jnp.moveaxis((x @ layer["key_value"]).reshape(batch, length, 2, model.kv_heads, size), 2, 0)

    @jax.checkpoint
    def block(part):
        start, query = part
        scores = jnp.einsum("btkgd,bskd->bkgts", query, key, preferred_element_type=jnp.float32) / size**0.5
        seen = (start + jnp.arange(BLOCK))[:, None] >= jnp.arange(length)
        weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf)).astype(x.dtype)
        return jnp.einsum("bkgts,bskd->btkgd", weights, value)

    mixed = lax.map(block, (jnp.arange(0, length, BLOCK), jnp.moveaxis(query, 1, 0)))
    return jnp.moveaxis(mixed, 0, 1).reshape(batch, length, d) @ layer["out"]


def loss(params, windows, model, mesh):
    """Mean cross-entropy of the next token; layers in one scan, recomputed in the backward pass."""
    place, stored = functools.partial(NamedSharding, mesh), specs(model)
    rows, hidden = place(BATCH), place(P(*BATCH, None, "model"))
    layers = {name: leaf for name, leaf in params.items() if name != "embedding"}

    @jax.checkpoint
    def body(x, layer):
        layer = {k: gathered(leaf, place(P(*stored[k][1:])), place(USED[k])) for k, leaf in layer.items()}
        x = x + attention(layer, normed(x, layer["norms"][0]), model)
        y = normed(x, layer["norms"][1])
        y = lax.with_sharding_constraint(jax.nn.silu(y @ layer["gate"]) * (y @ layer["up"]), hidden)
        x = x + y @ layer["down"]
        return lax.with_sharding_constraint(x, rows), None

    table = gathered(params["embedding"], place(stored["embedding"]), place(P("model")))
    x = lax.with_sharding_constraint(table[windows[:, :-1]], rows)
    x, _ = lax.scan(body, x, layers)
    return head_loss(x, table, windows[:, 1:], mesh=mesh, fused=True)


def head_loss(hidden, table, labels, *, mesh, fused):
    """Mean cross-entropy: fused with the head, each chip on its own rows and part of the vocabulary, or on logits."""
    if not fused:
        logits = jnp.einsum("btd,vd->btv", hidden, table, preferred_element_type=jnp.float32)
        return softmax_cross_entropy_with_integer_labels(logits, labels, reduction="mean")

    def part(hidden, table, labels):
        axis_name = "model" if mesh.shape["model"] > 1 else None
        options = {"transpose_kernel": True, "axis_name": axis_name, "reduction": "sum"}
        return lax.psum(linear_softmax_cross_entropy(hidden, table, labels, **options), AXES)

    split = (BATCH, P("model"), BATCH)
    total = jax.shard_map(part, mesh=mesh, in_specs=split, out_specs=P(), check_vma=False)
    return total(hidden, table, labels) / (labels.size * mesh.shape["model"])


def head_arguments(model, mesh):
    """Hidden states by rows; the head by its vocabulary over "model", where that has chips to split it."""
    place = functools.partial(NamedSharding, mesh)
    bf16 = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.bfloat16)
    rows, vocabulary = BATCH, P("model") if model.mesh[2] > 1 else P()
    return (
        bf16((model.batch, model.length, model.width), sharding=place(rows)),
        bf16((model.vocabulary, model.width), sharding=place(vocabulary)),
        jax.ShapeDtypeStruct((model.batch, model.length), jnp.int32, sharding=place(rows)),
    )
