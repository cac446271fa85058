"""One process of a run that test_processes.py starts: the small GPT, data-parallel, ZeRO-1 or DiLoCo.

The last argument is JSON: ``rank``, ``world`` (processes), ``devices`` (in each), ``port``, ``modes``, ``steps``,
``out`` (a folder for the final parameters) and, to be killed and to go on, ``checkpoints``, ``die_at``, ``die_rank``.
"""

import functools
import json
import os
import pathlib
import signal
import sys

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "examples"))
import gpt

import jaxopt_lite as jol
from jaxopt_lite import checkpoint
from jaxopt_lite.sharding import zero_shardings
from jaxopt_lite.wrappers.diloco import diloco

CONFIG = gpt.Config(width=32, depth=1, heads=2, length=32)
BATCH, SYNC_EVERY, CHECKPOINT_EVERY = 8, 2, 2
LOSS = functools.partial(gpt.next_byte_loss, config=CONFIG)


def start(world, rank, devices, port):
    """This process as one of ``world``, on a mesh of all their devices."""
    jax.config.update("jax_num_cpu_devices", devices)
    if world > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", world, rank, heartbeat_timeout_seconds=10)
    assert (jax.process_count(), len(jax.devices())) == (world, world * devices)
    return jax.make_mesh((world * devices,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


def placed(array, sharding):
    """A host's array, the same in every process, as one global array."""
    array = np.asarray(array)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def batch(mesh, step):
    """Windows of bytes, by rows over all devices."""
    windows = np.random.default_rng(step).integers(97, 123, (BATCH, CONFIG.length + 1), np.int32)
    return placed(windows, NamedSharding(mesh, P("data")))


def parallel(mesh, zero):
    """Parameters everywhere, the state everywhere or in parts."""
    tx = jol.chain(jol.clip_by_global_norm(1.0), jol.adamw(3e-3))
    everywhere = NamedSharding(mesh, P())
    params = jax.jit(gpt.init, static_argnums=1, out_shardings=everywhere)(jax.random.key(0), CONFIG)
    places = zero_shardings(tx, params, mesh, "data") if zero else everywhere
    state = jax.jit(tx.init, out_shardings=places)(params)
    step = jol.make_step(LOSS, tx)
    return params, state, jax.jit(step, donate_argnums=(0, 1), out_shardings=(everywhere, places, everywhere))


def workers(mesh):
    """Every device a worker with parameters of its own, which they exchange in every second step."""
    outer = jol.sgd(0.7, momentum=0.9, nesterov=True)
    tx = diloco(jol.adamw(3e-3), outer, sync_every=SYNC_EVERY, axis_name="data")
    own, back = (functools.partial(jax.tree.map, f) for f in (lambda x: x[0], lambda x: x[None]))

    def begin(rank):
        params = gpt.init(jax.random.key(0), CONFIG)
        return back(params), back(tx.init(params))

    def step(params, state, windows):
        loss, grads = jax.value_and_grad(LOSS)(own(params), windows)
        updates, state = tx.update(grads, own(state), own(params))
        return back(jol.apply_updates(own(params), updates)), back(state), loss[None]

    mapped = functools.partial(
        jax.shard_map, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False
    )
    ranks = placed(np.arange(mesh.size), NamedSharding(mesh, P("data")))
    return *jax.jit(mapped(begin))(ranks), jax.jit(mapped(step), donate_argnums=(0, 1))


def train(mesh, mode, settings):
    """The parameters after all steps; from the last checkpoint, if there is one."""
    params, state, step = workers(mesh) if mode == "diloco" else parallel(mesh, zero=mode == "zero")
    folder, identity, first = settings.get("checkpoints"), {"mode": mode}, 0
    if folder and (found := checkpoint.restore(folder, (params, state), identity)):
        first, (params, state) = found
        sys.stdout.write(f"from step {first}\n")
    for k in range(first + 1, settings["steps"] + 1):
        if (k, settings["rank"]) == (settings.get("die_at"), settings.get("die_rank")):
            os.kill(os.getpid(), signal.SIGKILL)
        params, state, loss = step(params, state, batch(mesh, k))
        jax.block_until_ready(loss)
        if folder and k % CHECKPOINT_EVERY == 0:
            checkpoint.save(folder, k, (params, state), identity)
    return params


def main(settings):
    rank, world = settings["rank"], settings["world"]
    mesh = start(world, rank, settings["devices"], settings["port"])
    for mode in settings["modes"]:
        params = train(mesh, mode, settings)
        for shard in range(settings["devices"]):  # what lies on each device of this process
            leaves = [np.asarray(x.addressable_shards[shard].data) for x in jax.tree.leaves(params)]
            name = f"{mode}{rank * settings['devices'] + shard}.npz"
            np.savez(pathlib.Path(settings["out"], name), *leaves)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
