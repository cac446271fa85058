"""Cross-entropy fused with the output head, beside optax on materialised logits: memory, time, operations.

    python benchmarks/language.py [--repeats 11] [--no-tpu]

Rows of this machine: samples of all forms interleaved in random order, medians; temporary memory from
`memory_analysis()`; float32 on a CPU, the shape of a large model in bfloat16 on a GPU or TPU. Rows of a TPU v5e that
is not here: bfloat16, compiled for one chip by the TPU compiler, which needs no TPU but
`pip install "jax[tpu]"` (an environment of its own is best); N·H·V counts are `cost_analysis()` of two chunk sizes,
from which the work of one loop step is told, times the number of steps. `ratio` columns are optax's over ours for
memory and ours over optax's for time.
"""

import argparse
import os
import random
import statistics
import time

os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxopt_lite.losses.language import linear_log_probs, linear_softmax_cross_entropy

MIB = 2**20
LARGE = (16_384, 4096, 128_256)  # tokens, features, classes
# Of the rows of this machine: the dtype; shapes, and whether with the gradient.
ON_CPU = jnp.float32, (((4096, 512, 50_304), True), ((4096, 512, 50_304), False), ((1001, 257, 32_003), True))
ON_ACCELERATOR = jnp.bfloat16, ((LARGE, True), (LARGE, False))


def held(x, w, y):
    logits = jnp.dot(x, w, preferred_element_type=jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def fused(**options):
    return lambda x, w, y: linear_softmax_cross_entropy(x, w, y, reduction="mean", **options)


def compiled(f, arrays, gradient):
    f = jax.value_and_grad(f, (0, 1)) if gradient else f
    return jax.jit(f).lower(*arrays).compile()


def medians(programs, arrays, repeats):
    times = {name: [] for name in programs}
    for _ in range(repeats + 1):
        for name in random.sample(list(programs), len(programs)):
            start = time.perf_counter()
            jax.block_until_ready(programs[name](*arrays))
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(samples[1:]) for name, samples in times.items()}


def row(shape, what, form, temp, base_temp, seconds=None, base_seconds=None, work=""):
    timing = f"{seconds:8.3f} s {seconds / base_seconds:6.2f}x" if seconds else " " * 18
    print(f"{shape:28s} {what:9s} {form:22s} {temp / MIB:9.1f} MiB {base_temp / temp:6.1f}  {timing} {work}")


def here(shape, dtype, gradient, repeats):
    """On the machine that this runs on."""
    n, h, v = shape
    keys = jax.random.split(jax.random.key(0), 3)
    arrays = jax.random.normal(keys[0], (n, h), dtype), jax.random.normal(keys[1], (h, v), dtype) / h**0.5
    arrays += (jax.random.randint(keys[2], (n,), 0, v),)
    forms = {"optax, logits held": held, "default": fused()}
    if gradient:
        forms |= {f"recompute={recompute}": fused(recompute=recompute) for recompute in (True, False)}
        forms["linear_log_probs"] = lambda x, w, y: -linear_log_probs(x, w, y).mean()
    programs = {name: compiled(f, arrays, gradient) for name, f in forms.items()}
    times = medians(programs, arrays, repeats)
    temps = {name: p.memory_analysis().temp_size_in_bytes for name, p in programs.items()}
    first = next(iter(programs))
    label = f"{jax.default_backend().upper()} {n}x{h}x{v} {'bf16' if dtype == jnp.bfloat16 else 'f32'}"
    for name in programs:
        what = "gradient" if gradient else "forward"
        row(label, what, name, temps[name], temps[first], times[name], times[first])


def counted(make, arrays, units, sizes):
    """Operations of the whole program: one body of the loop is counted, so two sizes tell body from the rest.

    A size must divide ``units``: then all work is in the loops, and the count is that of one step.
    """
    per_step = [
        compiled(make(size), arrays, True).cost_analysis()["flops"] * (units // size) for size in sizes
    ]
    return statistics.mean(per_step)


def tpu():
    try:
        from jax.experimental import topologies

        chip = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices[0]
    except Exception as error:
        print(f'TPU v5e rows left out: pip install "jax[tpu]=={jax.__version__}" ({type(error).__name__})')
        return False
    n, h, v = LARGE
    place = jax.sharding.SingleDeviceSharding(chip)
    shapes = ((n, h), jnp.bfloat16), ((h, v), jnp.bfloat16), ((n,), jnp.int32)
    arrays = [jax.ShapeDtypeStruct(s, d, sharding=place) for s, d in shapes]
    base = compiled(held, arrays, True)
    memory = lambda program: program.memory_analysis().temp_size_in_bytes
    label, unit = f"TPU v5e {n}x{h}x{v} bf16", n * h * v
    row(label, "gradient", "optax, logits held", memory(base), memory(base),
        work=f"{base.cost_analysis()['flops'] / unit:.2f} NHV")  # fmt: skip
    block = list(arrays)
    block[1] = jax.ShapeDtypeStruct((h, h), jnp.bfloat16, sharding=place)  # H columns: one block, no loop
    counts = (True, arrays, v, (v // 64, v // 32)), (False, block, n, (512, 1024))
    for recompute, part, units, sizes in counts:
        program = compiled(fused(recompute=recompute), arrays, True)
        work = counted(lambda size, r=recompute: fused(recompute=r, chunk_size=size), part, units, sizes)
        work *= v / part[1].shape[1]
        row(
            label,
            "gradient",
            f"recompute={recompute}",
            memory(program),
            memory(base),
            work=f"{work / unit:.2f} NHV",
        )
    return True


def tpu_mesh():
    """Tokens over two chips, the vocabulary over four, by plain `jit`: memory of a chip, and what crosses the mesh."""
    from jax.experimental import topologies
    from jax.sharding import NamedSharding, PartitionSpec

    chips = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4").devices
    mesh = jax.sharding.Mesh(np.array(chips).reshape(2, 4), ("data", "model"))
    n, h, v = LARGE
    shapes = (
        ((n, h), jnp.bfloat16, ("data",)),
        ((h, v), jnp.bfloat16, (None, "model")),
        ((n,), jnp.int32, ("data",)),
    )
    arrays = [
        jax.ShapeDtypeStruct(s, d, sharding=NamedSharding(mesh, PartitionSpec(*axes)))
        for s, d, axes in shapes
    ]
    forms = {"optax, logits held": held} | {f"recompute={r}": fused(recompute=r) for r in (True, False)}
    base = None
    for name, f in forms.items():
        program = compiled(f, arrays, True)
        temp, text = program.memory_analysis().temp_size_in_bytes, program.as_text()
        base = base or temp
        lines = [line for line in text.splitlines() if "= " in line]
        kernel = sum(f"[{h},{v // 4}]" in s.split("all-reduce(")[0] for s in lines if " all-reduce(" in s)
        gathers = sum(" all-gather(" in s or " all-gather-start(" in s for s in lines)
        work = f"{kernel} reduction of the kernel gradient, {gathers} gathers"
        row(f"TPU v5e 2x4 {n}x{h}x{v} bf16", "gradient", name, temp, base, work=work)


def main(repeats=11, with_tpu=True):
    print(
        f"{'case':28s} {'':9s} {'form':22s} {'temporary':>13s} {'ratio':>6s}  {'median':>10s} {'ratio':>7s}"
    )
    dtype, cases = ON_CPU if jax.default_backend() == "cpu" else ON_ACCELERATOR
    for shape, gradient in cases:
        here(shape, dtype, gradient, repeats)
    if with_tpu and tpu():
        tpu_mesh()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--no-tpu", action="store_true")
    options = parser.parse_args()
    main(options.repeats, not options.no_tpu)
