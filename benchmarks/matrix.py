"""Matrix optimizers beside optax's Muon, and beside the matrix products that their formulas need.

    python benchmarks/matrix.py [--repeats 5] [--count 12] [--only muon soap shampoo] [--cpu-time]

`muon`: one step on `count` matrices of 768×3072 and as many of 768×768 in float32, parameters and state donated.
`x optax` is optax's time over ours. `error` is the distance to the true polar factors, over optax's;
`compile` is trace-and-compile time and `temp` bytes of temporaries, over optax's.

`soap`, `shampoo`: milliseconds a step, averaged over a whole period of `precondition_every` = 10 steps, beside
`GEMM`: the bare products that the formula needs in those steps, in one compiled program, in the same run. `QR/eigh`
are LAPACK's decompositions, which are no products, measured alone. `x GEMM` is the step over GEMM, `x all` over both:
below 1 where the sides are long, since soap does most of a long QR in products.
Samples are interleaved; the table shows medians and least times. On a machine with other work, `--cpu-time` counts
the seconds of all threads of this process in place of the clock's.

The decompositions are LAPACK's, by default on one thread of OpenBLAS (`OPENBLAS_NUM_THREADS`), whatever XLA's
products run on: its threads spin while they wait, so that on a busy machine more of them take several times longer.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when jax loads it

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxopt_lite as jol
from jaxopt_lite import optimizers

EVERY = 10


def matrices(count: int, seed: int = 0) -> list[jax.Array]:
    shapes = [(768, 3072)] * count + [(768, 768)] * count
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    return [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]


class Run:
    """A compiled, donated step with its own parameters and state."""

    def __init__(self, tx, apply_updates, params, grads):
        def step(params, state, grads):
            updates, state = tx.update(grads, state, params)
            return apply_updates(params, updates), state

        self.params, self.grads = jax.tree.map(jnp.copy, params), grads
        self.state = jax.jit(tx.init)(self.params)
        self.compile_time = float("inf")
        for _ in range(3):  # the least: whoever compiles first in a process also loads the compiler
            jax.clear_caches()
            start = time.process_time()
            self.step = jax.jit(step, donate_argnums=(0, 1)).lower(self.params, self.state, grads).compile()
            self.compile_time = min(self.compile_time, time.process_time() - start)
        self.temporaries = self.step.memory_analysis().temp_size_in_bytes

    def __call__(self):
        self.params, self.state = self.step(self.params, self.state, self.grads)
        return self.params


def interleaved(works: list[Callable], repeats: int, now: Callable) -> list[list[float]]:
    """Sorted seconds of each, taken in turn after one warm-up."""
    samples: list[list[float]] = [[] for _ in works]
    for _ in range(repeats + 1):
        for work, column in zip(works, samples, strict=True):
            start = now()
            jax.block_until_ready(work())
            column.append(now() - start)
    return [sorted(column[1:]) for column in samples]


def polar_error(tx, grads) -> float:
    """Root of the summed squared distances between the directions, at scale 1, and the true polar factors."""
    updates = jax.jit(lambda g: tx.update(g, tx.init(g), g)[0])(grads)
    total = 0.0
    for u, g in zip(updates, grads, strict=True):
        left, _, right = np.linalg.svd(np.asarray(g, np.float64), full_matrices=False)
        scale = max(1, g.shape[1] / g.shape[0]) ** 0.5
        total += np.sum((-np.asarray(u, np.float64) / scale - left @ right) ** 2)
    return total**0.5


def muon_row(count: int, repeats: int, now: Callable) -> None:
    params, grads = matrices(count), matrices(count, 1)
    pairs = [(jol.muon(1e-3), jol.apply_updates), (optax.contrib.muon(1e-3), optax.apply_updates)]
    ours, theirs = (Run(*pair, params, grads) for pair in pairs)
    mine, peer = interleaved([ours, theirs], repeats, now)
    few = [grads[0], grads[-1]]
    errors = [polar_error(tx, few) for tx in (jol.muon(1.0), optax.contrib.muon(1.0))]
    print(f"muon, {count} × 768×3072 and {count} × 768×768        ours      optax   ratio   goal")
    rows = [
        ("seconds a step, median", statistics.median(mine), statistics.median(peer), "x ≥ 2.2"),
        ("seconds a step, least", mine[0], peer[0], "x ≥ 2.2"),
        ("error to the polar factor", *errors, "≤ 1.00"),
        ("trace and compile, CPU s", ours.compile_time, theirs.compile_time, "≤ 0.70"),
        ("temporaries, MB", ours.temporaries / 1e6, theirs.temporaries / 1e6, "≤ 0.33"),
    ]
    for name, a, b, goal in rows:
        ratio = b / a if goal.startswith("x") else a / b
        print(f"  {name:38} {a:10.3f} {b:10.3f} {ratio:7.3f}   {goal}", flush=True)


def soap_products(g, left, right):
    """One period of SOAP: nine plain steps and one that refreshes the basis."""
    for k in range(EVERY):
        left, right = left + g @ g.T, right + g.T @ g
        rotated = left @ (g @ right)
        g = left.T @ (rotated @ right.T)
        if k == EVERY - 1:
            new_left, new_right = left @ left, right @ right  # the power iteration
            g = (new_left.T @ left) @ g if g.shape[0] < g.shape[1] else new_left.T @ (left @ g)
            g = (g @ right.T) @ new_right if g.shape[0] <= g.shape[1] else g @ (right.T @ new_right)
            left, right = new_left, new_right
        left, right, g = (x * 1e-3 for x in (left, right, g))
    return g, left, right


def shampoo_products(g, left, right):
    """One period of Shampoo: ten plain steps, and two products that put roots together."""
    for k in range(EVERY):
        left, right = left + g @ g.T, right + g.T @ g
        g = left @ (g @ right)
        if k == EVERY - 1:
            left, right = left @ left, right @ right
        left, right, g = (x * 1e-3 for x in (left, right, g))
    return g, left, right


CASES = {
    "soap": (lambda: optimizers.soap(1e-3), soap_products, lambda x: jnp.linalg.qr(x)[0]),
    "shampoo": (lambda: optimizers.shampoo(1e-3), shampoo_products, lambda x: jnp.linalg.eigh(x)[1]),
}


def kronecker_row(name: str, shape: tuple[int, int], repeats: int, now: Callable) -> None:
    make, products, decompose = CASES[name]
    g = jax.random.normal(jax.random.key(0), shape)
    squares = [h @ h.T / h.shape[1] for h in (g, g.T)]
    run = Run(make(), jol.apply_updates, g, g)
    period = lambda: [run() for _ in range(EVERY)][-1]
    run()  # so that no period begins with the first step
    bare, split = jax.jit(products), jax.jit(lambda a, b: (decompose(a), decompose(b)))
    works = [period, lambda: bare(g, *squares), lambda: split(*squares)]
    step, gemm, other = (1e3 / EVERY * column[0] for column in interleaved(works, repeats, now))
    cells = [step, gemm, other, step / gemm, step / (gemm + other)]
    print(f"{name:8} {shape[0]}×{shape[1]:<6}" + "".join(f"{c:10.2f}" for c in cells), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--count", type=int, default=12, help="matrices of each shape, for muon")
    parser.add_argument("--only", nargs="+", default=["muon", *CASES])
    parser.add_argument("--cpu-time", action="store_true")
    args = parser.parse_args()
    now = time.process_time if args.cpu_time else time.perf_counter
    print(f"float32 on {jax.devices()[0].device_kind}, jax {jax.__version__}, optax {optax.__version__}")
    if "muon" in args.only:
        muon_row(args.count, args.repeats, now)
    chosen = [name for name in CASES if name in args.only]
    if chosen:
        print(
            f"\n{'ms a step':19}"
            + "".join(f"{c:>10}" for c in ["ours", "GEMM", "QR/eigh", "x GEMM", "x all"])
        )
    for name in chosen:
        for shape in ((768, 768), (768, 3072)) if name == "soap" else ((768, 768), (1024, 1024)):
            kronecker_row(name, shape, args.repeats, now)


if __name__ == "__main__":
    main()
