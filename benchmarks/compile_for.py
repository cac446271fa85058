"""The same code for a CPU, a GPU, one TPU chip and a pod, lowered and compiled on a machine that has none of them.

    python benchmarks/compile_for.py lower          # everything for cpu, cuda, rocm and tpu, by jax.export
    python benchmarks/compile_for.py chips          # steps for the targets whose compiler is installed
    python benchmarks/compile_for.py pods           # 7B on v5p:8x8x8 and 70B on v4:16x16x16; --steps for whole steps

The compilers need no accelerator, but an environment of their own each: `pip install "jax[tpu]"`, or `pip install jax
jax-cuda12-plugin jax-cuda12-pjrt` (versions as jax's) with `ptxas` on the PATH; run with PYTHONPATH set to this
repository. Bytes are those of one chip, from `memory_analysis()`; FLOPs of one chip from `cost_analysis()` (a loop's
body counts once, and XLA's GPU compiler gives none). Collectives: kind × number, MiB of their results on one chip.
"""

import argparse
import contextlib
import functools
import os
import pathlib
import re
import sys
import time

os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # only its compiler is used

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.experimental import topologies
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))
import transformer  # noqa: E402
from programs import examples, f32, gpt, i32, losses, optimizers, programs, update_step  # noqa: E402

import jaxopt_lite as jol  # noqa: E402
from jaxopt_lite.sharding import state_shardings, zero_shardings  # noqa: E402

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
TPUS = ("v5e:2x4", "v5p:8x8x8", "v4:16x16x16")
MIB = 2**20
# What stands in compiled programs as a call of another library or of a partitioner, and is safe to serialise here.
SAFE = [export.DisabledSafetyCheck.custom_call(name) for name in ("CustomSPMDPartitioning", "Sharding")]


def lower(function, arguments, platforms=PLATFORMS):
    """The program for all platforms in one; a NotImplementedError if one of them lacks an operation."""
    step = function if hasattr(function, "lower") else jax.jit(function)
    return export.export(step, platforms=platforms, disabled_checks=SAFE)(*arguments)


def lower_all():
    for kind, name, function, arguments in programs():
        start = time.perf_counter()
        size = len(lower(function, arguments).mlir_module_serialized)
        print(
            f"{kind:14s} {name:40s} {size / 1024:8.1f} KiB {time.perf_counter() - start:6.2f} s", flush=True
        )


# Targets and what is read off a compiled program.


def mesh_of(target, shape, names):
    """A mesh of a machine that is not here; raises if its compiler is not installed."""
    if target == "h100":
        config = (HERE / "h100.txtpb").read_text()
        topology = topologies.get_topology_desc(platform="cuda", topology="1x1x1", target_config=config)
    else:
        topology = topologies.get_topology_desc(platform="tpu", topology_name=target)
    devices = np.array(topology.devices)
    sizes = [s if s > 0 else len(devices) // -int(np.prod(shape)) for s in shape]
    return jax.sharding.Mesh(devices.reshape(sizes), names, axis_types=(AxisType.Auto,) * len(names))


def available(target):
    try:
        mesh_of(target, (-1,), ("data",))
    except Exception as error:
        print(
            f"{target}: left out, its compiler is not installed ({type(error).__name__}: {str(error)[:80]})"
        )
        return False
    return True


def on(shapes, shardings):
    """Shapes that lie on a mesh; ``shardings`` is a tree, or one for all."""
    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda _: shardings, shapes)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


WIDTHS = {
    "pred": 1,
    "s4": 0.5,
    "s8": 1,
    "u8": 1,
    "bf16": 2,
    "f16": 2,
    "s16": 2,
    "f32": 4,
    "s32": 4,
    "u32": 4,
    "f64": 8,
}
KINDS = r"all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"


def collectives(text):
    """Kind → (number, bytes of the results on one chip)."""
    found = {}
    for line in text.splitlines():
        if call := re.search(rf" = (.*?) ({KINDS})(-start)?\(", line):
            result = call.group(1)
            arrays = re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", result)
            if call.group(3) and call.group(2) == "collective-permute":  # operand, result, two counters
                arrays = arrays[1:2]
            elif call.group(3) and call.group(2) != "all-reduce":  # a tuple of operand and result
                arrays = arrays[len(arrays) // 2 :]
            sizes = [WIDTHS.get(t, 0) * np.prod([int(n) for n in s.split(",") if n]) for t, s in arrays]
            count, total = found.get(call.group(2), (0, 0))
            found[call.group(2)] = count + 1, total + int(sum(sizes))
    return found


QUICK = {"exec_time_optimization_effort": -1.0, "memory_fitting_effort": -1.0}
"""XLA's least effort, in a quarter of the time: 7B's step in two layers had collectives and temporaries within 5 % of
full effort's; a small program's temporaries may differ by a MiB."""


def compile_row(target, what, step, arguments, options=None):
    """Compile, print one row, and return the program."""
    start = time.perf_counter()
    compiled = step.lower(*arguments).compile(compiler_options=options)
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    flops = (cost[0] if isinstance(cost, list) else cost or {}).get("flops")
    talk = ", ".join(f"{k} ×{n} {b / MIB:.1f}" for k, (n, b) in collectives(compiled.as_text()).items())
    print(
        f"{target:12s} {what:36s} {memory.argument_size_in_bytes / MIB:10.1f} {memory.temp_size_in_bytes / MIB:10.1f} "
        f"{'-' if flops is None else format(flops, '.3g'):>9s} {time.perf_counter() - start:6.0f} s  {talk or 'none'}",
        flush=True,
    )
    return compiled


@contextlib.contextmanager
def row(target, what):
    """Where a row may fail: the error stands in its place, and the next rows follow."""
    try:
        yield
    except Exception as error:
        FAILED.append(what)
        said = " ".join(str(error).split())[:120]
        print(f"{target:12s} {what:36s} failed: {type(error).__name__}: {said}", flush=True)


FAILED = []


def heading():
    print(
        f"jax {jax.__version__}, one chip: MiB of arguments, of temporaries, FLOPs, time to compile, collectives (MiB)",
        flush=True,
    )


def chips(targets, only, quick):
    """For each target every example's step, updates of a large leaf, every optimizer and every loss."""
    heading()
    for target in filter(available, targets):
        mesh = mesh_of(target, (-1,), ("data",))
        rows = list(chip_rows(mesh))  # outside the mesh: some factories make arrays
        with jax.set_mesh(mesh):
            for what, make in rows:
                if re.search(only, what):
                    with row(target, what):
                        compile_row(target, what, *make(), QUICK if quick else None)


def chip_rows(mesh):
    """What is compiled on all chips of a mesh, by name: functions that make a step and its arguments."""
    large = jax.eval_shape(lambda key: gpt.init(key, LARGE), jax.random.key(0))
    next_byte = functools.partial(gpt.next_byte_loss, config=LARGE)
    clipped = jol.chain(jol.clip_by_global_norm(1.0), jol.adamw(1e-3, mask=gpt.matrices))
    steps = examples() | {"byte GPT of 6M": (next_byte, clipped, large, i32(64, 513))}
    for name, parts in steps.items():
        yield f"step: {name}, ZeRO-1", functools.partial(zero_step, mesh, *parts)
    place = {"kernel": NamedSharding(mesh, P("data"))}
    for name, make in OPTIMIZERS.items():
        kernel = {"kernel": f32(65_536, 4096)}
        yield f"large: {name}, 65,536 × 4,096", functools.partial(update_arguments, make(), kernel, place)
    for name, tx in optimizers():
        shape = (8192, 256)
        if re.search("soap|shampoo", name):  # XLA unrolls the decompositions of a side
            shape = (512, 256) if mesh.size <= 512 else (mesh.size, 64, 32)
        size = " × ".join(format(n, ",") for n in shape)
        yield (
            f"optimizer: {name}, {size}",
            functools.partial(update_arguments, tx, {"kernel": f32(*shape)}, place),
        )
    for name, step, arguments in losses():
        yield (
            f"loss: {name}",
            lambda step=step, shapes=arguments: (
                jax.jit(step),
                (on(shapes, NamedSharding(mesh, P())),),
            ),
        )


LARGE = gpt.Config(512, 2, 8, 512, "bfloat16")


def zero_step(mesh, loss, tx, params, batch):
    """A training step with its batch and the optimizer's state split over "data", and its arguments."""
    whole, rows = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    # shard_map, since without a TPU its compiler has no partitioner for the fused losses under plain jit.
    mean = lambda params, batch: jax.lax.pmean(loss(params, batch), "data")
    spread = jax.shard_map(mean, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
    zero = zero_shardings(tx, params, mesh, "data")
    step = jax.jit(jol.make_step(spread, tx), donate_argnums=(0, 1), out_shardings=(whole, zero, whole))
    enough = lambda x: jax.ShapeDtypeStruct((max(x.shape[0], mesh.size), *x.shape[1:]), x.dtype)
    batch = jax.tree.map(enough, batch)
    return step, (on(params, whole), on(jax.eval_shape(tx.init, params), zero), on(batch, rows))


OPTIMIZERS = {
    "adamw": lambda: jol.adamw(1e-3),
    "low-memory adamw": lambda: jol.low_memory_adamw(1e-3, min_size=2**21),  # more than all norms have
    "muon": lambda: jol.optimizers.muon(1e-3, matrix_axes={"embedding|norms": None}),
    "lion": lambda: jol.optimizers.lion(1e-4),
    "adafactor": lambda: jol.optimizers.adafactor(1e-3),
}


def update_arguments(tx, params, places):
    """A donated update of sharded parameters, and its arguments on the mesh."""
    state = jax.eval_shape(tx.init, params)
    arguments = on(params, places), on(state, state_shardings(tx, params, places)), on(params, places)
    return jax.jit(update_step(tx), donate_argnums=(0, 1)), arguments


def total_bytes(*trees):
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(trees))


def pods(models, optimizers, steps, only):
    """Transformers under FSDP: the optimizer's step, the loss with its head, and, if asked, the whole step."""
    heading()
    for name in models:
        model = transformer.MODELS[name]
        if available(model.target):
            mesh = mesh_of(model.target, model.mesh, transformer.AXES)
            params = transformer.shapes(model)
            places = jax.tree.map(functools.partial(NamedSharding, mesh), transformer.specs(model))
            print(
                f"{name}: {total_bytes(params) / 4 / 1e9:.2f}B parameters on {mesh.size} chips of {model.target}"
            )
            with jax.set_mesh(mesh):
                for optimizer in (each for each in optimizers if re.search(only, f"update: {each}")):
                    with row(model.target, f"{name} update, {optimizer}"):
                        state_row(name, model.target, optimizer, params, places)
                if re.search(only, "head"):
                    with row(model.target, f"{name} loss and head"):
                        head_rows(name, model, mesh)
                if steps and re.search(only, "step"):
                    with row(model.target, f"{name} training step, adamw"):
                        step_row(name, model, mesh, params, places)


def state_row(name, target, optimizer, params, places):
    tx = OPTIMIZERS[optimizer]()
    if optimizer == "low-memory adamw":
        params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), params)
    step, arguments = update_arguments(tx, params, places)
    program = compile_row(target, f"{name} update, {optimizer}", step, arguments)
    print_share(program, arguments, next(iter(places.values())).mesh)


def print_share(program, arguments, mesh):
    held, fair = program.memory_analysis().argument_size_in_bytes, total_bytes(*arguments) / mesh.size
    gathers = collectives(program.as_text()).get("all-gather", (0, 0))
    print(
        f"    arguments on one chip / (total / chips): {held / fair:.4f}; all-gathers: {gathers[0]}",
        flush=True,
    )


def head_rows(name, model, mesh):
    """The fused cross-entropy with the vocabulary sharded, beside the same on materialised logits."""
    temps = []
    for fused in (True, False):
        loss = jax.value_and_grad(functools.partial(transformer.head_loss, mesh=mesh, fused=fused), (0, 1))
        what = f"{name} loss and head, {'fused' if fused else 'logits held'}"
        program = compile_row(model.target, what, jax.jit(loss), transformer.head_arguments(model, mesh))
        temps.append(program.memory_analysis().temp_size_in_bytes)
    print(f"    temporaries, logits held / fused: {temps[1] / temps[0]:.1f}", flush=True)


def step_row(name, model, mesh, params, places):
    tx = jol.chain(jol.clip_by_global_norm(1.0), jol.adamw(1e-3))
    state = state_shardings(tx, params, places)
    loss = functools.partial(transformer.loss, model=model, mesh=mesh)
    windows = on(i32(model.batch, model.length + 1), NamedSharding(mesh, transformer.BATCH))
    step = jax.jit(jol.make_step(loss, tx), donate_argnums=(0, 1), out_shardings=(places, state, None))
    arguments = on(params, places), on(jax.eval_shape(tx.init, params), state), windows
    program = compile_row(model.target, f"{name} training step, adamw", step, arguments, QUICK)
    print_share(program, arguments, mesh)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("lower", "chips", "pods"))
    parser.add_argument("--targets", nargs="+", default=[*TPUS, "h100"])
    parser.add_argument("--models", nargs="+", default=["7B", "70B"], choices=transformer.MODELS)
    parser.add_argument(
        "--optimizers", nargs="+", default=["adamw", "low-memory adamw", "muon"], choices=OPTIMIZERS
    )
    parser.add_argument(
        "--steps", action="store_true", help="pods: whole training steps too, by XLA's least effort (minutes)"
    )
    parser.add_argument(
        "--only", default="", help="chips, pods: rows whose names have this regular expression"
    )
    parser.add_argument("--quick", action="store_true", help="chips: XLA's least effort")
    args = parser.parse_args()
    if args.what == "lower":
        lower_all()
    elif args.what == "chips":
        chips(args.targets, args.only, args.quick)
    else:
        pods(args.models, args.optimizers, args.steps, args.only)
    if FAILED:
        sys.exit(f"failed: {', '.join(FAILED)}")


if __name__ == "__main__":
    main()
