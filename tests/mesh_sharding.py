"""Run by test_sharding.py on eight CPU devices: state lies where it should, stays there, and the numbers are right."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxopt_lite as jol
from jaxopt_lite import optimizers
from jaxopt_lite.precision import quantize_state
from jaxopt_lite.sharding import state_shardings, zero_shardings

jax.config.update("jax_numpy_rank_promotion", "raise")
MESH = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
RNG = np.random.default_rng(0)
SHAPES = {"kernel": (256, 512), "square": (256, 256), "bias": (64,), "scale": (), "odd": (5, 3)}
SPECS = {
    "kernel": P("data", "model"),
    "square": P(None, "model"),
    "bias": P("data"),
    "scale": P(),
    "odd": P(),
}
WHOLE = dict.fromkeys(SHAPES, P())

CASES = {
    "adam": jol.adam(1e-3),
    "clip and adamw": jol.chain(jol.clip_by_global_norm(1.0), jol.adamw(1e-3)),
    "adafactor": optimizers.adafactor(1e-3),
    "sm3": optimizers.sm3(1e-3),
    "int8": quantize_state(jol.adamw(1e-3)),
}


def random_tree():
    return {name: jnp.asarray(RNG.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()}


def named(specs):
    return {name: NamedSharding(MESH, spec) for name, spec in specs.items()}


def equivalent(got, expected):
    """Every array of ``got`` lies as ``expected`` says."""
    leaves = jax.tree_util.tree_flatten_with_path(got)[0]
    for (path, array), sharding in zip(leaves, jax.tree.leaves(expected), strict=True):
        assert array.sharding.is_equivalent_to(sharding, array.ndim), (
            path,
            array.sharding.spec,
            sharding.spec,
        )


def per_device(state, shardings):
    """Bytes of the state on one device, and in all."""
    leaves, places = jax.tree.leaves(state), jax.tree.leaves(shardings)
    here = sum(
        np.prod(s.shard_shape(x.shape)) * x.dtype.itemsize for x, s in zip(leaves, places, strict=True)
    )
    return int(here), sum(x.size * x.dtype.itemsize for x in leaves)


def one(name, params, grads, specs, shardings):
    """Init straight into the shardings, two updates without ``out_shardings``: kept, and right."""
    tx = CASES[name]
    placed, gradients = jax.device_put(params, named(specs)), jax.device_put(grads, named(specs))
    init = jax.jit(tx.init, out_shardings=shardings).lower(placed).compile()
    memory, (here, total) = init.memory_analysis(), per_device(jax.eval_shape(tx.init, params), shardings)
    pointers = 8 * len(jax.tree.leaves(shardings))  # XLA returns a tuple
    assert memory.output_size_in_bytes <= here + pointers, (memory.output_size_in_bytes, here)
    assert memory.temp_size_in_bytes < total / 4, (memory.temp_size_in_bytes, total)
    state = init(placed)
    equivalent(state, shardings)

    update = jax.jit(lambda *trees: tx.update(*trees)).lower(gradients, state, placed).compile()
    updates, state = update(gradients, state, placed)
    equivalent(state, shardings)
    update(gradients, state, placed)  # a compiled program takes no other shardings than step 1's
    return updates, update.as_text(), here, total


def everything():
    params, grads = random_tree(), random_tree()
    for name, tx in CASES.items():
        expected, _ = jax.jit(tx.update)(grads, tx.init(params), params)
        shardings = state_shardings(tx, params, named(SPECS))
        updates, text, here, total = one(name, params, grads, SPECS, shardings)
        close(updates, expected)
        assert not re.search(r"\b(all-gather|all-to-all)", text), name
        if name == "adam":
            assert not re.search(r"\b(all-reduce|reduce-scatter|collective-permute)", text), name
        if name in ("adam", "adafactor", "int8"):
            zero = zero_shardings(tx, jax.device_put(params, named(WHOLE)), MESH, ("data", "model"))
            updates, _, here, total = one(name, params, grads, WHOLE, zero)
            close(updates, expected)
            assert here < total / 8 + 4096, (name, here, total)


def close(got, expected):
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-9)


def zero_keeps_a_training_step_whole():
    """Parameters replicated, state spread: the step of ZeRO-1, with the gradients' sum and one gather."""
    tx, params = jol.adam(1e-2), {"w": jnp.asarray(RNG.normal(size=(64, 8)), jnp.float32)}
    batch = jnp.asarray(RNG.normal(size=(16, 64)), jnp.float32)
    step = jol.make_step(lambda p, x: jnp.mean((x @ p["w"]) ** 2), tx, donate=False)
    everywhere = {"w": NamedSharding(MESH, P())}
    zero = zero_shardings(tx, params, MESH, "data")
    assert zero[0].mu["w"].spec == P("data")
    spread = jax.jit(step, out_shardings=(everywhere, zero, None))
    placed, state = jax.device_put(params, everywhere), jax.jit(tx.init, out_shardings=zero)(params)
    shared, whole = jax.device_put(batch, NamedSharding(MESH, P("data"))), (params, tx.init(params))
    for _ in range(3):
        placed, state, _ = spread(placed, state, shared)
        *whole, _ = step(*whole, batch)
    equivalent(placed, everywhere)
    equivalent(state, zero)
    np.testing.assert_allclose(placed["w"], whole[0]["w"], rtol=1e-5, atol=1e-6)


def a_scan_keeps_them():
    tx, params = jol.adamw(1e-3), random_tree()
    placed = jax.device_put(params, named(SPECS))
    shardings = state_shardings(tx, params, named(SPECS))
    state = jax.jit(tx.init, out_shardings=shardings)(placed)

    @jax.jit
    def steps(params, state):
        def body(carry, _):
            updates, state = tx.update(carry[0], carry[1], carry[0])
            return (jol.apply_updates(carry[0], updates), state), None

        return jax.lax.scan(body, (params, state), length=3)[0]

    moved, state = steps(placed, state)
    equivalent(moved, named(SPECS))
    equivalent(state, shardings)
    assert "all-gather" not in steps.lower(placed, state).compile().as_text()


def shards_are_clipped_by_their_joint_norm():
    tree = {name: x for name, x in random_tree().items() if x.ndim and len(x) % 8 == 0}
    expected, _ = jol.clip_by_global_norm(1.0).update(tree, ())
    for axes, spec in [("data", P("data")), (("data", "model"), P(("data", "model")))]:
        tx = jol.clip_by_global_norm(1.0, axis_name=axes)
        local = jax.shard_map(lambda g, tx=tx: tx.update(g, ())[0], mesh=MESH, in_specs=spec, out_specs=spec)
        close(jax.jit(local)(tree), expected)


if __name__ == "__main__":
    everything()
    shards_are_clipped_by_their_joint_norm()
    zero_keeps_a_training_step_whole()
    a_scan_keeps_them()
