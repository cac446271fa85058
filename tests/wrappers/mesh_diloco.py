"""Run by test_diloco.py on eight CPU devices: workers under shard_map, and what travels between them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxopt_lite as jol
from jaxopt_lite.precision import int8_codec
from jaxopt_lite.wrappers.diloco import diloco

jax.config.update("jax_numpy_rank_promotion", "raise")
MESH = jax.make_mesh((8,), ("workers",), axis_types=(AxisType.Auto,))
WORKERS = NamedSharding(MESH, P("workers"))
TARGETS = jnp.asarray(np.random.default_rng(0).normal(size=(8, 16, 128)), jnp.float32)


def own(tree):
    return jax.tree.map(lambda x: x[0], tree)


def back(tree):
    return jax.tree.map(lambda x: x[None], tree)


def make(codec=None, axis_name="workers"):
    outer = jol.sgd(0.7, momentum=0.9, nesterov=True)
    return diloco(jol.adam(0.05), outer, sync_every=2, axis_name=axis_name, codec=codec)


def program(tx, check_vma):
    def step(params, state, target):
        updates, state = tx.update(own(params) - own(target), own(state), own(params))
        return back(jol.apply_updates(own(params), updates)), back(state)

    spec = P("workers")
    return jax.jit(jax.shard_map(step, mesh=MESH, in_specs=spec, out_specs=spec, check_vma=check_vma))


def run(tx, steps=4, check_vma=True):
    params = jax.device_put(jnp.zeros_like(TARGETS), WORKERS)
    state = jax.device_put(jax.vmap(tx.init)(params), WORKERS)
    compiled = program(tx, check_vma).lower(params, state, TARGETS).compile()
    states = [params]
    for _ in range(steps):
        params, state = compiled(params, state, jax.device_put(TARGETS, WORKERS))
        states.append(params)
    return states, compiled.as_text()


def travelling(text):
    """(computation, bytes) of every collective."""
    where, found = "", []
    for line in text.splitlines():
        if opened := re.match(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            where = opened.group(1)
        kinds = r"all-reduce|all-gather|collective-permute|all-to-all|reduce-scatter"
        if call := re.search(rf"= (.*?) ({kinds})(?:-start)?\(", line):
            width = {"f32": 4, "s8": 1, "u8": 1, "s32": 4}
            arrays = re.findall(r"(\w+)\[([\d,]*)\]", call.group(1))
            sizes = [
                width[kind] * int(np.prod([int(n) for n in shape.split(",") if n])) for kind, shape in arrays
            ]
            gathered = 8 if call.group(2) == "all-gather" else 1
            found.append((where, sum(sizes) // gathered))
    return found


def exact():
    states, text = run(make())
    vmapped = jax.jit(jax.vmap(lambda p, s, t: make().update(p - t, s, p), axis_name="workers"))
    params = jnp.zeros_like(TARGETS)
    state = jax.vmap(make().init)(params)
    for k in range(4):
        updates, state = vmapped(params, state, TARGETS)
        params = params + updates
        np.testing.assert_allclose(states[k + 1], params, rtol=1e-5, atol=1e-6)
    apart = [float(jnp.ptp(s, axis=0).max()) for s in states]
    assert min(apart[1], apart[3]) > 1e-2, "alone"
    assert max(apart[2], apart[4]) < 1e-6, "together again"
    (place, size), *others = travelling(text)
    assert not others, "one exchange"
    assert "main" not in place, "and only inside a branch"
    assert size == TARGETS[0].nbytes
    for got, same in zip(states, run(make(), check_vma=False)[0], strict=True):
        np.testing.assert_array_equal(got, same)


def in_eight_bits():
    states, text = run(make(int8_codec()))
    for got, true in zip(states, run(make())[0], strict=True):
        np.testing.assert_allclose(got, true, atol=2e-2)
    assert float(jnp.ptp(states[4], axis=0).max()) < 1e-6
    found = travelling(text)
    assert all("main" not in place for place, _ in found)
    assert sum(size for _, size in found) <= 0.26 * TARGETS[0].nbytes, found


if __name__ == "__main__":
    exact()
    in_eight_bits()
