"""How long one optimizer step takes, and how long it takes to trace, beside jitted optax and fused torch.

    python benchmarks/step_time.py                                         # every row: about half an hour
    python benchmarks/step_time.py --only adamw lion --leaves 1            # a few seconds
    python benchmarks/step_time.py --leaves 1000 --parameters 1000000 --repeats 9

Every row measures all peers in the same run: float32, parameters and state donated, samples interleaved,
medians. `x optax` is optax's time over ours (above 1: ours is faster). `temp` is
`memory_analysis().temp_size_in_bytes` over the bytes of one leaf; `trace` is trace-and-lower time over optax's.
"""

import argparse
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

import jaxopt_lite as jol
import jaxopt_lite.optimizers
import jaxopt_lite.wrappers

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # or torch's idle threads slow whoever runs after it

OURS = SimpleNamespace(**vars(jol.wrappers) | vars(jol.optimizers) | vars(jol))
PEER = SimpleNamespace(**vars(optax.contrib) | vars(optax))
# What optax names otherwise, and what it has not: beside 8-bit state stands its own, of float32.
PEER.skip_nonfinite = lambda tx: optax.apply_if_finite(tx, 2**31 - 1)
PEER.accumulate = lambda tx, steps: optax.MultiSteps(tx, steps).gradient_transformation()
PEER.quantize_state = lambda tx, codec: tx

# Name → the same transformation from either library. The weight decay is on wherever both have it.
CASES: dict[str, Callable] = {
    "sgd": lambda lib: lib.sgd(1e-3),
    "momentum": lambda lib: lib.sgd(1e-3, 0.9),
    "nesterov": lambda lib: lib.sgd(1e-3, 0.9, nesterov=True),
    "adam": lambda lib: lib.adam(1e-3),
    "adamw": lambda lib: lib.adamw(1e-3),
    "clip+adamw": lambda lib: lib.chain(lib.clip_by_global_norm(1.0), lib.adamw(1e-3)),
    "adabelief": lambda lib: lib.adabelief(1e-3),
    "adadelta": lambda lib: lib.adadelta(1e-3, weight_decay=0.01),
    "adafactor": lambda lib: lib.adafactor(1e-3),
    "adagrad": lambda lib: lib.adagrad(1e-3),
    "adamax": lambda lib: lib.adamax(1e-3),
    "adamaxw": lambda lib: lib.adamaxw(1e-3),
    "adan": lambda lib: lib.adan(1e-3, weight_decay=0.01),
    "ademamix": lambda lib: lib.ademamix(1e-3, weight_decay=0.01),
    "amsgrad": lambda lib: lib.amsgrad(1e-3),
    "dowg": lambda lib: lib.dowg(1.0),
    "fromage": lambda lib: lib.fromage(1e-3),
    "lamb": lambda lib: lib.lamb(1e-3, weight_decay=0.01),
    "lars": lambda lib: lib.lars(1e-3, weight_decay=0.01),
    "lion": lambda lib: lib.lion(1e-4),
    "nadam": lambda lib: lib.nadam(1e-3),
    "nadamw": lambda lib: lib.nadamw(1e-3),
    "novograd": lambda lib: lib.novograd(1e-3, weight_decay=0.01),
    "prodigy": lambda lib: lib.prodigy(1.0, weight_decay=0.01),
    "radam": lambda lib: lib.radam(1e-3),
    "rmsprop": lambda lib: lib.rmsprop(1e-3),
    "rmsprop centered": lambda lib: lib.rmsprop(1e-3, centered=True, momentum=0.9),
    "rprop": lambda lib: lib.rprop(1e-3),
    "schedule_free": lambda lib: lib.schedule_free(lib.adamw(1e-3, b1=0.0), 1e-3),
    "schedule_free sgd": lambda lib: lib.schedule_free(lib.sgd(1e-3), 1e-3),
    "sign_sgd": lambda lib: lib.sign_sgd(1e-3),
    "signum": lambda lib: lib.signum(1e-3),
    "sm3": lambda lib: lib.sm3(1e-3),
    "sophia": lambda lib: lib.sophia(1e-3),
    "yogi": lambda lib: lib.yogi(1e-3),
    "accumulate 4": lambda lib: lib.accumulate(lib.adamw(1e-3), 4),
    "skip_nonfinite": lambda lib: lib.skip_nonfinite(lib.adamw(1e-3)),
    "adamw int8": lambda lib: lib.quantize_state(lib.adamw(1e-3), "int8"),
    "adamw int4": lambda lib: lib.quantize_state(lib.adamw(1e-3), "int4"),
}

# Those that torch has a fused kernel for on every device.
TORCH: dict[str, tuple[str, dict]] = {
    "sgd": ("SGD", {}),
    "momentum": ("SGD", {"momentum": 0.9}),
    "nesterov": ("SGD", {"momentum": 0.9, "nesterov": True}),
    "adam": ("Adam", {}),
    "adamw": ("AdamW", {}),
    "adagrad": ("Adagrad", {}),
}


def tree_of(parameters: int, leaves: int, key: jax.Array) -> list:
    """Equal matrices, random so that nothing is special about their values."""
    width = 128 if parameters // leaves >= 128 else 1
    shape = (parameters // leaves // width, width)
    keys = jax.random.split(key, leaves)
    return [jax.random.normal(k, shape) for k in keys]


def objective(params):
    """What sophia differentiates for its Hessian, in every tenth step."""
    return sum(jnp.sum(p * p) for p in jax.tree.leaves(params))


def step_of(tx, apply_updates: Callable) -> jax.stages.Wrapped:
    tx = optax.with_extra_args_support(tx)

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params, obj_fn=objective)
        return apply_updates(params, updates), state

    return jax.jit(step, donate_argnums=(0, 1))


class Run:
    """One transformation's compiled step with its own parameters and state."""

    def __init__(self, tx, apply_updates, params, grads):
        self.params, self.grads = jax.tree.map(jnp.copy, params), grads
        self.state = jax.jit(tx.init)(self.params)
        lowered = step_of(tx, apply_updates).lower(self.params, self.state, grads)
        self.compiled = lowered.compile()
        memory = self.compiled.memory_analysis()
        self.temporary = memory.temp_size_in_bytes if memory else float("nan")

    def __call__(self) -> float:
        start = time.perf_counter()
        self.params, self.state = self.compiled(self.params, self.state, self.grads)
        jax.block_until_ready(self.params)
        return time.perf_counter() - start


class TorchRun:
    """The same step in torch, with its fused kernels, on the same device."""

    def __init__(self, name, options, params, grads):
        import torch

        device = "cuda" if jax.default_backend() == "gpu" else "cpu"
        self.wait = torch.cuda.synchronize if device == "cuda" else lambda: None
        tensors = [torch.nn.Parameter(torch.from_numpy(np.array(p)).to(device)) for p in params]
        for tensor, g in zip(tensors, grads, strict=True):
            tensor.grad = torch.from_numpy(np.array(g)).to(device)
        self.optimizer = getattr(torch.optim, name)(tensors, lr=1e-3, fused=True, **options)

    def __call__(self) -> float:
        start = time.perf_counter()
        self.optimizer.step()
        self.wait()
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


def measure(name: str, parameters: int, leaves: int, repeats: int) -> Iterator[tuple[str, str]]:
    """The row's columns: heading and cell."""
    params, grads = (tree_of(parameters, leaves, jax.random.key(seed)) for seed in (0, 1))
    peers = [(CASES[name](lib), lib.apply_updates) for lib in (OURS, PEER)]
    traces = [trace_time(*peer, params, grads) for peer in peers]
    runs: list = [Run(*peer, params, grads) for peer in peers]
    if name in TORCH and has_torch():
        runs.append(TorchRun(*TORCH[name], params, grads))
    ours, peer, *torch = interleaved(runs, repeats)
    yield "ours ms", f"{ours * 1e3:.1f}"
    yield "optax ms", f"{peer * 1e3:.1f}"
    yield "torch ms", f"{torch[0] * 1e3:.1f}" if torch else "-"
    yield "x optax", f"{peer / ours:.2f}"
    yield "x torch", f"{torch[0] / ours:.2f}" if torch else "-"
    yield "temp/leaf", f"{runs[0].temporary / (params[0].size * 4):.3f}"
    yield "optax's", f"{runs[1].temporary / (params[0].size * 4):.3f}"
    yield "trace/optax's", f"{traces[0] / traces[1]:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parameters", type=int, default=32_000_000)
    parser.add_argument("--leaves", type=int, nargs="+", default=[1, 100, 1000])
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--only", nargs="+", default=list(CASES), choices=CASES, metavar="NAME")
    args = parser.parse_args()
    print(f"{args.parameters:,} float32 parameters on {jax.devices()[0].device_kind}, jax {jax.__version__}")
    line = lambda name, leaves, cells: print(
        f"{name:17} {leaves:>6} " + " ".join(f"{c:>9}" for c in cells), flush=True
    )
    heading = True
    for name in args.only:
        for leaves in args.leaves:
            columns, cells = zip(*measure(name, args.parameters, leaves, args.repeats), strict=True)
            if heading:
                line("step", "leaves", columns)
            line(name, leaves, cells)
            heading = False


if __name__ == "__main__":
    main()
