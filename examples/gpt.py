"""A small GPT over bytes: pre-norm layers, rotary positions, squared-ReLU feed-forward, tied output head."""

import functools
from typing import NamedTuple

import devices
import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_lite.losses import linear_softmax_cross_entropy

BYTES = 256
EMBEDDING_SCALE = 0.02  # as a head the embedding must start small, as an input it is divided by this
EPS = 1e-6


class Config(NamedTuple):
    """The sizes of a model. It hashes, so it can be a static argument of ``jax.jit``."""

    width: int = 128
    depth: int = 4
    heads: int = 4
    length: int = 128  # bytes of context
    dtype: str = "float32"  # of the arithmetic; parameters are float32


def init(key, config):
    """Float32 parameters; kernels are [in, out], and what writes into the residual stream starts at zero."""
    width = config.width
    key, subkey = jax.random.split(key)
    params = {
        "embedding": jax.random.normal(subkey, (BYTES, width)) * EMBEDDING_SCALE,
        "layers": [],
        "norm": jnp.ones(width),
    }
    for _ in range(config.depth):
        key, key_qkv, key_up = jax.random.split(key, 3)
        layer = {
            "attention_norm": jnp.ones(width),
            "qkv": jax.random.normal(key_qkv, (width, 3 * width)) / np.sqrt(width),
            "out": jnp.zeros((width, width)),
            "mlp_norm": jnp.ones(width),
            "up": jax.random.normal(key_up, (width, 4 * width)) / np.sqrt(width),
            "down": jnp.zeros((4 * width, width)),
        }
        params["layers"].append(layer)
    return params


def matrices(params):
    """Where weight decay acts: on matrices, not on vectors."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def rms_norm(x):
    """x / √(mean x² + ε) over the last axis, in float32."""
    wide = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + EPS)
    return (wide * scale).astype(x.dtype)


def gained(x, gain):
    return rms_norm(x) * gain[None, None]


def rotate(x):
    """Rotary positions: pair i of ``[..., T, D]`` at position t turned by t·1000^(-2i/D)."""
    length, size = x.shape[-2:]
    angle = np.arange(length)[:, None] * 1000.0 ** (-np.arange(0, size, 2) / size)[None]
    cos, sin = (jnp.asarray(f(angle), x.dtype)[None, None] for f in (np.cos, np.sin))
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)


def attention(layer, x, heads):
    """Causal attention over ``[B, T, width]``; queries and keys have norm √D, so no further scale."""
    batch, length, width = x.shape
    qkv = (x @ layer["qkv"]).reshape(batch, length, 3, heads, width // heads)
    q, k, v = qkv.transpose(2, 0, 3, 1, 4)  # each [B, heads, T, D]: one batched product per head is fastest
    q, k = rotate(rms_norm(q)), rotate(rms_norm(k))
    scores = jnp.matmul(q, k.swapaxes(-1, -2), preferred_element_type=jnp.float32)
    visible = np.tril(np.ones((length, length), bool))[None, None]
    weights = jax.nn.softmax(jnp.where(visible, scores, -jnp.inf), axis=-1).astype(x.dtype)
    return (weights @ v).swapaxes(1, 2).reshape(batch, length, width) @ layer["out"]


def apply(params, tokens, config):
    """Hidden states ``[B, T, width]`` of bytes ``[B, T]``; that of byte t is to predict byte t + 1."""
    params = jax.tree.map(lambda leaf: leaf.astype(config.dtype), params)
    x = params["embedding"][tokens] / EMBEDDING_SCALE
    for layer in params["layers"]:
        x = x + attention(layer, gained(x, layer["attention_norm"]), config.heads)
        up = gained(x, layer["mlp_norm"]) @ layer["up"]
        x = x + jnp.square(jax.nn.relu(up)) @ layer["down"]
    return gained(x, params["norm"])


def next_byte_loss(params, windows, config):
    """Mean cross-entropy in nats of the bytes 1 … T of windows ``[B, T + 1]``, each from those before it."""
    hidden = apply(params, windows[:, :-1], config)
    head = params["embedding"].astype(config.dtype)
    return linear_softmax_cross_entropy(hidden, head, windows[:, 1:], transpose_kernel=True, reduction="mean")


def evaluator(loss_fn, batch, sharding):
    """``evaluate(params, windows)``: the mean loss over windows, in bits per byte."""
    loss_fn = jax.jit(loss_fn)

    def evaluate(params, windows):
        batches = devices.put(np.split(windows, len(windows) // batch), sharding)
        return np.mean([float(loss_fn(params, part)) for part in batches]) / np.log(2)

    return evaluate


@functools.partial(jax.jit, static_argnames=("config", "count"))
def generate(params, prompt, key, *, config, count, temperature=0.8):
    """``count`` bytes sampled after the bytes ``prompt`` [length], which fill the context."""

    def add(context, key):
        hidden = apply(params, context[None], config)[0, -1]
        logits = jnp.matmul(params["embedding"], hidden.astype(jnp.float32))
        byte = jax.random.categorical(key, logits / temperature)
        return jnp.append(context[1:], byte.astype(context.dtype)), byte

    return jax.lax.scan(add, prompt, jax.random.split(key, count))[1]
