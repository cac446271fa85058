"""How the cost of an optimizer's step grows: with parameters, with leaves, and with devices, as ratios to optax.

    python benchmarks/scaling.py [--largest 300_000_000] [--cpu-time] [--out out]

clip_by_global_norm + adamw, float32, donated, on this CPU; optax's step and ours in turn, medians. Devices are parts of
one CPU (a forced host mesh, parameters split by rows), so that column shows overhead, not speed-up. With --cpu-time
the process's CPU time is read in place of the clock, for machines that do other things too. The plot, time of optax
over ours (above 1: ours is faster), goes to `out/scaling.png`.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxopt_lite as jol
from jaxopt_lite.sharding import state_shardings

PARAMETERS = (1_000_000, 3_000_000, 10_000_000, 30_000_000, 100_000_000, 300_000_000)
LEAVES = (1, 10, 100, 1000, 3000)
DEVICES = (1, 2, 4, 8)
OURS = jol.chain(jol.clip_by_global_norm(1.0), jol.adamw(1e-3)), jol.apply_updates
OPTAX = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)), optax.apply_updates


def gradients(parameters, leaves, devices):
    """Equal matrices of 128 columns, split by rows over the devices."""
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
    rows = max(1, parameters // leaves // 128 // devices) * devices
    place, rng = NamedSharding(mesh, P("data")), np.random.default_rng(0)
    values = rng.normal(size=(rows, 128)).astype(np.float32)
    return [jax.device_put(values, place) for _ in range(leaves)]


class Run:
    """One library's compiled step with parameters and state of its own."""

    def __init__(self, tx, apply_updates, grads, clock):
        self.clock, self.grads, self.params = clock, grads, jax.tree.map(jnp.copy, grads)
        places = [x.sharding for x in grads]

        def step(params, state, grads):
            updates, state = tx.update(grads, state, params)
            return apply_updates(params, updates), state

        self.state = jax.jit(tx.init, out_shardings=state_shardings(tx, self.params, places))(self.params)
        traced = []
        for _ in range(2):  # the first pays for what JAX does once
            jax.clear_caches()
            start = clock()
            lowered = jax.jit(step, donate_argnums=(0, 1)).lower(self.params, self.state, self.grads)
            traced.append(clock() - start)
        self.traced, self.compiled = min(traced), lowered.compile()

    def __call__(self):
        start = self.clock()
        self.params, self.state = self.compiled(self.params, self.state, self.grads)
        jax.block_until_ready((self.params, self.state))
        return self.clock() - start


def measure(parameters, leaves, devices, repeats, cpu_time):
    """Median seconds of ours and of optax's, and how long each took to trace and lower."""
    clock, grads = (
        time.process_time if cpu_time else time.perf_counter,
        gradients(parameters, leaves, devices),
    )
    runs = [Run(*library, grads, clock) for library in (OURS, OPTAX)]
    samples = [[], []]
    for k in range(repeats + 2):
        for which in (0, 1) if k % 2 else (1, 0):
            samples[which].append(runs[which]())
    ours, peer = (statistics.median(column[2:]) for column in samples)
    return {"ours": ours, "optax": peer, "trace ours": runs[0].traced, "trace optax": runs[1].traced}


def on_devices(parameters, leaves, devices, *options):
    """``measure`` in a process of its own, since the number of devices is fixed when JAX starts."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    command = [sys.executable, __file__, "--one", json.dumps([parameters, leaves, devices, *options])]
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    return json.loads(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout)


def sweep(title, rows, *options):
    """One table: ``rows`` of (what varies, parameters, leaves, devices)."""
    print(f"\n{title:>12s} {'ours ms':>9s} {'optax ms':>9s} {'x optax':>8s} {'trace x':>8s}")
    points = []
    for label, parameters, leaves, devices in rows:
        got = on_devices(parameters, leaves, devices, *options)
        ratio, trace = got["optax"] / got["ours"], got["trace optax"] / got["trace ours"]
        print(
            f"{label:12,d} {got['ours'] * 1e3:9.2f} {got['optax'] * 1e3:9.2f} {ratio:8.2f} {trace:8.2f}",
            flush=True,
        )
        points.append((label, ratio, trace))
    return points


def short(n):
    """1, 10, 3k, 10M."""
    return f"{n // 1_000_000}M" if n >= 1_000_000 else f"{n // 1000}k" if n >= 1000 else str(n)


def plot(path, sweeps):
    """One panel for each sweep: of a title, what is held fixed, and points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = figure.subplots(1, len(sweeps), sharey=True)
    for axes, (title, (fixed, points)) in zip(panels, sweeps.items(), strict=True):
        x, time_ratio, trace_ratio = zip(*points, strict=True)
        axes.semilogx(x, time_ratio, marker="o", color="tab:blue", label="time of a step")
        axes.semilogx(
            x, trace_ratio, marker=".", color="tab:orange", linestyle="--", label="time to trace and lower"
        )
        axes.axhline(1, color="gray", linewidth=0.8)
        axes.set(xlabel=title, title=fixed)
        axes.set_xticks(x, [short(v) for v in x])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    panels[0].set_ylim(bottom=0)  # of all panels, once each has its points
    panels[0].set_ylabel("optax / ours (above 1: ours is faster)")
    panels[0].legend()
    figure.suptitle("clip_by_global_norm + adamw, float32, on a CPU")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main(*, largest, middle, repeats, cpu_time, out):
    how = repeats, cpu_time
    sizes = [n for n in PARAMETERS if n <= largest]
    rows = {
        "parameters": ("10 leaves, 1 device", [(n, n, 10, 1) for n in sizes]),
        "leaves": (f"{short(middle)} parameters, 1 device", [(n, middle, n, 1) for n in LEAVES]),
        "devices": (f"{short(middle)} parameters, 10 leaves", [(n, middle, 10, n) for n in DEVICES]),
    }
    sweeps = {title: (fixed, sweep(title, cases, *how)) for title, (fixed, cases) in rows.items()}
    path = pathlib.Path(out, "scaling.png")
    plot(path, sweeps)
    print(f"\nplot: {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--largest", type=int, default=PARAMETERS[-1])
    parser.add_argument("--middle", type=int, default=10_000_000, help="parameters of the other two sweeps")
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--cpu-time", action="store_true", help="CPU time of the process, not the clock")
    parser.add_argument("--out", default="out")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = vars(parser.parse_args())
    if one := options.pop("one"):
        print(json.dumps(measure(*json.loads(one))))
    else:
        main(**options)
