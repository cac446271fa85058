"""How long one optimizer step takes, and how long it takes to trace, beside jitted optax and fused torch.

    python benchmarks/step_time.py [--parameters 32000000] [--leaves 1 100 1000] [--repeats 31] [--only adamw]

Every row measures all peers in the same run: float32, parameters and state donated, samples interleaved,
medians. `x optax` is optax's time over ours (above 1: ours is faster). `temp` is
`memory_analysis().temp_size_in_bytes` over the bytes of one leaf; `trace` is trace-and-lower time over optax's.
"""

import argparse
import os
import random
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxopt_lite as jol

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # or torch's idle threads slow whoever runs after it


def cases() -> dict[str, tuple]:
    """Name → ours, optax's, and the name of torch's optimizer with its options."""
    clip = lambda lib, tx: lib.chain(lib.clip_by_global_norm(1.0), tx)
    return {
        "sgd": (jol.sgd(1e-3), optax.sgd(1e-3), ("SGD", {})),
        "momentum": (jol.sgd(1e-3, 0.9), optax.sgd(1e-3, 0.9), ("SGD", {"momentum": 0.9})),
        "adam": (jol.adam(1e-3), optax.adam(1e-3), ("Adam", {})),
        "adamw": (jol.adamw(1e-3), optax.adamw(1e-3), ("AdamW", {})),
        "clip + adamw": (clip(jol, jol.adamw(1e-3)), clip(optax, optax.adamw(1e-3)), None),
    }


def tree_of(parameters: int, leaves: int, key: jax.Array) -> list:
    """Equal matrices, random so that nothing is special about their values."""
    width = 128 if parameters // leaves >= 128 else 1
    shape = (parameters // leaves // width, width)
    keys = jax.random.split(key, leaves)
    return [jax.random.normal(k, shape) for k in keys]


def step_of(tx, apply_updates) -> Callable:
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return apply_updates(params, updates), state

    return jax.jit(step, donate_argnums=(0, 1))


class Run:
    """One transformation's compiled step with its own parameters and state."""

    def __init__(self, tx, apply_updates, params, grads):
        self.params, self.grads = jax.tree.map(jnp.copy, params), grads
        self.state = jax.jit(tx.init)(self.params)
        lowered = step_of(tx, apply_updates).lower(self.params, self.state, grads)
        self.compiled = lowered.compile()
        self.temporary = self.compiled.memory_analysis().temp_size_in_bytes

    def __call__(self):
        start = time.perf_counter()
        self.params, self.state = self.compiled(self.params, self.state, self.grads)
        jax.block_until_ready(self.params)
        return time.perf_counter() - start


class TorchRun:
    """The same step in torch, with its fused kernels."""

    def __init__(self, name, options, params, grads):
        import torch

        tensors = [torch.nn.Parameter(torch.from_numpy(np.array(p))) for p in params]
        for tensor, g in zip(tensors, grads, strict=True):
            tensor.grad = torch.from_numpy(np.array(g))
        self.optimizer = getattr(torch.optim, name)(tensors, lr=1e-3, fused=True, **options)

    def __call__(self):
        start = time.perf_counter()
        self.optimizer.step()
        return time.perf_counter() - start


def trace_time(tx, apply_updates, params, grads, repeats: int = 3) -> float:
    """Best of a few trace-and-lower times, each of a new jit."""
    state = jax.eval_shape(tx.init, params)
    times = []
    for _ in range(repeats):
        jax.clear_caches()
        start = time.perf_counter()
        step_of(tx, apply_updates).lower(params, state, grads)
        times.append(time.perf_counter() - start)
    return min(times)


def has_torch() -> bool:
    try:
        import torch  # noqa: F401
    except ImportError:
        return False
    return True


def interleaved(runs: list, repeats: int) -> list[float]:
    """Medians of samples taken in turn, each round in another order, so that none always follows the same peer."""
    samples: list[list[float]] = [[] for _ in runs]
    order = random.Random(0)
    for _ in range(repeats + 2):
        for which in order.sample(range(len(runs)), len(runs)):
            samples[which].append(runs[which]())
    return [statistics.median(column[2:]) for column in samples]


def measure(case: tuple, parameters: int, leaves: int, repeats: int) -> dict[str, float | None]:
    ours, peer, torch_case = case
    params, grads = (
        tree_of(parameters, leaves, jax.random.key(0)),
        tree_of(parameters, leaves, jax.random.key(1)),
    )
    traces = [
        trace_time(ours, jol.apply_updates, params, grads),
        trace_time(peer, optax.apply_updates, params, grads),
    ]
    runs: list = [Run(ours, jol.apply_updates, params, grads), Run(peer, optax.apply_updates, params, grads)]
    if torch_case and has_torch():
        runs.append(TorchRun(*torch_case, params, grads))
    times = interleaved(runs, repeats)
    leaf = params[0].size * 4
    return {
        "ours": times[0],
        "optax": times[1],
        "torch": times[2] if len(times) > 2 else None,
        "temp": runs[0].temporary / leaf,
        "optax temp": runs[1].temporary / leaf,
        "trace": traces[0] / traces[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parameters", type=int, default=32_000_000)
    parser.add_argument("--leaves", type=int, nargs="+", default=[1, 100, 1000])
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--only", nargs="+", default=None, help="rows to run, by name")
    args = parser.parse_args()
    print(f"{args.parameters:,} float32 parameters on {jax.devices()[0].device_kind}, jax {jax.__version__}")
    columns = [
        "ours ms",
        "optax ms",
        "torch ms",
        "x optax",
        "x torch",
        "temp/leaf",
        "optax's",
        "trace/optax's",
    ]
    print(f"{'step':14} {'leaves':>6} " + " ".join(f"{c:>13}" for c in columns))
    for name, case in cases().items():
        for leaves in args.leaves:
            if args.only and name not in args.only:
                continue
            m = measure(case, args.parameters, leaves, args.repeats)
            torch = m["torch"]
            cells = [
                f"{m['ours'] * 1e3:.1f}",
                f"{m['optax'] * 1e3:.1f}",
                f"{torch * 1e3:.1f}" if torch else "-",
                f"{m['optax'] / m['ours']:.2f}",
                f"{torch / m['ours']:.2f}" if torch else "-",
                f"{m['temp']:.3f}",
                f"{m['optax temp']:.3f}",
                f"{m['trace']:.2f}",
            ]
            print(f"{name:14} {leaves:6} " + " ".join(f"{c:>13}" for c in cells), flush=True)


if __name__ == "__main__":
    main()
