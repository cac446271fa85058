"""Laws about compiled programs: eight devices, communication and memory."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxopt_lite.sharding import state_shardings
from jaxopt_lite.testing import trees
from jaxopt_lite.testing.compare import expect, expect_close, paths, temporary_bytes
from jaxopt_lite.testing.report import NotRun
from jaxopt_lite.testing.transformation_case import TransformationCase as Case

DEVICES = 8
COLLECTIVE = re.compile(r" (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?\(")
SLACK_BYTES = 4096
LEAF, LARGE_LEAF = (256, 512), (4096, 4096)  # accelerators' libraries take 32 MiB for any product of matrices


def _sharded(case: Case) -> dict[str, Any]:
    """One compiled update of parameters split over eight devices along their first axis."""
    if len(jax.devices()) < DEVICES:
        raise NotRun(f"needs {DEVICES} devices, this process has {len(jax.devices())}")
    return case.remember("sharded", lambda: _compile_sharded(case))


def _split(tree: Any, mesh: Mesh) -> Any:
    """Shardings that split a first axis of a multiple of eight entries; other arrays are whole everywhere."""
    spec = lambda x: PartitionSpec("data") if x.ndim and x.shape[0] % DEVICES == 0 else PartitionSpec()
    return jax.tree.map(lambda x: NamedSharding(mesh, spec(x)), tree)


def _compile_sharded(case: Case) -> dict[str, Any]:
    """The state lies where `state_shardings` puts it: moments with their parameter, what is no parameter's whole."""
    mesh = Mesh(np.array(jax.devices()[:DEVICES]), ("data",))
    params = trees.from_shapes({"bias": (16,), "kernel": (8, 16)})
    grads, state, split = case.gradients(1, params)[0], case.tx.init(params), _split(params, mesh)
    places = split, state_shardings(case.tx, params, split), split
    arguments = jax.device_put((grads, state, params), places)
    with jax.set_mesh(mesh):
        compiled = jax.jit(case.update).lower(*arguments).compile()
        updates, after = compiled(*arguments)
    return {
        "updates": updates, "before": arguments[1], "after": after, "text": compiled.as_text(),
        "expected": case.run([grads], params, state, move=False).updates[0],
    }  # fmt: skip


def sharded_equals_unsharded(case: Case) -> None:
    """Parameters split over eight devices give the updates of one device: no norm or mean over a shard only."""
    done = _sharded(case)
    expect_close(done["updates"], done["expected"], "the sharded update", rtol=1e-4)


def sharding_kept(case: Case) -> None:
    """A jitted update returns the state sharded as it came, without ``out_shardings``: it would be moved each step."""
    done = _sharded(case)
    for (path, after), before in zip(paths(done["after"]), jax.tree.leaves(done["before"]), strict=True):
        same = after.sharding.is_equivalent_to(before.sharding, before.ndim)
        evidence = {"got": after.sharding, "expected": before.sharding}
        expect(same, f"the sharding of the state changes at {path}", **evidence)


def collectives_within_budget(case: Case) -> None:
    """[elementwise: none; else claim collectives<=n] A rule that needs no other device talks to none."""
    budget = case.claims.budgets.get("collectives", 0 if "elementwise" in case.claims else None)
    if budget is None:
        raise NotRun("needs the claim elementwise or collectives<=n")
    found = COLLECTIVE.findall(_sharded(case)["text"])
    expect(
        len(found) <= budget, "too much communication", input="8 devices", got=found, expected=f"≤ {budget:g}"
    )


def temporaries_within_budget(case: Case) -> None:
    """[elementwise: 1; else 16] A donated step's scratch memory, in parameter sizes: copies decide what fits."""
    budget = case.claims.budgets.get("temporaries", 1.0 if "elementwise" in case.claims else 16.0)
    params = {"kernel": jnp.ones(LEAF if jax.default_backend() == "cpu" else LARGE_LEAF, jnp.float32)}
    state = case.tx.init(params)
    step = jax.jit(case.update_and_apply, donate_argnums=(0, 1))
    scratch = temporary_bytes(step.lower(params, state, params).compile())
    used = max(scratch - SLACK_BYTES, 0) / params["kernel"].nbytes
    expect(
        used <= budget,
        "too much temporary memory",
        input=f"a {params['kernel'].shape} leaf",
        got=used,
        expected=f"≤ {budget:g}",
    )
