"""The compilers of TPUs and GPUs themselves, where their plugin is installed (benchmarks/README.md says how)."""

import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "benchmarks"))
import compile_for
import transformer

import jaxopt_lite as jol

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _as_users():
    with jax.numpy_rank_promotion("allow"):
        yield


def mesh_of(target, shape=(-1,), names=("data",)):
    try:
        return compile_for.mesh_of(target, shape, names)
    except Exception as error:
        pytest.skip(f"the compiler for {target} is not installed: {str(error)[:80]}")


def program(mesh, step, arguments):
    with jax.set_mesh(mesh):
        return step.lower(*arguments).compile()


@pytest.mark.parametrize("target", ["v5e:2x4", "h100"])
def test_a_training_step_of_the_main_example(target):
    mesh = mesh_of(target)
    loss, tx, params, batch = compile_for.examples()["pretrain_gpt"]
    step, arguments = compile_for.zero_step(mesh, loss, tx, params, batch)
    assert program(mesh, step, arguments).memory_analysis().temp_size_in_bytes < 2**25


@pytest.mark.parametrize("target", ["v5e:2x4", "h100"])
@pytest.mark.parametrize("name", ["adamw", "low-memory adamw"])
def test_an_elementwise_step_is_split_evenly_and_silent(target, name):
    mesh = mesh_of(target)
    params = {"kernel": jax.ShapeDtypeStruct((65_536, 1024), jnp.float32)}
    place = {"kernel": NamedSharding(mesh, P("data"))}
    step, arguments = compile_for.update_arguments(compile_for.OPTIMIZERS[name](), params, place)
    done = program(mesh, step, arguments)
    held = done.memory_analysis().argument_size_in_bytes
    assert held <= 1.02 * compile_for.total_bytes(*arguments) / mesh.size
    assert compile_for.collectives(done.as_text()) == {}


@pytest.mark.parametrize("codec", ["int8", "int4"])
def test_a_step_with_stored_codes_needs_few_temporaries(codec):
    place = jax.sharding.SingleDeviceSharding(mesh_of("v5e:2x4").devices.flat[0])
    tx = jol.quantize_state(jol.adamw(1e-3), codec)

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return jol.apply_updates(params, updates), state

    on = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)
    params = on([jax.ShapeDtypeStruct((8192, 4096), jnp.float32)] * 20)
    step = jax.jit(step, donate_argnums=(0, 1))
    done = step.lower(params, on(jax.eval_shape(tx.init, params)), params).compile()
    assert done.memory_analysis().temp_size_in_bytes < 0.05 * 8 * 20 * 8192 * 4096


def test_muon_on_a_tpu_slice_exchanges_each_stack_twice():
    mesh = mesh_of("v5e:2x4")
    params = {f"{i}": jax.ShapeDtypeStruct((512, 1024), jnp.float32) for i in range(8)}
    places = dict.fromkeys(params, NamedSharding(mesh, P("data")))
    step, arguments = compile_for.update_arguments(jol.optimizers.muon(1e-3), params, places)
    found = compile_for.collectives(program(mesh, step, arguments).as_text())
    assert {kind: count for kind, (count, _) in found.items()} == {"all-to-all": 2}


def test_the_fused_loss_needs_a_fifth_of_held_logits():
    mesh = mesh_of("v5e:2x4", (4, 1, 2), transformer.AXES)
    model = transformer.Model(1024, 1, 8, 8, 1024, 65_536, 1024, 16, "v5e:2x4", (4, 1, 2))
    temporaries = []
    for fused in (True, False):
        loss = functools.partial(transformer.head_loss, mesh=mesh, fused=fused)
        step = jax.jit(jax.value_and_grad(loss, (0, 1)))
        done = program(mesh, step, transformer.head_arguments(model, mesh))
        temporaries.append(done.memory_analysis().temp_size_in_bytes)
    assert 5 * temporaries[0] <= temporaries[1], temporaries


@pytest.mark.parametrize("recompute", [True, False])
def test_several_tpus_reduce_the_gradient_of_the_head_once(recompute):
    mesh = mesh_of("v5e:2x4", (2, 4), ("data", "model"))
    n, h, v = 4096, 1024, 32_768
    arrays = [
        jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, P(*axes)))
        for shape, dtype, axes in (
            ((n, h), jnp.bfloat16, ("data",)),
            ((h, v), jnp.bfloat16, (None, "model")),
            ((n,), jnp.int32, ("data",)),
        )
    ]
    loss = functools.partial(
        jol.losses.linear_softmax_cross_entropy, recompute=recompute, chunk_size=256, reduction="mean"
    )
    text = program(mesh, jax.jit(jax.grad(loss, (0, 1))), arrays).as_text()
    lines = text[text.index("\nENTRY") :].splitlines()
    of_the_head = lambda rows: [
        r for r in rows if f"[{h},{v // 4}]" in r.split("all-reduce")[0] and "all-reduce" in r
    ]
    assert "while(" in text
    assert len(of_the_head(lines)) == 1
    assert of_the_head(text[: text.index("\nENTRY")].splitlines()) == []
    assert "all-gather" not in text
