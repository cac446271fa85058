"""Memory of optimizer state: bytes a parameter, temporaries of a step, bytes moved, and what it costs in loss.

    python benchmarks/state_bytes.py              # bytes and temporaries: minutes; TPU rows where its compiler is
    python benchmarks/state_bytes.py --train      # the small GPT with int8 and int4 against float32: about an hour

`state` and `with params` count the arrays. `temporary` is `memory_analysis().temp_size_in_bytes` of a jitted step with
parameters and state donated, in bytes a parameter and as a share of the float32 state (8 bytes). `moved` and
`estimate` are the TPU compiler's own `cost_analysis()`; `pip install "jax[tpu]"` in an environment of its own gives it,
no TPU is needed. optax is optax.adamw; with master weights, float32 copies beside parameters of 16 bits. With
`--train` every seed has its own parameters and batches, the same for all codecs. Small differences grow while a model
trains, so that a few seeds say little: the mean comes with its standard error.
"""

import argparse
import math
import os
import pathlib
import sys

os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # only its compiler is used

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxopt_lite as jol

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "examples"))
import gpt
import text

FORMS = {
    "optax adamw": lambda: optax.adamw(1e-3),
    "adamw": lambda: jol.adamw(1e-3),
    "int8": lambda: jol.quantize_state(jol.adamw(1e-3)),
    "int4": lambda: jol.quantize_state(jol.adamw(1e-3), "int4"),
    "int8 of optax adamw": lambda: jol.quantize_state(optax.adamw(1e-3)),
}
SIXTEEN = {
    "optax, master weights": None,
    "low_memory_adamw": lambda: jol.low_memory_adamw(1e-3),
    "low_memory_adamw, correction int8": lambda: jol.low_memory_adamw(1e-3, correction="int8"),
    "low_memory_adamw, codec int4": lambda: jol.low_memory_adamw(1e-3, codec="int4"),
}
# Leaves that fit the 128 MiB on the chip are copied there first, and both copies count as bytes moved.
LARGE, TWENTY = [(65_536, 4096)], [(10_240, 4096)] * 20  # twenty with float32 moments fit a v5e


def on(shapes, dtype, place):
    return [jax.ShapeDtypeStruct(shape, dtype, sharding=place) for shape in shapes]


def with_masters(params):
    """What optax users keep beside 16-bit parameters: float32 ones, and the moments of those."""
    wide = [jax.ShapeDtypeStruct(p.shape, jnp.float32) for p in params]
    return wide, jax.eval_shape(optax.adamw(1e-3).init, wide)


def bytes_rows():
    params = on(LARGE, jnp.float32, None)
    size = sum(p.size for p in params)
    print(f"\n{'bytes a parameter':36s} {'state':>8s} {'with params':>12s}")
    for dtype, forms in ((jnp.float32, FORMS), (jnp.bfloat16, SIXTEEN)):
        params = on(LARGE, dtype, None)
        for name, make in forms.items():
            state = jax.eval_shape(make().init, params) if make else with_masters(params)
            total = jol.state_bytes((params, state))
            kind = f"{name} ({jnp.dtype(dtype).name})"
            print(f"{kind:36s} {jol.state_bytes(state) / size:8.3f} {total / size:12.3f}")


def step_of(tx):
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return jol.apply_updates(params, updates), state

    return jax.jit(step, donate_argnums=(0, 1))


def compile_row(target, name, tx, shapes, dtype, place):
    """Compile a step and print its row."""
    params = on(shapes, dtype, place)
    state = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), jax.eval_shape(tx.init, params)
    )
    program = step_of(tx).lower(params, state, params).compile()
    size = sum(map(math.prod, shapes))
    temporary = program.memory_analysis().temp_size_in_bytes / size
    cost = program.cost_analysis() if place else {}
    moved, seconds = cost.get("bytes accessed", math.nan) / size, cost.get("optimal_seconds", math.nan)
    seconds = seconds if seconds > 0 else math.nan  # negative: the compiler has no estimate of some part
    leaves = f"{len(shapes)} × {shapes[0][0]}×{shapes[0][1]}"
    print(
        f"{target:8s} {name:22s} {leaves:16s} {temporary:9.3f} {temporary / 8:9.1%} {moved:7.2f} {seconds * 1e3:9.3f}",
        flush=True,
    )


def step_rows(target, place, forms=FORMS, layouts=(LARGE, TWENTY)):
    for shapes in layouts:
        for name in forms:
            compile_row(target, name, FORMS[name](), shapes, jnp.float32, place)
    compile_row(target, "low_memory_adamw", jol.low_memory_adamw(1e-3), TWENTY, jnp.bfloat16, place)


def chip():
    """A TPU v5e that is not here, or None."""
    try:
        from jax.experimental import topologies

        device = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices[0]
    except Exception as error:
        print(f'TPU v5e left out: pip install "jax[tpu]=={jax.__version__}" ({type(error).__name__})')
        return None
    return jax.sharding.SingleDeviceSharding(device)


SIZES = {"width": 128, "depth": 4, "heads": 4, "length": 128}  # pretrain_gpt's own
BATCH, STEPS, LEARNING_RATE = 16, 400, 3e-3


def final_loss(data, seed, codec):
    """Validation loss of the byte GPT, in bits per byte, with pretrain_gpt's optimizer around ``codec``."""
    config = gpt.Config(**SIZES)
    key_init, key_data = jax.random.split(jax.random.key(seed))
    schedule = jol.schedules.warmup_cosine(LEARNING_RATE, warmup_steps=STEPS // 20, decay_steps=STEPS)
    tx = jol.adamw(schedule, b2=0.95, weight_decay=0.1, mask=gpt.matrices)
    tx = jol.chain(jol.clip_by_global_norm(1.0), jol.quantize_state(tx, codec, min_size=1024))
    params = gpt.init(key_init, config)
    state, loss_fn = tx.init(params), lambda p, windows: gpt.next_byte_loss(p, windows, config)
    step, sample = jol.make_step(loss_fn, tx), text.sampler(data.train, BATCH, config.length + 1, key_data)
    for i in range(1, STEPS + 1):
        params, state, _ = step(params, state, sample(i))
    run = jax.jit(loss_fn)
    windows = np.split(text.windows(data.validation, 64 * BATCH, config.length + 1), 64)
    return np.mean([run(params, part) for part in windows]) / math.log(2)


def train_rows(seeds):
    data = text.read_text()
    print(f"\nbyte GPT, {SIZES}, {STEPS} steps of {BATCH}: validation loss in bits per byte, against float32")
    ratios = {"int8": [], "int4": []}
    for seed in range(seeds):
        base = final_loss(data, seed, "identity")
        print(f"seed {seed:2d}  float32 {base:.4f}", end="", flush=True)
        for codec, row in ratios.items():
            loss = final_loss(data, seed, codec)
            row.append(loss / base - 1)
            print(f"  {codec} {loss:.4f} ({row[-1]:+.2%})", end="", flush=True)
        print()
    for codec, row in ratios.items():
        error = np.std(row, ddof=1) / math.sqrt(len(row))
        print(f"{codec}: mean of {seeds} seeds {np.mean(row):+.2%} ± {error:.2%}, largest {max(row):+.2%}")


def main(train=False, seeds=12):
    print(f"jax {jax.__version__}, optax {optax.__version__}")
    if train:
        return train_rows(seeds)
    bytes_rows()
    print(
        f"\n{'a step':31s} {'leaves':16s} {'temporary':>9s} {'of state':>9s} {'moved':>7s} {'estimate ms':>11s}"
    )
    step_rows("CPU", None, layouts=(TWENTY,))
    if place := chip():
        step_rows("TPU v5e", place)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--seeds", type=int, default=12)
    options = parser.parse_args()
    main(options.train, options.seeds)
