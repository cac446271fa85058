"""Train a byte-level GPT from scratch on the source of Python's own standard library.

python examples/pretrain_gpt.py                   # two minutes on two CPU cores
python examples/pretrain_gpt.py --preset gpu      # for one GPU or TPU
python examples/pretrain_gpt.py --resume          # go on from the last checkpoint, to the same bits
python examples/pretrain_gpt.py --mesh data=2,fsdp=4              # eight devices; on a CPU, eight parts of it
python examples/pretrain_gpt.py --mesh data=2,fsdp=4 --processes 2             # in two processes
python examples/pretrain_gpt.py --mesh data=8,fsdp=64 --processes cluster      # the same line on every host

Batches and the optimizer's state are shared out over all devices, parameters over "fsdp" alone. Loss curve and
checkpoints go to ./out; a run without --resume replaces them.
"""

import argparse
import functools
import math
import shutil
import time
import zlib
from pathlib import Path

import devices
import gpt
import jax
import jax.numpy as jnp
import numpy as np
import text
from matplotlib.figure import Figure
from tqdm import tqdm

import jaxopt_lite as jol
from jaxopt_lite import checkpoint
from jaxopt_lite.schedules import warmup_cosine

CPU = {"width": 128, "depth": 4, "heads": 4, "length": 128, "dtype": "float32", "batch": 16, "steps": 400}
CPU |= {"learning_rate": 6e-3, "evaluate_every": 50, "checkpoint_every": 300}
GPU = {"width": 512, "depth": 8, "heads": 8, "length": 512, "dtype": "bfloat16", "batch": 64, "steps": 3000}
GPU |= {"learning_rate": 2e-3, "evaluate_every": 100, "checkpoint_every": 500}
PRESETS = {"cpu": CPU, "gpu": GPU, "accelerator": GPU}
LOG_EVERY = 10  # steps between two looks at the loss: the host runs ahead in between
NO_LOSSES = {name: np.zeros(0) for name in ("train", "validation", "evaluated")}


def optimizer(learning_rate, steps):
    schedule = warmup_cosine(learning_rate, warmup_steps=steps // 20, decay_steps=steps)
    adamw = jol.adamw(schedule, b2=0.95, weight_decay=0.1, mask=gpt.matrices)
    return jol.chain(jol.clip_by_global_norm(1.0), adamw)


def train(run, start, settings, step_fn, sample, evaluate, save):
    """The steps after ``start``; ``run`` holds params, state and the losses in bits per byte so far."""
    pending, steps = [], settings["steps"]
    # CPU devices share one pool of threads, in which programs that run ahead can starve each other's collectives.
    ahead = 1 if jax.default_backend() == "cpu" and jax.device_count() > 1 else LOG_EVERY
    due = lambda step, every: step % every == 0 or step == steps
    with tqdm(total=steps, initial=start, unit="step", disable=jax.process_index() > 0) as bar:
        for step in range(start + 1, steps + 1):
            run["params"], run["state"], loss = step_fn(run["params"], run["state"], sample(step))
            pending.append(loss)
            if due(step, ahead) or due(step, settings["checkpoint_every"]):
                run["train"] = np.append(run["train"], np.array(jax.device_get(pending)) / math.log(2))
                bar.update(len(pending))
                bar.set_postfix_str(f"{np.mean(run['train'][-len(pending) :]):.3f} bits per byte")
                pending = []
            if due(step, settings["evaluate_every"]):
                run["evaluated"] = np.append(run["evaluated"], step)
                run["validation"] = np.append(run["validation"], evaluate(run["params"]))
            if due(step, settings["checkpoint_every"]):
                save(step, run)
    return run


def plot(path, run, entropy):
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    steps = np.arange(1, len(run["train"]) + 1)
    axes.plot(steps, run["train"], color="tab:blue", alpha=0.4, linewidth=0.8, label="train, every batch")
    axes.plot(run["evaluated"], run["validation"], color="tab:orange", marker=".", label="validation")
    axes.axhline(entropy, color="gray", linestyle="--", label=f"unigram entropy, {entropy:.2f}")
    axes.set(xlabel="optimizer step", ylabel="loss (bits per byte)", ylim=(0, 8.2), title="Byte-level GPT")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def continuation(params, data, key, config):
    """What the model writes after the first ``def`` of the validation text that has enough before it."""
    end = data.tobytes().index(b"\ndef ", config.length) + len(b"\ndef ")
    prompt = jnp.asarray(data[end - config.length : end], jnp.int32)
    written = gpt.generate(params, prompt, key, config=config, count=300)
    return "def " + bytes(written.tolist()).decode(errors="replace")


def main(*, preset="cpu", out="out", mesh=None, resume=False, check=True, seed=0, **sizes):
    """Train, sample, plot; ``sizes`` replace entries of the preset. Returns the figures and the whole run."""
    began, settings, folder = time.perf_counter(), PRESETS[preset] | sizes, Path(out, "pretrain_gpt")
    batch, steps, data = settings["batch"], settings["steps"], text.read_text()
    config, mesh = gpt.Config(*map(settings.get, gpt.Config._fields)), devices.mesh_of(mesh, batch)
    key_init, key_data, key_sample = jax.random.split(jax.random.key(seed), 3)

    init, tx = functools.partial(gpt.init, config=config), optimizer(settings["learning_rate"], steps)
    places = devices.Places(mesh, jax.eval_shape(init, key_init), tx)
    params = jax.jit(init, out_shardings=places.params)(key_init)
    run = {"params": params, "state": jax.jit(tx.init, out_shardings=places.state)(params), **NO_LOSSES}
    identity = settings | {"seed": seed, "text": zlib.crc32(data.train)}
    start, run = (resume and checkpoint.restore(folder, run, identity)) or (0, run)
    if start == 0 and jax.process_index() == 0:
        shutil.rmtree(folder, ignore_errors=True)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(f"{size:,} parameters, {len(data.train):,} bytes to train on, from step {start} to {steps}")

    loss_fn = functools.partial(gpt.next_byte_loss, config=config)
    step_fn = places.keep(jol.make_step(loss_fn, tx))
    sample = text.sampler(
        devices.put(data.train, places.whole), batch, config.length + 1, key_data, places.rows
    )
    evaluate = gpt.evaluator(loss_fn, batch, places.rows)
    held_out = text.windows(data.validation, 64 * batch, config.length + 1)
    some = functools.partial(evaluate, windows=held_out[::4])
    save = functools.partial(checkpoint.save, folder, identity=identity)
    run = train(run, start, settings, step_fn, sample, some, save)

    bits, entropy = evaluate(run["params"], held_out), text.unigram_entropy(data.validation)
    whole = jax.jit(lambda params: params, out_shardings=places.whole)(run["params"])
    print(f"sampled: {continuation(whole, data.validation, key_sample, config)}")
    if jax.process_index() == 0:
        plot(picture := Path(out, "pretrain_gpt.png"), run, entropy)
        print(f"loss curve: {picture}, {time.perf_counter() - began:.0f} s in all")
    print(
        f"validation loss: {bits:.4f} bits per byte, {bits / entropy:.3f} × the unigram entropy {entropy:.4f}"
    )
    assert not check or bits <= 0.8 * entropy, f"{bits} bits per byte, expected at most {0.8 * entropy}"
    return {"bits_per_byte": float(bits), "unigram_entropy": entropy, "run": run}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--out", default="out", help="folder for the loss curve and the checkpoints")
    parser.add_argument("--mesh", help='devices by axis, "data=2,fsdp=4"; by default all along data')
    parser.add_argument("--processes", help='2 here; "cluster"; or "host:port,count,rank"')
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")
    parser.add_argument("--no-check", dest="check", action="store_false", help="no assertion at the end")
    parser.add_argument("--seed", type=int, default=0)
    for name, value in CPU.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=argparse.SUPPRESS)
    arguments = vars(parser.parse_args())
    devices.start(arguments["mesh"], arguments.pop("processes"))
    main(**arguments)
