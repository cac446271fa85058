"""Eight optimizers train the small GPT, each at its own best learning rate: who learns most, and how fast?

    python examples/compare_optimizers.py                             # a few minutes on two CPU cores
    python examples/compare_optimizers.py --only adamw muon --steps 600

The learning rate is a `tunable`, so one compiled step trains every rate of the grid at once, under `vmap`. The
table and ./out/compare_optimizers.png show the rate with the lowest validation loss. The time is that of the
sweep over the number of rates: training alone, without compiling.
"""

import argparse
import functools
import time
from pathlib import Path

import gpt
import jax
import jax.numpy as jnp
import numpy as np
import text
from matplotlib.figure import Figure

import jaxopt_lite as jol
from jaxopt_lite import optimizers
from jaxopt_lite.schedules import warmup_cosine

GRID = (0.25, 0.5, 1.0, 2.0)  # times the rate in the table below
DECAYED = {"weight_decay": 0.1, "mask": gpt.matrices}


def schedule_free(learning_rate):
    inner = optimizers.adamw(learning_rate, b1=0.0, b2=0.95, **DECAYED)
    return optimizers.schedule_free(inner, learning_rate)


# Name → learning rate in the middle of the grid, factory.
OPTIMIZERS = {
    "adafactor": (0.25, optimizers.adafactor),
    "adamw": (3.2e-2, functools.partial(optimizers.adamw, b2=0.95, **DECAYED)),
    "ademamix": (1.6e-2, functools.partial(optimizers.ademamix, b2=0.95, b3=0.99, **DECAYED)),
    "lion": (6e-3, functools.partial(optimizers.lion, b2=0.98, weight_decay=0.5, mask=gpt.matrices)),
    "mars": (0.12, functools.partial(optimizers.mars, weight_decay=0.1)),
    "muon": (0.2, functools.partial(optimizers.muon, matrix_axes={"embedding": None}, weight_decay=0.1)),
    "schedule_free": (6e-2, schedule_free),
    "soap": (0.13, functools.partial(optimizers.soap, weight_decay=0.1, max_dim=128)),
}


def transformation(name, steps):
    """A ``tunable`` optimizer; all but schedule_free, which needs none, follow the same schedule."""
    tx = jol.tunable(OPTIMIZERS[name][1], learning_rate=OPTIMIZERS[name][0])
    end = 1.0 if name == "schedule_free" else 0.0
    shape = warmup_cosine(1.0, warmup_steps=steps // 10, decay_steps=steps, end_value=end)
    return tx if name == "schedule_free" else jol.chain(tx, optimizers.scale_by_schedule(shape))


def sweep(name, params, batches, loss_fn):
    """Train a copy of ``params`` at each rate of the grid: final params, rates, losses [steps, rates], seconds."""
    tx = transformation(name, len(batches))
    rates = OPTIMIZERS[name][0] * np.array(GRID)
    # The steps so far are the same number at every rate: kept apart, what happens every so often stays a branch.
    axis = lambda leaf: None if jnp.issubdtype(leaf.dtype, jnp.integer) else 0
    axes = (0, jax.tree.map(axis, jax.eval_shape(tx.init, params)))
    start = lambda rate: (params, jol.set_hyperparams(tx.init(params), learning_rate=rate))

    def step(carry, batch):
        params, state = carry
        loss, grads = jax.value_and_grad(loss_fn)(params, batch)
        updates, state = tx.update(grads, state, params)
        return (jol.apply_updates(params, updates), state), loss

    steps = jax.vmap(step, in_axes=(axes, None), out_axes=(axes, 0))
    train = lambda carry, batches: jax.lax.scan(steps, carry, batches)
    carry = jax.jit(jax.vmap(start, out_axes=axes))(rates)
    compiled = jax.jit(train, donate_argnums=0).lower(carry, batches).compile()
    began = time.perf_counter()
    (trained, state), losses = jax.block_until_ready(compiled(carry, batches))
    seconds = (time.perf_counter() - began) / len(rates)
    if name == "schedule_free":
        trained = jax.vmap(optimizers.schedule_free_eval_params, (axes[1].inner, 0))(state.inner, trained)
    return trained, rates, losses / np.log(2), seconds


def smooth(losses, width):
    """The mean over the last ``width`` steps (fewer at the start)."""
    return np.array([losses[max(0, end - width) : end].mean() for end in range(1, len(losses) + 1)])


def plot(path, rows, entropy):
    """The losses of the best rates, against steps on the left and against time on the right."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for name, row in rows.items():
        curve = smooth(row["losses"], max(1, len(row["losses"]) // 20))
        steps = np.arange(1, len(curve) + 1)
        label = f"{name}, {row['bits']:.2f}"
        left.plot(steps, curve, linewidth=1.5)
        right.plot(steps / len(steps) * row["seconds"], curve, label=label, linewidth=1.5)
    for axes, unit in ((left, "optimizer step"), (right, "seconds of training")):
        axes.axhline(entropy, color="gray", linestyle="--", linewidth=1)
        axes.set(xlabel=unit, xlim=(0, None))
        axes.grid(alpha=0.3)
    left.set(ylabel="training loss (bits per byte)", ylim=(None, entropy + 0.6))
    left.text(0.99, entropy + 0.02, "unigram entropy", transform=left.get_yaxis_transform(), ha="right")
    right.legend(title="validation loss, best first")
    figure.suptitle("A small byte-level GPT, each optimizer at its best learning rate")
    figure.savefig(path, dpi=120)


def main(*, only=tuple(OPTIMIZERS), steps=300, batch=16, width=64, depth=2, length=64, out="out", seed=0):
    """Sweep, plot, print; returns a row of figures for each optimizer, the best first."""
    print(f"device: {jax.devices()[0]}")
    config = gpt.Config(width=width, depth=depth, heads=max(1, width // 32), length=length)
    data, keys = text.read_text(), jax.random.split(jax.random.key(seed))
    params = gpt.init(keys[0], config)
    sample = text.sampler(jnp.asarray(data.train), batch, length + 1, keys[1])
    batches = np.stack([sample(step) for step in range(steps)])
    loss_fn = functools.partial(gpt.next_byte_loss, config=config)
    held_out, entropy = text.windows(data.validation, 128, length + 1), text.unigram_entropy(data.validation)
    evaluate = jax.jit(jax.vmap(loss_fn, in_axes=(0, None)))
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(f"{size:,} parameters, {steps} steps at {len(GRID)} learning rates each")

    print(f"{'optimizer':14} {'learning rate':>13} {'bits per byte':>13} {'ms per step':>11}")
    rows = {}
    for name in only:
        trained, rates, losses, seconds = sweep(name, params, batches, loss_fn)
        bits = np.nan_to_num(evaluate(trained, held_out) / np.log(2), nan=np.inf)
        best = int(np.argmin(bits))
        rows[name] = {"bits": float(bits[best]), "losses": losses[:, best], "seconds": seconds}
        rate = f"{rates[best]:.2g}" + (" (edge)" if best in (0, len(rates) - 1) else "")
        print(f"{name:14} {rate:>13} {bits[best]:13.3f} {seconds / steps * 1e3:11.1f}", flush=True)
    rows = dict(sorted(rows.items(), key=lambda item: item[1]["bits"]))
    picture = Path(out, "compare_optimizers.png")
    picture.parent.mkdir(parents=True, exist_ok=True)
    plot(picture, rows, entropy)
    print(f"unigram entropy {entropy:.3f}; curves: {picture}")
    worst = max(row["bits"] for row in rows.values())
    assert worst < entropy, f"{worst} bits per byte, expected every optimizer below {entropy}"
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=OPTIMIZERS, default=tuple(OPTIMIZERS))
    for name, value in {"steps": 300, "batch": 16, "width": 64, "depth": 2, "length": 64, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--out", default="out", help="folder for the picture")
    main(**vars(parser.parse_args()))
