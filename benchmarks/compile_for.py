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
import inspect
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
sys.path[:0] = [str(HERE), str(HERE.parent / "examples")]
import gpt  # noqa: E402
import transformer  # noqa: E402

import jaxopt_lite as jol  # noqa: E402
from jaxopt_lite.precision import quantize_state  # noqa: E402
from jaxopt_lite.sharding import state_shardings, zero_shardings  # noqa: E402

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
TPUS = ("v5e:2x4", "v5p:8x8x8", "v4:16x16x16")
MIB = 2**20
# What stands in compiled programs as a call of another library or of a partitioner, and is safe to serialise here.
SAFE = [export.DisabledSafetyCheck.custom_call(name) for name in ("CustomSPMDPartitioning", "Sharding")]

f32 = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
i32 = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.int32)
boolean = lambda *shape: jax.ShapeDtypeStruct(shape, bool)


# Items: every optimizer, every loss, a training step of every example.

FACTORIES = {
    "schedule_free": lambda: jol.optimizers.schedule_free(jol.adam(1e-3, b1=0.0), 1e-3),
    "schedule_free_eval_params": None,  # a function of the state
    "hutchinson_estimator_diag_hessian": None,  # a part of sophia
    "scale_by_schedule": lambda: jol.optimizers.scale_by_schedule(jol.schedules.constant(1.0)),
}


def optimizers():
    """Name → transformation, of everything that ``optimizers`` exports."""
    for name in jol.optimizers.__all__:
        make = FACTORIES.get(name, functools.partial(_by_default, getattr(jol.optimizers, name)))
        if make is not None:
            yield name, make()


def _by_default(factory):
    given = {"learning_rate": 1e-3, "step_size": 1e-3, "decay": 0.9}
    return factory(**{k: v for k, v in given.items() if k in required(factory)})


def required(function):
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.default is inspect.Parameter.empty and p.kind not in kinds]


def update_step(tx):
    """One update, applied; and Sophia's Hessian of an objective."""

    def step(params, state, grads):
        objective = lambda p: sum(jnp.sum(x * x) for x in jax.tree.leaves(p))
        updates, state = tx.update(grads, state, params, obj_fn=objective)
        return jol.apply_updates(params, updates), state

    return step


# A loss's inputs by the names of its arguments; every other name is [8, 16], or [8] for rewards and log-probabilities.
NAMED = {
    "hidden": f32(8, 32), "kernel": f32(32, 16), "teacher_hidden": f32(8, 32), "teacher_kernel": f32(32, 16),
    "advantages": f32(8), "values": f32(8), "old_values": f32(8), "returns": f32(8), "desirable": boolean(8),
    "temperature": f32(), "bias": f32(), "kl": f32(), "alpha": f32(),
}  # fmt: skip
OF_ONE = re.compile(r"(logps|_rewards)$")
CTC = {
    "logits": f32(4, 16, 8),
    "logit_paddings": f32(4, 16),
    "labels": i32(4, 5),
    "label_paddings": f32(4, 5),
}
SPECIAL = {
    "ctc_loss": CTC,
    "ctc_loss_with_forward_probs": CTC,
    "grpo_loss": {"logps": f32(8, 16), "old_logps": f32(8, 16), "advantages": f32(8), "mask": boolean(8, 16)},
    "make_fenchel_young_loss": {"scores": f32(8, 16), "targets": f32(8, 16)},
}


def losses():
    """Name → value and gradient, and the shapes of the arguments."""
    for name in jol.losses.__all__:
        loss = getattr(jol.losses, name)
        if name == "make_fenchel_young_loss":
            loss = functools.partial(_fenchel_young, loss(jax.nn.logsumexp))
        yield name, gradient_of(loss), arguments_of(name, loss)


def _fenchel_young(loss, *, scores, targets):
    return jax.vmap(loss)(scores, targets)


def gradient_of(loss):
    """Value, and gradient with respect to all floating arguments."""

    def step(arguments):
        floating = {k: x for k, x in arguments.items() if jnp.issubdtype(x.dtype, jnp.floating)}
        total = lambda some: sum(jnp.sum(x) for x in jax.tree.leaves(loss(**(arguments | some))))
        return jax.value_and_grad(total)(floating)

    return step


def arguments_of(name, loss):
    """Shapes under the argument's names; labels are rows that sum to one, or class ids, or numbers: whatever fits."""
    if name in SPECIAL:
        return SPECIAL[name]
    names = required(loss)
    shapes = {n: NAMED.get(n, f32(8) if OF_ONE.search(n) else f32(8, 16)) for n in names}
    for labels in (f32(8, 16), i32(8), i32(8, 16)):
        fitted = shapes | ({"labels": labels} if "labels" in names else {})
        with contextlib.suppress(ValueError, TypeError):
            jax.eval_shape(lambda tree: loss(**tree), fitted)
            return fitted
    raise TypeError(f"{name}: no inputs fit its arguments {names}")


CONFIG = gpt.Config(width=64, depth=2, heads=2, length=64)
PAIRS = {"chosen": i32(8, 12), "rejected": i32(8, 12), "reference": (f32(8), f32(8))}
ROLLOUT = {"tokens": i32(8, 12), "old": f32(8, 6), "advantages": f32(8)}


def training_steps():
    """Name → a whole training step of an example, and its parameters, state and batch as shapes."""
    import chunked_preference as preference
    import classify_digits
    import linear_regression

    clipped = jol.chain(jol.clip_by_global_norm(1.0), jol.adamw(1e-3, mask=gpt.matrices))
    initial = lambda f, *sizes: jax.eval_shape(lambda key: f(key, *sizes), jax.random.key(0))
    tokens = initial(preference.init, 512, 32)
    next_byte = functools.partial(gpt.next_byte_loss, config=CONFIG)
    at = lambda loss: lambda params, batch: loss(params, batch | {"start": 6})
    rows = {
        "pretrain_gpt": (next_byte, clipped, initial(gpt.init, CONFIG), i32(8, 65)),
        "classify_digits": (classify_digits.loss_fn, jol.adamw(1e-3), initial(classify_digits.init, [64, 32, 10]),
                            {"image": f32(8, 64), "label": i32(8)}),
        "linear_regression": (linear_regression.loss_fn, jol.sgd(1e-2), {"slope": f32(), "intercept": f32()},
                              {"x": f32(8), "y": f32(8)}),
        "chunked_preference dpo": (at(preference.dpo), jol.adamw(1e-2), tokens, PAIRS),
        "chunked_preference grpo": (at(preference.grpo), jol.adamw(1e-2), tokens, ROLLOUT),
    }  # fmt: skip
    for name, (loss, tx, params, batch) in rows.items():
        yield name, jol.make_step(loss, tx), (params, jax.eval_shape(tx.init, params), batch)


def programs():
    """Kind, name, function and arguments of everything that is lowered."""
    params = {"kernel": f32(256, 128), "bias": f32(128)}
    for name, tx in optimizers():
        yield "optimizer", name, update_step(tx), (params, jax.eval_shape(tx.init, params), params)
    for name, step, arguments in losses():
        yield "loss", name, step, (arguments,)
    for name, step, arguments in training_steps():
        yield "training step", name, step, arguments


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
            if call.group(3) and call.group(2) != "all-reduce":  # a tuple of operand and result
                arrays = arrays[len(arrays) // 2 :]
            sizes = [WIDTHS.get(t, 0) * np.prod([int(n) for n in s.split(",") if n]) for t, s in arrays]
            count, total = found.get(call.group(2), (0, 0))
            found[call.group(2)] = count + 1, total + int(sum(sizes))
    return found


def compile_row(target, what, step, arguments):
    """Compile, print one row, and return the program."""
    start = time.perf_counter()
    compiled = step.lower(*arguments).compile()
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    flops = (cost[0] if isinstance(cost, list) else cost or {}).get("flops")
    talk = ", ".join(f"{k} ×{n} {b / MIB:.1f}" for k, (n, b) in collectives(compiled.as_text()).items())
    print(
        f"{target:12s} {what:36s} {memory.argument_size_in_bytes / MIB:10.1f} {memory.temp_size_in_bytes / MIB:10.1f} "
        f"{'-' if flops is None else format(flops, '.3g'):>9s} {time.perf_counter() - start:6.0f} s  {talk or 'none'}",
        flush=True,
    )
    return compiled


def heading():
    print(
        f"jax {jax.__version__}, one chip: MiB of arguments, of temporaries, FLOPs, time to compile, collectives (MiB)"
    )


def chips(targets):
    """Data-parallel with ZeRO-1 on all chips of the target: the byte GPT's step, and updates of one large leaf."""
    heading()
    one = functools.partial(gpt.next_byte_loss, config=gpt.Config(512, 2, 8, 512, "bfloat16"))
    params = jax.eval_shape(lambda key: gpt.init(key, gpt.Config(512, 2, 8, 512)), jax.random.key(0))
    for target in filter(available, targets):
        mesh = mesh_of(target, (-1,), ("data",))
        whole, rows = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
        # shard_map, since without a TPU its compiler has no partitioner for the fused loss under plain jit.
        mean = lambda params, windows: jax.lax.pmean(one(params, windows), "data")
        loss = jax.shard_map(mean, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
        tx = jol.chain(jol.clip_by_global_norm(1.0), jol.adamw(1e-3, mask=gpt.matrices))
        zero = zero_shardings(tx, params, mesh, "data")
        step = jax.jit(jol.make_step(loss, tx), donate_argnums=(0, 1), out_shardings=(whole, zero, whole))
        arguments = (
            on(params, whole),
            on(jax.eval_shape(tx.init, params), zero),
            on(i32(max(64, mesh.size), 513), rows),
        )
        compile_row(target, "byte GPT of 6M, ZeRO-1", step, arguments)
        kernel = {"kernel": f32(65_536, 4096)}
        for name in ("adamw", "lion", "adafactor", "muon", "int8 adamw"):
            tx = OPTIMIZERS[name]()
            place = {"kernel": NamedSharding(mesh, P("data"))}
            compile_row(target, f"{name}, 65,536 × 4,096", *update_arguments(tx, kernel, place))


OPTIMIZERS = {
    "adamw": lambda: jol.adamw(1e-3),
    "int8 adamw": lambda: quantize_state(jol.adamw(1e-3), overrides={"norms": None}),
    "muon": lambda: jol.optimizers.muon(1e-3),
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


def pods(models, optimizers, steps):
    """Transformers under FSDP: the optimizer's step, the loss with its head, and, if asked, the whole step."""
    heading()
    for name in models:
        model = transformer.MODELS[name]
        if available(model.target):
            mesh = mesh_of(model.target, model.mesh, ("fsdp", "model"))
            params = transformer.shapes(model)
            places = jax.tree.map(functools.partial(NamedSharding, mesh), transformer.specs(model))
            print(
                f"{name}: {total_bytes(params) / 4 / 1e9:.2f}B parameters on {mesh.size} chips of {model.target}"
            )
            for optimizer in optimizers:
                state_row(name, model.target, optimizer, params, places)
            head_rows(name, model, mesh)
            if steps:
                step_row(name, model, mesh, params, places)


def state_row(name, target, optimizer, params, places):
    tx = OPTIMIZERS[optimizer]()
    step, arguments = update_arguments(tx, params, places)
    program = compile_row(target, f"{name} update, {optimizer}", step, arguments)
    fair = total_bytes(*arguments) / next(iter(places.values())).mesh.size
    held = program.memory_analysis().argument_size_in_bytes
    gathers = collectives(program.as_text()).get("all-gather", (0, 0))
    print(
        f"    params, state, grads on one chip / (total / chips): {held / fair:.4f}; all-gathers: {gathers[0]}"
    )


def head_rows(name, model, mesh):
    """The fused cross-entropy with the vocabulary sharded, beside the same on materialised logits."""
    temps = []
    for fused in (True, False):
        loss = jax.value_and_grad(functools.partial(transformer.head_loss, mesh=mesh, fused=fused), (0, 1))
        what = f"{name} loss and head, {'fused' if fused else 'logits held'}"
        program = compile_row(model.target, what, jax.jit(loss), transformer.head_arguments(model, mesh))
        temps.append(program.memory_analysis().temp_size_in_bytes)
    print(f"    temporaries, logits held / fused: {temps[1] / temps[0]:.1f}")


def step_row(name, model, mesh, params, places):
    tx = jol.chain(jol.clip_by_global_norm(1.0), jol.adamw(1e-3))
    state = state_shardings(tx, params, places)
    loss = functools.partial(transformer.loss, model=model, mesh=mesh)
    windows = on(i32(model.batch, model.length + 1), NamedSharding(mesh, P("fsdp")))
    step = jax.jit(jol.make_step(loss, tx), donate_argnums=(0, 1), out_shardings=(places, state, None))
    arguments = on(params, places), on(jax.eval_shape(tx.init, params), state), windows
    with jax.set_mesh(mesh):
        compile_row(model.target, f"{name} training step, adamw", step, arguments)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("lower", "chips", "pods"))
    parser.add_argument("--targets", nargs="+", default=[*TPUS, "h100"])
    parser.add_argument("--models", nargs="+", default=list(transformer.MODELS))
    parser.add_argument(
        "--optimizers", nargs="+", default=["adamw", "int8 adamw", "muon"], choices=OPTIMIZERS
    )
    parser.add_argument(
        "--steps", action="store_true", help="pods: compile whole training steps too (minutes)"
    )
    args = parser.parse_args()
    if args.what == "lower":
        lower_all()
    elif args.what == "chips":
        chips(args.targets)
    else:
        pods(args.models, args.optimizers, args.steps)


if __name__ == "__main__":
    main()
