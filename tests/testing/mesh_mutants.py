"""Wrong on a mesh of eight devices only. Run as a script, since the devices must be asked for before JAX starts.

The script prints the verdicts on these, on right items, and on everything we export.
"""

import gc
import json
import sys

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxopt_lite.testing import TransformationCase as Case
from jaxopt_lite.testing import transformation_laws
from jaxopt_lite.testing.report import run_laws
from tests.testing import exports, mutants, right
from tests.testing.right import LR, descend, momentum, stateless, with_slot


def gathers_its_state():
    def rule(g, m, t, p):
        u, m = momentum(g, m, t, p)
        on_mesh = jax.sharding.get_abstract_mesh().axis_names
        return u, jax.lax.with_sharding_constraint(m, PartitionSpec()) if on_mesh else m

    return with_slot(rule)


def takes_the_norm_of_one_shard():
    def local(g):
        size = jnp.sum(jnp.abs(g))
        return -LR * g / jnp.where(size > 0, size, 1)

    def rule(g, p):
        mesh = jax.sharding.get_abstract_mesh()
        if not mesh.axis_names or not g.shape or g.shape[0] % 8:
            return local(g)
        spec = PartitionSpec(mesh.axis_names[0])
        return jax.shard_map(local, in_specs=spec, out_specs=spec)(g)

    return stateless(rule)


CASES = {
    "sgd": (lambda: Case(stateless(descend), claims={"elementwise"}), set()),
    "rms": (right.TRANSFORMATIONS["rms"], set()),
    "normalised": (right.TRANSFORMATIONS["normalised"], set()),
    "shares a norm": (
        lambda: Case(mutants.one_shared_maximum(), claims={"elementwise"}),
        {"collectives_within_budget"},
    ),
    "within its budget": (lambda: Case(mutants.one_shared_maximum(), claims={"collectives <= 4"}), set()),
    "gathers its state": (lambda: Case(gathers_its_state()), {"sharding_kept"}),
    "one shard's norm": (lambda: Case(takes_the_norm_of_one_shard()), {"sharded_equals_unsharded"}),
}


def verdicts():
    """For every case the mesh laws it breaks and should break, and those that did not run."""
    laws = {name: transformation_laws[name] for name in mutants.MESH}
    for name, (make, expected) in CASES.items():
        report = run_laws(make(), laws)
        broken = sorted(r.law for r in report.failures)
        yield name, broken, sorted(expected), str(report)


def verdicts_on_exports():
    """For every export the mesh laws that it breaks (it should break none) and how many hold."""
    for name in exports.checked():
        laws = {law: transformation_laws[law] for law in mutants.MESH if law in exports.laws_for(name)}
        report = run_laws(exports.transformation(name), laws)
        yield name, [r.law for r in report.failures], len(report.passed), str(report)


if __name__ == "__main__":
    gc.set_threshold(50_000, 20, 100)  # as in conftest.py
    jax.config.update("jax_num_cpu_devices", 8)
    json.dump({"items": list(verdicts()), "exports": list(verdicts_on_exports())}, sys.stdout)
