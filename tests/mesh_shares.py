"""Run by test_shares.py on eight CPU devices: whole matrices go where they are worked on, and the numbers are right."""

import itertools
import math
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from mesh_sharding import equivalent, per_device

import jaxopt_lite as jol
from jaxopt_lite import optimizers, shares
from jaxopt_lite.axes import names_of
from jaxopt_lite.optimizers.blocks import apart
from jaxopt_lite.sharding import state_shardings
from jaxopt_lite.shares import by_matrix

jax.config.update("jax_numpy_rank_promotion", "raise")
RNG = np.random.default_rng(0)
KINDS = r" (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?\("

LAYERS = {f"up{i}": (64, 128) for i in range(5)} | {f"out{i}": (64, 64) for i in range(8)}
LAYERS |= {"stack": (3, 64, 128), "lone": (256, 64), "bias": (64,)}


def muon_shares_its_matrices_out(*axis_types):
    """One exchange there and one back for each shape, one gather of the lone matrix, no sum of Gram matrices.

    And one gather back for each stack, whose copies on the other axis took part.
    """
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=axis_types)
    params = {name: jnp.asarray(RNG.normal(size=shape), jnp.float32) for name, shape in LAYERS.items()}
    spec = lambda x: P(*(None,) * (x.ndim - 2), "fsdp")
    places = jax.tree.map(lambda x: NamedSharding(mesh, spec(x)), params)
    for tx in [optimizers.muon(0.1), optimizers.normuon(0.1)]:
        expected, _ = jax.jit(tx.update)(params, tx.init(params), params)
        with jax.set_mesh(mesh):
            placed, shardings = jax.device_put(params, places), state_shardings(tx, params, places)
            state = jax.jit(tx.init, out_shardings=shardings)(placed)
            update = jax.jit(lambda *trees, tx=tx: tx.update(*trees)).lower(placed, state, placed).compile()
            updates, state = update(placed, state, placed)
            update(placed, state, placed)
        equivalent(updates, places)
        equivalent(state, shardings)
        for name in LAYERS:
            np.testing.assert_allclose(updates[name], expected[name], rtol=0, atol=2e-6)
        found = re.findall(KINDS, update.as_text())
        assert found.count("all-to-all") == 4, found
        assert found.count("all-gather") == 3, found
        assert len(found) == 7 or "normuon" in repr(tx), found  # whose norms are sums


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
        (8, (8, 8), P("fsdp", "data")),
        (1, (8, 8, 8), P(None, "fsdp", "data")),
        (1, (16, 16), P("fsdp", "data")),
        (3, (12, 20), P("fsdp", "data")),
    ]
    blocks = [  # that do not fit, with one of seven rows or columns filled up
        (1, (24, 40), P("data", "fsdp")),
        (8, (24, 12), P("data", "fsdp")),
        (1, (40, 7), P("fsdp")),
        (3, (7, 40), P(None, "fsdp")),
    ]
    for factory, some in [
        (optimizers.soap, cases[:-1]),  # beside rows of rank 12 the last's basis of 20 is arbitrary
        (optimizers.shampoo, cases if axis_type == AxisType.Auto else []),
        (in_blocks, cases[5:] + blocks),
    ]:
        # With a smaller ε Shampoo's roots of small eigenvalues are noise.
        large = {} if factory == optimizers.soap else {"eps": 1e-2}
        tx = factory(0.1, precondition_every=2, **large)
        for count, shape, spec in some:
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


GATHERS = "all-gather|all-reduce"
ROW = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
BOTH = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
TYPED_ROW = jax.make_mesh((8,), ("fsdp",))
THREE = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
TYPED = jax.make_mesh((2, 4), ("data", "fsdp"))
MIXED = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Explicit, AxisType.Auto))
INNER = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Explicit))
LONE, STACK = {f"layer{i}": (16, 32) for i in range(8)}, {"stack": (8, 16, 32)}
FACTORIES = optimizers.soap, optimizers.shampoo


def step_of(factory, mesh, shapes, spec, **options):
    """A compiled step, and the bytes of one device's state and of all."""
    tx = jol.chain(jol.clip_by_global_norm(1.0), factory(0.1, **options))
    params = {name: jnp.zeros(shape) for name, shape in shapes.items()}
    places = {name: NamedSharding(mesh, spec) for name in shapes}
    with jax.set_mesh(mesh):
        placed, shardings = jax.device_put(params, places), state_shardings(tx, params, places)
        state = jax.jit(tx.init, out_shardings=shardings)(placed)
        update = jax.jit(lambda *t: tx.update(*t), out_shardings=(places, shardings))
        text = update.lower(placed, state, placed).compile().as_text()
    return text, *per_device(state, shardings)


def results(text, kinds):
    """How many values each result of such collectives has on a device."""
    found = re.findall(rf" = (.*) (?:{kinds})(?:-start)?\(", text)
    shapes = re.findall(r"\w+\[([\d,]*)\]", " ".join(found))
    return [int(np.prod([int(n) for n in shape.split(",") if n])) for shape in shapes]


def matrices_split_by_rows_are_exchanged_not_gathered():
    """Each device gets whole matrices with their state, of a stack or of several leaves, and nothing of the others'."""
    cases = [(f, ROW, STACK, P(None, "fsdp")) for f in FACTORIES]
    cases += [(f, ROW, LONE, spec) for f in FACTORIES for spec in (P("fsdp"), P(None, "fsdp"))]
    cases += [(f, BOTH, LONE, P("fsdp", "data")) for f in FACTORIES]
    cases += [(optimizers.soap, BOTH, LONE, spec) for spec in (P("data", "fsdp"), P(("data", "fsdp")))]
    cases += [(f, mesh, STACK, P(None, "fsdp", "data")) for f in FACTORIES for mesh in (BOTH, TYPED, MIXED)]
    cases += [(optimizers.shampoo, INNER, STACK, P(None, "fsdp", "data"))]
    cases += [
        (optimizers.soap, BOTH, STACK, spec) for spec in (P("data", None, "fsdp"), P(None, ("data", "fsdp")))
    ]
    # In the mesh's order, in another, and in several steps.
    cases += [(optimizers.soap, THREE, STACK, P(None, ("data", "tensor"), "fsdp"))]
    cases += [(optimizers.shampoo, THREE, STACK, P(None, None, ("fsdp", "data", "tensor")))]
    cases += [(f, mesh, STACK, P(None, ("fsdp", "data"))) for f in FACTORIES for mesh in (BOTH, TYPED)]
    cases += [(optimizers.shampoo, TYPED, LONE, P(("fsdp", "data")))]
    cases += [(optimizers.shampoo, TYPED_ROW, STACK, P(None, "fsdp"))]
    cases += [(in_blocks, ROW, {f"layer{i}": (32, 32) for i in range(3)}, P("fsdp"))]
    cases += [(in_blocks, BOTH, {"six blocks": (16, 24)}, P(("data", "fsdp")))]
    for case in cases:
        text, here, total = step_of(*case)
        assert max(results(text, GATHERS), default=0) <= 8, case  # one number a matrix
        assert results(text, "all-to-all")
        assert here < total / 8 + 2048, (case, here, total)


def layouts_of(shape):
    """All that mesh axes have, in any order: they split the axes of an array, or hold copies of it."""
    for mesh in (BOTH, THREE):
        ends, seen = range(len(mesh.axis_names) + 1), set()
        for names in itertools.permutations(mesh.axis_names):
            for cuts in itertools.combinations_with_replacement(ends, len(shape)):
                starts = zip((0, *cuts), cuts, strict=False)
                spec = P(*(names[i:j] or None for i, j in starts))
                parts = [shares.count(mesh, names_of(entry)) for entry in spec]
                if spec not in seen and all(n % k == 0 for n, k in zip(shape, parts, strict=True)):
                    yield NamedSharding(mesh, spec)
                seen.add(spec)


def normed(x):
    return x / jnp.linalg.norm(x, axis=(-2, -1), keepdims=True)


def come_from_any_layout_without_a_gather(f, shape, filled=1.0):
    """Where there are copies each gathers what it keeps, filled up to so much; the numbers are right and in place."""
    x = jnp.asarray(RNG.normal(size=shape), jnp.float32)
    for place in layouts_of(shape):
        share = math.prod(place.shard_shape(shape))
        with jax.set_mesh(place.mesh):
            placed = jax.device_put(x, place)
            text, y = jax.jit(f).lower(placed).compile().as_text(), jax.jit(f)(placed)
        kept = filled * share if share > x.size / 8 else 0
        assert max(results(text, GATHERS), default=0) <= kept, place
        equivalent(y, place)
        np.testing.assert_allclose(y, f(x), rtol=1e-6)
        yield place, text


def batches_come_from_any_layout_without_a_gather():
    """In two exchanges for each mesh axis, there and back."""
    f = lambda x: by_matrix(normed, x)
    for place, text in come_from_any_layout_without_a_gather(f, (8, 16, 32)):
        assert len(re.findall(KINDS, text)) <= 2 * 2 * len(place.mesh.shape), place


def blocks_come_from_any_layout_without_a_gather():
    """Of a matrix whose parts end within blocks, where devices do not divide its sides either, or whose blocks fit."""
    for shape, size, filled in [((24, 40), 8, 1), ((44, 56), 6, 48 / 44), ((32, 32), 8, 1)]:

        def f(x, size=size):
            blocks, back = apart(x, size)
            return back(by_matrix(normed, blocks))

        assert len(list(come_from_any_layout_without_a_gather(f, shape, filled))) > 50


def copies_share_the_work():
    """Of what lies on the other axis too, each does a part, and then gathers what it keeps, but no more."""
    cases = [(f, BOTH, LONE, P("fsdp")) for f in FACTORIES]
    cases += [(optimizers.soap, mesh, STACK, P(None, "fsdp")) for mesh in (BOTH, TYPED)]
    for case in cases:
        text, here, total = step_of(*case)
        largest = 8 * 32 * 32 / 4  # of eight matrices the larger squares
        assert 8 < max(results(text, GATHERS)) <= largest, case
        if case[0] is optimizers.soap:
            # A device's part of gradient, moments, averages and bases, there and back; parameters of leaves go there.
            there = 3 * 16 * 32 + 2 * (16 * 16 + 32 * 32)
            moved = sum(n for n in results(text, "all-to-all|collective-permute") if n > 8)
            assert moved == 2 * there + (16 * 32 if case[2] is LONE else 0), case
        assert here < total / 4 + 2048, (case, here, total)
    text, *_ = step_of(optimizers.soap, MIXED, STACK, P(None, "fsdp"))  # whole, as far as types tell
    assert set(re.findall(r"= \(?f32\[(\d+),.* custom-call\(.*lapack_\w*(?:syevd|geqrf)", text)) == {"1"}


def results_lie_where_they_did():
    """Updates beside gradients and state beside state, though no one says so to ``jit``."""
    cases = [(ROW, {"lone": (16, 32)}, P("fsdp")), (ROW, {"lone": (16, 32)}, P(None, "fsdp"))]
    cases += [(ROW, LONE, P("fsdp")), (BOTH, LONE, P("fsdp")), (BOTH, STACK, P(("data", "fsdp")))]
    cases += [(BOTH, STACK, P(None, "fsdp", "data")), (BOTH, STACK, P(None, "fsdp"))]
    mixed = [(MIXED, LONE, P("fsdp", "data")), (MIXED, LONE, P("data")), (INNER, LONE, P("data"))]
    for factory, some in [(optimizers.soap, cases), (optimizers.shampoo, cases + mixed)]:
        for mesh, shapes, spec in some:
            tx, params = factory(0.1), {name: jnp.ones(shape) for name, shape in shapes.items()}
            places = {name: NamedSharding(mesh, spec) for name in shapes}
            with jax.set_mesh(mesh):
                placed, shardings = jax.device_put(params, places), state_shardings(tx, params, places)
                updates, state = jax.jit(tx.update)(
                    placed, jax.jit(tx.init, out_shardings=shardings)(placed), placed
                )
            equivalent(updates, places)
            equivalent(state, shardings)
    # Whole along the automatic axis, and stays so.
    for mesh, spec in [(MIXED, P("data")), (INNER, P("fsdp"))]:
        tx, params = in_blocks(0.1), {"lone": jnp.ones((32, 32))}
        with jax.set_mesh(mesh):
            placed = jax.device_put(params, NamedSharding(mesh, spec))
            shardings = state_shardings(tx, params, {"lone": NamedSharding(mesh, spec)})
            state = jax.jit(tx.init, out_shardings=shardings)(placed)
            equivalent(jax.jit(tx.update)(placed, state, placed)[1], shardings)


def blocks_stay_where_they_are():
    """As many as devices, or more: of each of eight matrices only gradient, momentum and update are exchanged.

    Not at all where devices hold just their blocks; once there and once back where rows are split by all axes in
    order; else they are so first, which is one exchange or, in another order, two.
    """
    for mesh, spec, exchanges in [
        (ROW, P("fsdp"), 1),
        (BOTH, P(("data", "fsdp")), 1),
        (TYPED, P("fsdp", "data"), 0),
        (BOTH, P("fsdp", "data"), 3),
    ]:
        text, *_ = step_of(in_blocks, mesh, {f"layer{i}": (32, 32) for i in range(8)}, spec)
        moved = results(text, "all-to-all|collective-permute")
        assert sum(n for n in moved if n > 8) == exchanges * 8 * 3 * 32 * 32 / 8, (mesh, spec)
        assert max(results(text, GATHERS)) <= 16  # one number a block


def batches_of_matrices_in_blocks_are_exchanged():
    """Also where blocks cross the cuts: what travels is whole matrices, and squares stay."""
    columns, rows = P(None, None, ("data", "fsdp")), P(None, ("fsdp", "data"))
    for mesh, spec, moves in [
        (BOTH, P(None, "fsdp", "data"), 2),
        (TYPED, P(None, "data", "fsdp"), 2),
        (BOTH, columns, 1),
        (BOTH, rows, 2),
        (TYPED, rows, 1),
    ]:
        text, here, total = step_of(in_blocks, mesh, STACK, spec)
        assert max(results(text, GATHERS), default=0) <= 64, (mesh, spec)  # one number a block
        moved = sum(n for n in results(text, "all-to-all") if n > 8)  # the others are norms
        assert moved == moves * 3 * 16 * 32, (mesh, spec)
        assert here < total / 8 + 2048
    for spec, size in itertools.product([P(None, "fsdp", "data"), rows, columns], [8, 16]):
        text, here, total = step_of(in_blocks, BOTH, {"stack": (8, 24, 40)}, spec, block_size=size)
        assert max(results(text, GATHERS)) <= 64, (spec, size)
        assert here < total / 8 + 2048


def blocks_that_do_not_fit_are_exchanged():
    """Of a matrix of which devices hold parts that end within blocks, as many as devices or fewer."""
    over_both = P(("data", "fsdp")), P("fsdp", "data"), P(None, ("fsdp", "data"))
    for mesh, spec, size in itertools.product((BOTH, TYPED), over_both, (8, 16)):
        text, here, total = step_of(in_blocks, mesh, {"lone": (24, 40)}, spec, block_size=size)
        assert max(results(text, GATHERS), default=0) <= 16, (mesh, spec, size)  # one number a block
        assert here < total / 8 + 2048


def in_blocks(learning_rate, block_size=8, **options):
    return optimizers.shampoo(learning_rate, block_size=block_size, **options)


def what_every_device_holds_is_not_exchanged():
    mesh, tx = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Explicit,)), optimizers.soap(0.1)
    for params in ([jnp.zeros((16, 32)), jnp.zeros((16, 32)), jnp.zeros(16)], [jnp.zeros((8, 16, 32))]):
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


def numbers():
    for axis_types in itertools.product((AxisType.Auto, AxisType.Explicit), repeat=2):
        muon_shares_its_matrices_out(*axis_types)
    decompositions_are_shared_out(AxisType.Auto)
    decompositions_are_shared_out(AxisType.Explicit)
    what_every_device_holds_is_not_exchanged()
    a_stack_is_made_only_where_every_rule_takes_one()


def places():
    matrices_split_by_rows_are_exchanged_not_gathered()
    copies_share_the_work()
    results_lie_where_they_did()
    blocks_stay_where_they_are()
    batches_of_matrices_in_blocks_are_exchanged()
    blocks_that_do_not_fit_are_exchanged()


PARTS = {
    "layouts": batches_come_from_any_layout_without_a_gather,
    "blocks": blocks_come_from_any_layout_without_a_gather,
    "numbers": numbers,
    "places": places,
}

if __name__ == "__main__":
    PARTS[sys.argv[1]]()
