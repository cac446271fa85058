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


LAYERS = {f"up{i}": (64, 128) for i in range(5)} | {f"out{i}": (64, 64) for i in range(8)}
LAYERS |= {"stack": (3, 64, 128), "lone": (256, 64), "bias": (64,)}


def muon_shares_its_matrices_out(axis_type):
    """One exchange there and one back for each shape, one gather of the lone matrix, no sum of Gram matrices."""
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(axis_type,) * 2)
    params = {name: jnp.asarray(RNG.normal(size=shape), jnp.float32) for name, shape in LAYERS.items()}
    spec = lambda x: P(*(None,) * (x.ndim - 2), "fsdp")
    places = jax.tree.map(lambda x: NamedSharding(mesh, spec(x)), params)
    for tx in [optimizers.muon(0.1), optimizers.normuon(0.1)][: 2 if axis_type == AxisType.Auto else 1]:
        expected, _ = jax.jit(tx.update)(params, tx.init(params), params)
        with jax.set_mesh(mesh):
            placed, shardings = jax.device_put(params, places), state_shardings(tx, params, places)
            state = jax.jit(tx.init, out_shardings=shardings)(placed)
            update = jax.jit(lambda *trees, tx=tx: tx.update(*trees)).lower(placed, state, placed).compile()
            updates, state = update(placed, state, placed)
            update(placed, state, placed)
        equivalent(state, shardings)
        for name in LAYERS:
            np.testing.assert_allclose(updates[name], expected[name], rtol=0, atol=2e-6)
        found = re.findall(KINDS, update.as_text())
        gathers = 3 if axis_type == AxisType.Explicit else 1  # updates come back where their gradient lay
        assert found.count("all-to-all") == 4, found
        assert found.count("all-gather") == gathers, found
        assert len(found) == 4 + gathers or "normuon" in repr(tx), found  # whose norms are sums


def decompositions_are_shared_out(axis_type):
    """A stack split by layers never leaves its devices; those split by rows, two leaves or a lone one are as right."""
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(axis_type,) * 2)
    layers = P(("data", "fsdp"))
    cases = [
        (1, (8, 8, 8), layers),
        (2, (8, 8, 8), layers),
        (1, (8, 8, 8), P(None, "fsdp")),
        (2, (8, 8), P("fsdp")),
        (1, (8, 8), P("fsdp")),
    ]
    for factory in (optimizers.soap, optimizers.shampoo)[: 2 if axis_type == AxisType.Auto else 1]:
        tx = factory(0.1, precondition_every=2)
        for count, shape, spec in cases[: 5 if factory == optimizers.soap else 3]:
            random = lambda shape=shape, count=count: [
                jnp.asarray(RNG.normal(size=shape), jnp.float32) for _ in range(count)
            ]
            params, places = random(), [NamedSharding(mesh, spec)] * count
            expected, before = tx.init(params), jax.jit(tx.update)
            with jax.set_mesh(mesh):
                placed, shardings = jax.device_put(params, places), state_shardings(tx, params, places)
                state = jax.jit(tx.init, out_shardings=shardings)(placed)
                update = jax.jit(lambda *t, tx=tx: tx.update(*t), out_shardings=(places, shardings))
                update = update.lower(placed, state, placed).compile()
            for _ in range(3):
                # New ones each time: in its own basis a gradient has zeros, whose rounding errors Adam blows up.
                grads = random()
                got, state = update(jax.device_put(grads, places), state, placed)
                want, expected = before(grads, expected, params)
                for x, y in zip(got, want, strict=True):
                    np.testing.assert_allclose(x, y, rtol=0, atol=1e-4)
            if spec == layers:
                assert re.findall(KINDS, update.as_text()) == [], (factory, axis_type)


def matrices_split_by_rows_are_exchanged_not_gathered():
    """Each device gets whole matrices with their state, of a stack or of several leaves, and nothing of the others'."""
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
    tx = jol.chain(jol.clip_by_global_norm(1.0), optimizers.soap(0.1))
    lone = {f"layer{i}": (16, 32) for i in range(8)}
    for shapes, spec in [
        ({"stack": (8, 16, 32)}, P(None, "fsdp")),
        (lone, P("fsdp")),
        (lone, P(None, "fsdp")),
    ]:
        params = {name: jnp.zeros(shape) for name, shape in shapes.items()}
        places = {name: NamedSharding(mesh, spec) for name in shapes}
        with jax.set_mesh(mesh):
            placed, shardings = jax.device_put(params, places), state_shardings(tx, params, places)
            state = jax.jit(tx.init, out_shardings=shardings)(placed)
            update = jax.jit(lambda *t: tx.update(*t), out_shardings=(places, shardings))
            text = update.lower(placed, state, placed).compile().as_text()
        sums = re.findall(r" = (.*) (?:all-gather|all-reduce)(?:-start)?\(", text)
        results = re.findall(r"\w+\[([\d,]*)\]", " ".join(sums))
        sizes = [np.prod([int(n) for n in shape.split(",") if n]) for shape in results]
        assert max(sizes, default=0) <= 8, (shapes, spec, sums)  # one number a matrix
        assert "all-to-all" in text


def leaves_that_every_device_holds_are_not_exchanged():
    mesh, tx = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Explicit,)), optimizers.soap(0.1)
    params = [jnp.zeros((16, 32)), jnp.zeros((16, 32))]
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, NamedSharding(mesh, P()))
        text = jax.jit(tx.update).lower(placed, tx.init(placed), placed).compile().as_text()
    assert re.findall(KINDS, text) == []


def a_stack_is_made_only_where_every_rule_takes_one():
    """Two leaves, and after soap a rule that looks at each of them as a whole."""
    params = {
        name: jnp.asarray(RNG.normal(size=(8, 16)) * size, jnp.float32) for name, size in [("a", 1), ("b", 9)]
    }
    tx = jol.chain(
        optimizers.scale_by_soap(), optimizers.add_decayed_weights(0.1), optimizers.scale_by_trust_ratio()
    )
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
    expected, state = tx.init(params), tx.init(params)
    for _ in range(2):
        grads = jax.tree.map(lambda x: jnp.asarray(RNG.normal(size=x.shape), jnp.float32), params)
        want, expected = jax.jit(tx.update)(grads, expected, params)
        with jax.set_mesh(mesh):
            got, state = jax.jit(lambda *t: tx.update(*t))(grads, state, params)
        for name in params:
            np.testing.assert_allclose(got[name], want[name], rtol=0, atol=1e-4)


KINDS = r" (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?\("


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
    muon_shares_its_matrices_out(AxisType.Auto)
    muon_shares_its_matrices_out(AxisType.Explicit)
    decompositions_are_shared_out(AxisType.Auto)
    decompositions_are_shared_out(AxisType.Explicit)
    matrices_split_by_rows_are_exchanged_not_gathered()
    leaves_that_every_device_holds_are_not_exchanged()
    a_stack_is_made_only_where_every_rule_takes_one()
    zero_keeps_a_training_step_whole()
    a_scan_keeps_them()
