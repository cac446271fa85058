"""Where a run takes place: on a mesh of devices, in one process or in many."""

import os
import socket
import subprocess
import sys

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxopt_lite.sharding import zero_shardings

AXES = ("data", "fsdp")  # both split the batch; over "fsdp" parameters are split too


def sizes(text):
    """The mesh axes of ``"data=4,fsdp=2"``, by name; one that is not given has size 1."""
    given = dict(part.partition("=")[::2] for part in text.split(","))
    if not set(given) <= set(AXES) or not all(size.isdigit() for size in given.values()):
        raise ValueError(f'--mesh: got {text!r}, expected sizes of some of {AXES}, as in "data=4,fsdp=2"')
    return {name: int(given.get(name, 1)) for name in AXES}


def mesh_of(text, batch):
    """The mesh of all devices, those of other processes included; by default all along "data"."""
    devices = jax.devices()
    print(f"device: {devices[0].device_kind} ({devices[0].platform}), {len(devices)} in all")
    shape = sizes(text or f"data={len(devices)}")
    if np.prod([*shape.values()]) != len(devices):
        raise ValueError(f"--mesh: {shape} is no mesh of the {len(devices)} devices that are there")
    if batch % len(devices):
        raise ValueError(f"batch is {batch}, expected a multiple of the number of devices, {len(devices)}")
    return Mesh(np.reshape(devices, [*shape.values()]), AXES)


class Places:
    """Shardings on a mesh: of whole arrays, of batches, of parameters and of the optimizer's state."""

    def __init__(self, mesh, params, tx):
        self.whole, self.rows = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), (AXES,)))
        self.params = jax.tree.map(lambda leaf: NamedSharding(mesh, fsdp(leaf.shape, mesh)), params)
        put = lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)
        self.state = zero_shardings(tx, jax.tree.map(put, params, self.params), mesh, AXES)

    def keep(self, step):
        """A training step that leaves parameters and state where they are."""
        shardings = self.params, self.state, self.whole
        return jax.jit(step, donate_argnums=(0, 1), out_shardings=shardings)


def fsdp(shape, mesh):
    """A matrix is split along its longest axis that "fsdp" divides; vectors are whole everywhere."""
    fits = [axis for axis, size in enumerate(shape) if size % mesh.shape["fsdp"] == 0]
    if len(shape) < 2 or not fits or mesh.shape["fsdp"] == 1:
        return PartitionSpec()
    best = max(fits, key=lambda axis: shape[axis])
    return PartitionSpec(*("fsdp" if axis == best else None for axis in range(len(shape))))


def put(tree, sharding):
    """Arrays that every process holds, as arrays of the mesh."""
    place = lambda x: jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
    return jax.tree.map(place, tree)


def start(mesh=None, processes=None):
    """Before anything else of JAX: as many CPU devices as ``mesh`` asks for, and the other ``processes``.

    ``"2"`` starts two processes on this machine; ``"cluster"`` joins those that SLURM, Kubernetes, MPI or a TPU
    pod started; ``"host:port,count,rank"`` joins by hand. Only the first process prints.
    """
    if processes and processes.isdigit():
        sys.exit(launch(int(processes)))
    if processes:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        address, count, rank = processes.split(",") if "," in processes else (None, None, None)
        jax.distributed.initialize(address, count and int(count), rank and int(rank))
    if mesh and processes != "cluster":
        count = int(processes.split(",")[1]) if processes else 1
        jax.config.update("jax_num_cpu_devices", int(np.prod([*sizes(mesh).values()])) // count)
    if processes and jax.process_index():
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def launch(count):
    """Run this same command in ``count`` processes on this machine's CPU; the exit code of the first that failed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command, env = [sys.executable, *sys.argv, "--processes"], os.environ | {"JAX_PLATFORMS": "cpu"}
    each = [subprocess.Popen([*command, f"{address},{count},{rank}"], env=env) for rank in range(count)]
    try:
        return next(filter(None, [process.wait() for process in each]), 0)
    finally:
        for process in each:
            process.kill()
