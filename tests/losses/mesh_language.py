"""Run by test_spread.py on eight CPU devices: every form equals one device, and reduces its gradients once."""

import functools
import re
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxopt_lite.losses import language
from jaxopt_lite.losses.chunks import over_devices
from jaxopt_lite.losses.distill import linear_distillation_loss
from jaxopt_lite.losses.language import linear_log_probs, linear_softmax_cross_entropy
from jaxopt_lite.losses.spread import Plan

jax.config.update("jax_numpy_rank_promotion", "raise")
sized = language.sized
language.sized = lambda *args: sized(
    *args[:-1], args[-1] or 7
)  # several blocks beside chunks of tokens, and a rest
N, H, V = 32, 16, 96
RNG = np.random.default_rng(0)
X, W = (jnp.asarray(RNG.normal(size=s), jnp.float32) for s in ((N, H), (H, V)))
B, C = jnp.asarray(RNG.normal(size=V), jnp.float32), jnp.asarray(RNG.uniform(0.5, 2, V), jnp.float32)
Y = jnp.asarray(RNG.integers(0, V, N)).at[5].set(-100)


def close(got, true):
    for g, t in zip(jax.tree.leaves(got), jax.tree.leaves(true), strict=True):
        g, t = np.asarray(g), np.asarray(t)
        np.testing.assert_allclose(g, t, rtol=0, atol=2e-6 * max(1, np.abs(t).max()))


def loss(x, w, b, y, c, axis_name=None, reduction="mean", chunk_size=7, **options):
    return linear_softmax_cross_entropy(
        x, w, y, bias=b, class_weights=c, label_smoothing=0.1, z_loss=0.01, ignore_index=-100, chunk_size=chunk_size,
        reduction=reduction, axis_name=axis_name, **options
    )  # fmt: skip


def put(mesh, *specs, arrays=(X, W, B, Y, C)):
    return [jax.device_put(a, NamedSharding(mesh, s)) for a, s in zip(arrays, specs, strict=True)]


SPECS = P("data"), P(None, "model"), P("model"), P("data"), P("model")


def collectives(text):
    """(computation, kind, shapes) of every collective of a compiled program."""
    where, found = "", []
    for line in text.splitlines():
        if opened := re.match(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            where = opened.group(1)
        kinds = r"all-reduce|all-gather|collective-permute|all-to-all|reduce-scatter"
        if call := re.search(rf"= (.*?) ({kinds})(-start)?\(", line):
            found.append((where, call.group(2), re.findall(r"\[([\d,]*)\]", call.group(1))))
    return found


def under_jit(kind, recomputes):
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(kind,) * 2)
    for recompute in recomputes:
        f = jax.jit(jax.value_and_grad(functools.partial(loss, recompute=recompute), (0, 1, 2)))
        arrays = put(mesh, *SPECS)
        with jax.set_mesh(mesh):
            compiled = f.lower(*arrays).compile()
        close(compiled(*arrays), f(X, W, B, Y, C))
        found = collectives(compiled.as_text())
        shard = f"{H},{V // 4}"  # of the kernel gradient
        reduced = [(place, k) for place, k, shapes in found if shard in shapes]
        assert len(reduced) == 1, found
        assert reduced[0] == (next(p for p, _, _ in found if "main" in p), "all-reduce"), found
        assert all(kind == "all-reduce" or shapes == [str(V)] for _, kind, shapes in found), (
            found
        )  # class weights


def as_on_tpus():
    """In chunks of rows, split by the compiler alone, which gathers nothing of the head."""
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    chunked = lambda plan, *arrays: over_devices(plan.kernel, plan.head, plan.inputs, plan.outputs, *arrays)
    for recompute, size in ((True, 7), (False, 1)):
        f = functools.partial(loss, recompute=recompute, chunk_size=size)
        true = jax.jit(jax.value_and_grad(f, (0, 1, 2)))(X, W, B, Y, C)
        with mock.patch.object(Plan, "split_by_compiler", chunked):
            jax.clear_caches()
            arrays = put(mesh, *SPECS)
            compiled = jax.jit(jax.value_and_grad(f, (0, 1, 2))).lower(*arrays).compile()
        jax.clear_caches()
        close(compiled(*arrays), true)
        text = compiled.as_text()
        assert "while(" in text
        gathered = [shapes for _, kind, shapes in collectives(text) if kind == "all-gather"]
        assert gathered in ([], [[str(V)]]), gathered  # class weights


def without_a_mesh_axis_to_split():
    """Sizes that the mesh does not divide, features sharded, nothing sharded: still one device's numbers."""
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    f = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
    features = P(("data", "model")), P(("data", "model")), P(), P(("data", "model")), P()
    close(f(*put(mesh, *features)), f(X, W, B, Y, C))
    odd = X, W[:, :91], B[:91], jnp.minimum(Y, 90), C[:91]
    close(f(*put(mesh, P("data"), P(), P(), P("data"), P(), arrays=odd)), f(*odd))
    with jax.set_mesh(mesh):
        close(f(X, W, B, Y, C), f(X, W, B, Y, C))


def under_shard_map(check_vma, recomputes):
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    for recompute in recomputes:

        def total(*arrays, axis="model", recompute=recompute):
            return loss(*arrays, axis_name=axis, recompute=recompute, reduction="sum")

        local = lambda *arrays, total=total: jax.lax.psum(total(*arrays), "data")
        mapped = jax.shard_map(local, mesh=mesh, in_specs=SPECS, out_specs=P(), check_vma=check_vma)
        whole = functools.partial(total, axis=None)
        got, true = (jax.jit(jax.value_and_grad(f, (0, 1, 2)))(X, W, B, Y, C) for f in (mapped, whole))
        close(got, true)

    def stats(*arrays, axis="model"):
        loss_, kept = loss(*arrays, axis_name=axis, reduction="none", return_stats=True)
        return loss_ + 2 * kept.lse + 3 * kept.entropy, kept.argmax

    def weighed(f, *arrays):
        rows, argmax = f(*arrays)
        return jnp.vdot(jnp.arange(N), rows), (rows, argmax)

    mapped = jax.shard_map(stats, mesh=mesh, in_specs=SPECS, out_specs=P("data"), check_vma=check_vma)
    gradient = jax.grad(weighed, (1, 2, 3), has_aux=True)
    whole = functools.partial(stats, axis=None)
    close(*(jax.jit(functools.partial(gradient, f))(X, W, B, Y, C) for f in (mapped, whole)))


def the_other_losses():
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    y, u = jnp.maximum(Y, 0), jnp.flip(X, 1)

    def f(x, w, u, y):
        log_probs, entropy = linear_log_probs(
            x, w.T, y, transpose_kernel=True, chunk_size=7, return_entropy=True
        )
        kl = linear_distillation_loss(x, w, u, jnp.flip(w, 1), beta=0.4, chunk_size=7)
        return jnp.vdot(jnp.arange(N), log_probs + 2 * entropy + 3 * kl)

    program, arrays = jax.jit(jax.value_and_grad(f, (0, 1))), (X, W, u, y)
    sharded = put(mesh, P("data"), P(None, "model"), P("data"), P("data"), arrays=arrays)
    close(program(*sharded), program(*arrays))


if __name__ == "__main__":
    under_jit(AxisType.Auto, (True, False))
    under_jit(AxisType.Explicit, (True,))
    without_a_mesh_axis_to_split()
    as_on_tpus()
    under_shard_map(True, (True, False))
    under_shard_map(False, (False,))
    the_other_losses()
