"""Run by test_axes.py on eight CPU devices: on jax.make_mesh's own mesh, whose axes are explicit, the numbers hold."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jaxopt_lite as jol
from jaxopt_lite import losses, optimizers

MESH = jax.make_mesh((2, 4), ("data", "fsdp"))
RNG = np.random.default_rng(0)
SPECS = {"kernel": P("fsdp", "data"), "bias": P("data")}
CASES = {
    "clip and int8": jol.chain(
        jol.clip_by_global_norm(0.1), jol.quantize_state(jol.adamw(1e-2), min_size=64)
    ),
    "int4": jol.quantize_state(jol.adamw(1e-2), "int4", min_size=64),
    "low memory": jol.low_memory_adamw(1e-2, min_size=64),
    "soap": optimizers.soap(1e-2),
    "shampoo": optimizers.shampoo(1e-2),
    "normuon": optimizers.normuon(1e-2),
    "numbers of the state": jol.tunable(optimizers.adam, learning_rate=1e-2, b1=0.8, b2=0.9, eps=1e-3),
}


def place(x, spec):
    return jax.device_put(x, NamedSharding(MESH, spec))


def steps(tx):
    """Three updates in a scan, in which a state that changes its type is an error."""

    def run(params, state, grads):
        def body(carry, g):
            params, state = carry
            updates, state = tx.update(g, state, params)
            return (jol.apply_updates(params, updates), state), None

        return jax.lax.scan(body, (params, state), grads)[0]

    return jax.jit(run)


def an_optimizer(name, tx):
    dtype = jnp.bfloat16 if name == "low memory" else jnp.float32
    make = lambda *shape: jnp.asarray(RNG.normal(size=shape), dtype)
    params = {"kernel": make(32, 32), "bias": make(64)}
    grads = {"kernel": make(3, 32, 32), "bias": make(3, 64)}
    expected = steps(tx)(params, tx.init(params), grads)[0]
    params = {k: place(x, SPECS[k]) for k, x in params.items()}
    grads = {k: place(x, P(None, *SPECS[k])) for k, x in grads.items()}
    with jax.set_mesh(MESH):
        got, _ = steps(tx)(params, jax.jit(tx.init)(params), grads)
    for k, spec in SPECS.items():
        new, old = (np.asarray(x[k], np.float32) for x in (got, expected))
        np.testing.assert_allclose(new, old, rtol=1e-3, atol=1e-4, err_msg=name)
        assert got[k].sharding.is_equivalent_to(NamedSharding(MESH, spec), new.ndim), (name, got[k].sharding)


def a_loss(f, specs, *arrays, eager=False):
    """Value and gradients: compiled without the mesh as context, and with it operation by operation."""
    floating = tuple(i for i, a in enumerate(arrays) if jnp.issubdtype(a.dtype, jnp.floating))
    both = jax.value_and_grad(lambda *a: jnp.mean(f(*a)), floating)
    expected, placed = jax.jit(both)(*arrays), [place(a, s) for a, s in zip(arrays, specs, strict=True)]
    results = [jax.jit(both)(*placed)]
    if eager:
        with jax.set_mesh(MESH):
            results += [both(*placed)]
    for value, gradients in results:
        np.testing.assert_allclose(value, expected[0], rtol=1e-5)
        for i, g, e in zip(floating, gradients, expected[1], strict=True):
            np.testing.assert_allclose(g, e, rtol=1e-4, atol=1e-6)
            assert g.sharding.is_equivalent_to(placed[i].sharding, g.ndim), (f, g.sharding)


def the_losses():
    normal = lambda *shape: jnp.asarray(RNG.normal(size=shape), jnp.float32)
    a, b, ids = normal(8, 16), normal(8, 16), jnp.asarray(RNG.integers(0, 16, 8))
    rows, both = P("data"), P("data", "fsdp")
    a_loss(losses.info_nce, (rows, rows), a, b, eager=True)
    a_loss(losses.cosine_distance, (both, both), a, b)
    a_loss(losses.list_mle, (both, both), a, b, eager=True)
    a_loss(losses.softmax_cross_entropy_with_integer_labels, (both, rows), a, ids)
    hidden, kernel, labels = normal(8, 4, 16), normal(16, 64), jnp.asarray(RNG.integers(0, 64, (8, 4)))
    for recompute in (True, False):
        for spec in (P("fsdp", None), P(None, "fsdp")):
            head = lambda x, w, y, recompute=recompute: losses.linear_softmax_cross_entropy(
                x, w, y, recompute=recompute, reduction="mean"
            )
            a_loss(head, (rows, spec, rows), hidden, kernel, labels)


if __name__ == "__main__":
    for name, tx in CASES.items():
        an_optimizer(name, tx)
    the_losses()
