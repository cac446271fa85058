import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxopt_lite as jol
from jaxopt_lite import optimizers
from jaxopt_lite.precision import quantize_state
from jaxopt_lite.sharding import state_shardings, zero_shardings

MESH = AbstractMesh((4, 2), ("data", "model"))


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def on(*spec, **options):
    return NamedSharding(MESH, P(*spec), **options)


def specs(shardings):
    return jax.tree.map(lambda s: s.spec, shardings)


def found(tx, params, spec):
    """The specs of the state of one parameter."""
    return specs(state_shardings(tx, params, on(*spec)))


def test_a_tree_like_the_state():
    params = {"w": shape(8, 6), "b": shape(4, dtype=jnp.bfloat16), "none": None, "empty": shape(0, 3)}
    places = {"w": on("data", "model"), "b": on("model"), "none": None, "empty": on()}
    for tx in (
        jol.adam(1e-3),
        optax.adamw(1e-3),
        jol.named_chain(("a", jol.sgd(0.1, 0.9)), ("b", jol.clip(1.0))),
    ):
        state, got = jax.eval_shape(tx.init, params), state_shardings(tx, params, places)
        assert jax.tree.structure(state) == jax.tree.structure(got)
        assert all(isinstance(s, NamedSharding) for s in jax.tree.leaves(got))
    adam = state_shardings(jol.adam(1e-3), params, places)[0]
    assert specs(adam.mu) == specs(adam.nu) == specs(places)
    assert adam.count.spec == P()


@pytest.mark.parametrize("adafactor", [optimizers.adafactor, optax.adafactor])
def test_rows_and_columns_of_a_square_matrix(adafactor):
    factored = found(adafactor(1e-3, momentum=0.9), shape(256, 256), ("data", "model"))[0]
    assert factored.v_row == P("data")  # the means over columns, one for each row
    assert factored.v_col == P("model")
    assert factored.v == P()
    tall = found(adafactor(1e-3), shape(4, 512, 256), ("model", "data"))[0]
    assert {tall.v_row, tall.v_col} == {P("model"), P("model", "data")}


@pytest.mark.parametrize("sm3", [optimizers.sm3, optax.sm3])
def test_one_accumulator_per_axis(sm3):
    for params in (shape(16, 16, 8), (shape(16, 16, 8),)):
        state = found(sm3(1e-3), params, ("data", None, "model"))[0]
        assert state.mu in ([P("data"), P(), P("model")], ([P("data"), P(), P("model")],))


def test_blocks_and_broadcast_axes():
    mini = found(optimizers.adam_mini(1e-3), shape(64, 64), ("data", "model"))[0]
    assert (mini.mu, mini.nu) == (P("data", "model"), P(None, "model"))
    quantised = found(quantize_state(jol.adam(1e-3)), shape(256, 512), ("data", "model"))[0].mu.stored
    assert quantised.numbers == quantised.scale == P("data", "model")  # tiles of 8 × 128: [32, 4]
    small = found(quantize_state(jol.adam(1e-3)), shape(24, 512), ("data", "model"))[0].mu.stored
    assert (small.numbers, small.scale) == (P("data", "model"), P(None, "model"))  # 3 tiles on 4 devices
    memory = found(optax.lbfgs(), shape(12, 8), ("data", "model"))[0]
    assert memory.diff_params_memory == P(None, "data", "model")


def test_squares_beside_a_matrix():
    """A device has its share of them, also where only the other side of the matrix is split."""
    rows, columns = (found(optimizers.soap(0.1), shape(256, 512), s)[0] for s in [("data",), (None, "data")])
    assert rows.left == rows.left_basis == columns.right == P(None, "data")
    assert rows.right == columns.left == columns.left_basis == P("data")
    for spec in [("data", "model"), ("data",), (None, "data")]:
        state = found(optimizers.shampoo(0.1, block_size=64), shape(256, 512), spec)[0]
        expected = P(tuple(filter(None, spec)))  # 32 blocks
        assert state.left == state.right == state.left_root == state.right_root == expected
    state = found(optimizers.shampoo(0.1), shape(256, 512), ("data", "model"))[0]  # one block
    assert state.left == state.right_root == P(None, ("data", "model"))
    few = found(optimizers.shampoo(0.1, block_size=128), shape(256, 256), ("data", "model"))[0]  # four
    assert few.left == few.right_root == P(None, ("data", "model"))
    odd = found(optimizers.shampoo(0.1, block_size=4), shape(12, 4), ("data", "model"))[0]  # three
    assert odd.left == P(None, "data", "model")
    assert found(optimizers.shampoo(0.1), shape(8, 256, 512), (None, "data"))[0].left == P("data")
    assert found(optimizers.shampoo(0.1), shape(8, 256, 512), ("model",))[0].scale == P("model")


@pytest.mark.parametrize(("types", "expected"), [("AA", "ab"), ("EE", "ba"), ("AE", "ba"), ("EA", "ab")])
def test_blocks_are_split_in_an_order_that_jit_keeps(types, expected):
    """That in which ``shares`` goes through the axes."""
    kinds = tuple(AxisType.Explicit if kind == "E" else AxisType.Auto for kind in types)
    mesh = AbstractMesh((4, 2), ("a", "b"), axis_types=kinds)
    state = state_shardings(
        optimizers.shampoo(0.1), shape(8, 16, 32), NamedSharding(mesh, P(None, "b", "a"))
    )[0]
    assert state.left.spec == state.scale.spec == P(tuple(expected))


def test_containers_do_not_mislead():
    """Lists of parameters beside lists in the state, tuples beside the chain's tuple, names within names."""
    state = found(optimizers.sm3(1e-3), [shape(16, 8), shape(8, 16)], ("data", "model"))[0]
    assert state.mu == [[P("data"), P("model")]] * 2
    params = (shape(8, 4), {"w": shape(8), "x": {"w": shape(4, 8)}})
    places = (on("data"), {"w": on("model"), "x": {"w": on(None, "data")}})
    for tx in (jol.adam(1e-3), optax.adam(1e-3), jol.tunable(jol.adam, learning_rate=1e-3)):
        mu = [x for x in jax.tree.leaves(specs(state_shardings(tx, params, places))) if x != P()]
        assert mu == [P("data"), P("model"), P(None, "data")] * 2


def test_masks_partitions_and_functions_of_the_parameters():
    params, places = {"a": shape(8, 4), "b": shape(8)}, {"a": on("data"), "b": on("model")}
    masked = jol.masked(jol.adam(1e-3), lambda p: {"a": True, "b": False})
    assert state_shardings(masked, params, places).inner_state[0].mu["a"].spec == P("data")
    by_path = jol.partition({"x": jol.adam(1e-3), "y": jol.sgd(0.1, 0.9)}, {"a$": "x", "b$": "y"})
    looking = optax.partition(
        {"x": optax.adam(1e-3), "y": optax.sgd(0.1, 0.9)},
        lambda p: {k: "x" if x.ndim == 2 else "y" for k, x in p.items()},
    )
    for tx in (by_path, looking):
        inner = state_shardings(tx, params, places).inner_states
        assert inner["x"].inner_state[0].nu["a"].spec == P("data")
        assert inner["y"].inner_state[0].trace["b"].spec == P("model")


def test_what_is_of_no_parameter_is_replicated_or_spread():
    tx = optax.flatten(optax.adam(1e-3))
    params = {"a": shape(8, 4), "b": shape(8)}
    assert state_shardings(tx, params, on("data"))[0].mu.spec == P()
    assert zero_shardings(tx, params, MESH, "data")[0].mu.spec == P("data")


def test_axes_that_do_not_divide_are_left_out():
    assert found(jol.adam(1e-3), shape(8, 3), ("data", None))[0].mu == P("data")
    assert found(optimizers.adam_mini(1e-3), shape(8), ("data",))[0].nu == P()


def test_zero_takes_the_longest_free_axis():
    where = lambda *sizes, **options: (
        zero_shardings(jol.adam(1e-3), shape(*sizes), MESH, options.get("axis", "data"))[0].mu.spec
    )
    assert where(8, 16) == P(None, "data")
    assert where(8, 6) == P("data")
    assert where(5, 3) == where() == where(0, 3, 1) == P()
    assert where(16, 3, axis=("data", "model")) == P(("data", "model"))


def test_zero_stands_on_top_of_the_sharding_that_parameters_have():
    w = jax.ShapeDtypeStruct((64, 16), jnp.float32, sharding=on("model"))
    assert zero_shardings(jol.adam(1e-3), w, MESH, "data")[0].mu.spec == P("model", "data")
    narrow = jax.ShapeDtypeStruct((64, 2), jnp.float32, sharding=on("model"))
    assert zero_shardings(jol.adam(1e-3), narrow, MESH, "data")[0].mu.spec == P(("model", "data"))
    there = jax.ShapeDtypeStruct((64, 16), jnp.float32, sharding=on("data"))
    assert zero_shardings(jol.adam(1e-3), there, MESH, "data")[0].mu.spec == P("data")
    assert zero_shardings(jol.adam(1e-3), {"w": np.ones((8, 2), np.float32), "s": 1.0}, MESH, "data")[0].mu[
        "w"
    ].spec == P("data")


def test_memory_kinds_are_kept():
    place = on("data", memory_kind="pinned_host")
    state = state_shardings(jol.adam(1e-3), shape(8), place)
    assert state[0].mu == place
    assert state[0].count == on()


def test_messages():
    params = {"a": shape(8), "b": shape(8)}
    other = NamedSharding(AbstractMesh((8,), ("x",)), P())
    for places, words in [(P("data"), "expected a NamedSharding"), ({"a": on(), "b": other}, "2 meshes")]:
        with pytest.raises(ValueError, match=f"state_shardings: param_shardings ha.*{words}"):
            state_shardings(jol.adam(1e-3), params, places)
    with pytest.raises(ValueError, match="0 meshes"):
        state_shardings(jol.adam(1e-3), {}, {})
    assert state_shardings(jol.adam(1e-3), {}, on())[0].count == on()
    with pytest.raises(ValueError, match="zero_shardings: axis is 'x', expected one of"):
        zero_shardings(jol.adam(1e-3), params, MESH, "x")


def test_on_eight_devices():
    script = pathlib.Path(__file__).with_name("mesh_sharding.py")
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-W", "error", str(script)], check=True, env=env)
