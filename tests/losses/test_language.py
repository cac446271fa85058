"""Losses fused with the output head, against float64 NumPy transcriptions of their formulas."""

import itertools
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_lite.losses.distill import linear_distillation_loss
from jaxopt_lite.losses.language import linear_log_probs, linear_softmax_cross_entropy

N, H, V = 14, 9, 43  # nothing divides: blocks of 8, 10 or 16 columns, chunks of 8, 10 or 16 tokens

OPTIONS = {
    "dtype": ["float32", "bfloat16"],
    "peak": [1.0, 40.0, 160.0],
    "logit_softcap": [None, 20.0],
    "bias": [False, True],
    "label_smoothing": [0.0, 0.1],
    "z_loss": [0.0, 1e-2],
    "temperature": [1.0, 0.7],
    "ignore_index": [None, -100],
    "class_weights": [False, True],
    "mask": [None, "where", "weights", "both"],
    "reduction": ["none", "mean", "sum"],
    "transpose_kernel": [False, True],
    "recompute": [None, True, False],
    "chunk_size": [None, 8, 10, 16],
}


def allowed(case):
    return not (case.get("recompute") is False and case.get("reduction") == "none")


def pairwise(options, seed=0, candidates=40):
    """Few cases in which every pair of values of two options occurs together (unless not allowed)."""
    rng = np.random.default_rng(seed)
    names = list(options)
    pairs = {
        ((a, i), (b, j))
        for a, b in itertools.combinations(names, 2)
        for i, j in itertools.product(range(len(options[a])), range(len(options[b])))
        if allowed({a: options[a][i], b: options[b][j]})
    }
    cases = []
    while pairs:
        best, covered = None, set()
        need = next(iter(sorted(pairs)))
        for _ in range(candidates):
            chosen = {n: int(rng.integers(len(options[n]))) for n in names} | dict(need)
            case = {n: options[n][i] for n, i in chosen.items()}
            got = {p for p in pairs if all(chosen[n] == i for n, i in p)}
            if allowed(case) and len(got) > len(covered):
                best, covered = case, got
        if best is not None:
            cases.append(best)
            pairs -= covered
    return cases


CASES = pairwise(OPTIONS)


def data(case, seed=0):
    """Hidden states, kernel, bias and labels with the case's largest logit, dtype and layout; labels at both ends."""
    rng = np.random.default_rng(seed)
    x, w = rng.normal(size=(N, H)), rng.normal(size=(H, V))
    x *= case["peak"] / np.abs(x @ w).max()
    y = rng.integers(0, V, N)
    y[:2] = 0, V - 1
    if case["ignore_index"] is not None:
        y[[2, 9]] = case["ignore_index"]
    dtype = jnp.dtype(case["dtype"])
    extra = {"bias": rng.normal(size=V).astype(np.float32) if case["bias"] else None}
    extra["class_weights"] = rng.uniform(0.5, 2, V).astype(np.float32) if case["class_weights"] else None
    extra["where"] = np.arange(N) % 5 != 3 if case["mask"] in ("where", "both") else None
    extra["weights"] = (
        rng.uniform(0, 2, N).astype(np.float32) if case["mask"] in ("weights", "both") else None
    )
    ct = rng.normal(size=N).astype(np.float32) if case["reduction"] == "none" else np.float32(1.0)
    return jnp.asarray(x, dtype), jnp.asarray(w, dtype), y, extra, ct


def oracle(x, w, y, case, extra, ct):
    """``ct·loss`` and its gradients in x, w and bias, float64, by the formula of the docstring."""
    x, w = np.asarray(x, np.float64), np.asarray(w, np.float64)
    b = np.zeros(V) if extra["bias"] is None else extra["bias"].astype(np.float64)
    cap, tau, eps, lam = (case[k] for k in ("logit_softcap", "temperature", "label_smoothing", "z_loss"))
    a = x @ w + b
    t = np.tanh(a / cap) if cap else None
    z = (cap * t if cap else a) / tau
    m = z.max(1, keepdims=True)
    lse = (m + np.log(np.exp(z - m).sum(1, keepdims=True)))[:, 0]
    p = np.exp(z - lse[:, None])
    keep = np.ones(N, bool) if extra["where"] is None else extra["where"].copy()
    if case["ignore_index"] is not None:
        keep &= y != case["ignore_index"]
    label = np.where(keep, y, 0)
    hot = np.eye(V)[label]
    scale = np.ones(N) if extra["class_weights"] is None else extra["class_weights"].astype(np.float64)[label]
    weight = keep * scale * (1 if extra["weights"] is None else extra["weights"].astype(np.float64))
    losses = lse - (1 - eps) * z[np.arange(N), label] - eps * z.mean(1) + lam * lse**2
    factor = weight * np.float64(ct) / (weight.sum() if case["reduction"] == "mean" else 1)
    dz = (1 + 2 * lam * lse[:, None]) * p - (1 - eps) * hot - eps / V
    da = factor[:, None] * dz / tau * (1 - t**2 if cap else 1)
    return (factor * losses).sum(), da @ w.T, x.T @ da, da.sum(0)


@jax.custom_vjp
def bfloat16_back(z):
    """The identity, whose cotangent is rounded: the backward products of any matrix unit take such operands."""
    return z


bfloat16_back.defvjp(lambda z: (z, None), lambda _, ct: (ct.astype(jnp.bfloat16).astype(ct.dtype),))


def materialised(x, w, b, y, case, extra, ct):
    """The same on float32 logits that are held, differentiated by JAX."""
    z = jnp.dot(x, w, preferred_element_type=jnp.float32)
    z = (bfloat16_back(z) if x.dtype == jnp.bfloat16 else z) + (0 if b is None else b[None, :])
    cap = case["logit_softcap"]
    z = (cap * jnp.tanh(z / cap) if cap else z) / case["temperature"]
    keep = np.ones(N, bool) if extra["where"] is None else extra["where"]
    keep = keep if case["ignore_index"] is None else keep & (y != case["ignore_index"])
    label = np.where(keep, y, 0)
    lse = jax.nn.logsumexp(z, axis=1)
    eps = case["label_smoothing"]
    losses = lse - (1 - eps) * z[np.arange(N), label] - eps * z.mean(1) + case["z_loss"] * lse**2
    weight = keep * (1 if extra["class_weights"] is None else extra["class_weights"][label])
    weight = jnp.asarray(weight * (1 if extra["weights"] is None else extra["weights"]), jnp.float32)
    return jnp.sum(ct * losses * weight / (weight.sum() if case["reduction"] == "mean" else 1))


def ours(x, w, b, y, case, extra, ct):
    names = ("logit_softcap", "label_smoothing", "z_loss", "temperature", "ignore_index", "transpose_kernel")
    options = {n: case[n] for n in (*names, "reduction", "recompute", "chunk_size")}
    options |= {n: extra[n] for n in ("class_weights", "where", "weights")}
    kernel = w.T if case["transpose_kernel"] else w
    return jnp.sum(ct * linear_softmax_cross_entropy(x, kernel, y, bias=b, **options))


def error(got, true):
    got = np.asarray(got, np.float64)
    return np.linalg.norm(got - true) / np.linalg.norm(true)


def all_errors(case):
    x, w, y, extra, ct = data(case)
    true = oracle(x, w, y, case, extra, ct)
    args = (0, 1) if extra["bias"] is None else (0, 1, 2)

    def errors(f):
        program = jax.jit(jax.value_and_grad(lambda x, w, b: f(x, w, b, y, case, extra, ct), args))
        value, grads = program(x, w, extra["bias"])
        for g, a in zip(grads, (x, w, extra["bias"]), strict=False):
            assert g.dtype == a.dtype
        return [error(g, t) for g, t in zip((value, *grads), true, strict=False)]

    return errors(ours), errors(materialised)


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_value_and_gradients(case):
    mine, held = all_errors(case)
    assert mine[0] < 1e-6
    for got, reference in zip(mine[1:], held[1:], strict=True):
        assert got <= (2e-6 if case["dtype"] == "float32" else max(1.05 * reference, 2e-6))


PLAIN = {name: values[0] for name, values in OPTIONS.items()} | {"chunk_size": 10}
NOTHING = {"bias": None, "class_weights": None, "where": None, "weights": None}


def plain(seed=0, peak=3.0):
    x, w, y, *_ = data(PLAIN | {"peak": peak}, seed)
    return x, w, y


@pytest.mark.parametrize("recompute", [True, False])
def test_any_chunk_size_gives_the_same(recompute):
    x, w, y = plain()
    true = oracle(x, w, y, PLAIN | {"reduction": "mean", "label_smoothing": 0.2}, NOTHING, 1.0)
    options = {"label_smoothing": 0.2, "recompute": recompute, "reduction": "mean"}
    for size in (1, 7, N, 21, V - 1, V, 1000):
        f = lambda x, w, size=size: linear_softmax_cross_entropy(x, w, y, chunk_size=size, **options)
        value, grads = jax.jit(jax.value_and_grad(f, (0, 1)))(x, w)
        assert max(error(g, t) for g, t in zip((value, *grads), true, strict=False)) < 2e-6


@pytest.mark.parametrize("recompute", [True, False])
def test_a_wrong_label_is_nan_and_only_its_row(recompute):
    x, w, y = plain()
    y[[3, 5, 6]] = V, -1, -100
    f = lambda x, ignore=None: linear_softmax_cross_entropy(
        x, w, y, ignore_index=ignore, reduction="sum", recompute=recompute, chunk_size=10
    )
    rows = np.isnan(jax.grad(f)(x)).all(axis=1)
    assert np.isnan(f(x))
    assert rows.nonzero()[0].tolist() == [3, 5, 6]
    assert np.isnan(jax.grad(f)(x, -100)).all(axis=1).nonzero()[0].tolist() == [3, 5]
    each = linear_softmax_cross_entropy(x, w, y, ignore_index=-100)
    assert np.isnan(each).nonzero()[0].tolist() == [3, 5]
    assert each[6] == 0
    # an id beyond the range of 8 bits is no other class, and an index that the dtype cannot hold ignores nothing
    small = linear_softmax_cross_entropy(x, w, np.abs(y).astype(np.uint8), ignore_index=-100)
    assert np.isnan(small).nonzero()[0].tolist() == [3, 6]


@pytest.mark.parametrize("recompute", [True, False])
def test_masked_rows_are_exactly_zero_even_over_nan(recompute):
    x, w, y = plain()
    where = np.arange(N) % 3 != 1
    bad, y[1] = x.at[~where].set(jnp.nan), 999
    b = jnp.zeros(V).at[0].set(-jnp.inf)  # the class that masked rows are given
    y[y == 0] = 1

    def f(x, w, weights, where):
        return linear_softmax_cross_entropy(
            x,
            w,
            y,
            bias=b,
            where=where,
            weights=weights,
            reduction="mean",
            recompute=recompute,
            chunk_size=10,
        )

    clean = jax.value_and_grad(f, (0, 1, 2))(x.at[~where].set(0.0), w, jnp.ones(N), where)
    for got in (
        jax.value_and_grad(f, (0, 1, 2))(bad, w, jnp.ones(N), where),
        jax.value_and_grad(f, (0, 1, 2))(bad, w, jnp.where(where, 1.0, 0.0), None),
    ):
        jax.tree.map(np.testing.assert_array_equal, got, clean)
        assert not np.any(got[1][0][~where])
        assert np.isfinite(got[0])


@pytest.mark.parametrize("recompute", [True, False])
def test_nothing_counted_is_zero(recompute):
    x, w, _ = plain()
    f = lambda x, w: linear_softmax_cross_entropy(
        x, w, np.full(N, -100), ignore_index=-100, reduction="mean", recompute=recompute
    )
    value, grads = jax.value_and_grad(f, (0, 1))(x, w)
    assert value == 0
    assert not any(np.any(g) for g in grads)
    empty = linear_softmax_cross_entropy(x[:0], w, np.zeros(0, int), reduction="mean")
    assert empty == 0


def moments(x, w, b):
    """Log-sum-exp, entropy and most probable class of every row, float64."""
    z = np.asarray(x, np.float64) @ np.asarray(w, np.float64) + b
    lse = np.log(np.exp(z - z.max(1, keepdims=True)).sum(1)) + z.max(1)
    log_p = z - lse[:, None]
    return lse, -(np.exp(log_p) * np.where(np.isneginf(log_p), 0, log_p)).sum(1), z.argmax(1), log_p


@pytest.mark.parametrize("peak", [1.0, 40.0, 160.0])
def test_statistics_and_their_gradients(peak):
    x, w, y = plain(peak=peak)
    b = np.where(np.arange(V) < 12, -np.inf, 0.5)  # a whole first block of -inf
    y = np.maximum(y, 12)
    cts = np.random.default_rng(1).normal(size=(3, N)).astype(np.float32)

    def f(x, w):
        loss, stats = linear_softmax_cross_entropy(x, w, y, bias=b, chunk_size=10, return_stats=True)
        return jnp.sum(cts[0] * loss + cts[1] * stats.lse + cts[2] * stats.entropy), stats

    (_, stats), grads = jax.jit(jax.value_and_grad(f, (0, 1), has_aux=True))(x, w)
    lse, entropy, argmax, log_p = moments(x, w, b)
    p, c = np.exp(log_p), cts.astype(np.float64)[:, :, None]
    finite = np.where(np.isneginf(log_p), 0, log_p)
    dz = (c[0] + c[1]) * p - c[0] * np.eye(V)[y] - c[2] * p * (finite + entropy[:, None])
    assert error(stats.lse, lse) < 1e-6
    assert np.abs(stats.entropy - entropy).max() < 2e-6 * max(1, peak / 8)
    assert stats.argmax.tolist() == argmax.tolist()
    assert error(grads[0], dz @ np.asarray(w, np.float64).T) < 2e-6
    assert error(grads[1], np.asarray(x, np.float64).T @ dz) < 2e-6


def test_statistics_of_rows_that_do_not_count_are_zero():
    x, w, y = plain()
    f = lambda x: linear_softmax_cross_entropy(x, w, y, where=np.arange(N) > 0, return_stats=True)[1]
    assert [float(a[0]) for a in f(x)] == [0, 0, 0]
    assert not np.any(jax.grad(lambda x: f(x).lse[0] + f(x).entropy[0])(x))


def test_log_probs_of_any_cotangent():
    x, w, y = plain(peak=20.0)
    _, entropy, _, log_p = moments(x, w, 0)
    log_probs, got_entropy = linear_log_probs(
        x.reshape(2, 7, H), w, y.reshape(2, 7), chunk_size=10, return_entropy=True
    )
    assert log_probs.shape == (2, 7)
    assert error(log_probs.ravel(), log_p[np.arange(N), y]) < 1e-6
    assert error(got_entropy.ravel(), entropy) < 1e-5
    ct = np.random.default_rng(2).normal(size=N)
    grads = jax.grad(lambda x, w: jnp.sum(ct * jnp.sin(linear_log_probs(x, w, y, chunk_size=10))), (0, 1))(
        x, w
    )
    dz = (ct * np.cos(log_p[np.arange(N), y]))[:, None] * (np.eye(V)[y] - np.exp(log_p))
    assert error(grads[0], dz @ np.asarray(w, np.float64).T) < 3e-6
    assert error(grads[1], np.asarray(x, np.float64).T @ dz) < 3e-6
    assert np.isnan(linear_log_probs(x, w, np.full(N, -100))).all()


def test_float64_is_kept():
    x, w, y = plain()
    with jax.enable_x64(True):
        x, w = jnp.asarray(np.asarray(x, np.float64)), jnp.asarray(np.asarray(w, np.float64))
        f = lambda x, w: linear_softmax_cross_entropy(x, w, y, reduction="mean", chunk_size=10)
        got = jax.value_and_grad(f, (0, 1))(x, w)
        true = oracle(x, w, y, PLAIN | {"reduction": "mean"}, NOTHING, 1.0)
        assert max(error(g, t) for g, t in zip((got[0], *got[1]), true, strict=False)) < 1e-14


@pytest.mark.parametrize("recompute", [True, False])
def test_second_derivatives_and_batches(recompute):
    x, w, y = plain()
    held = lambda x, w: materialised(x, w, None, y, PLAIN | {"reduction": "mean"}, NOTHING, 1.0)
    mine = lambda x, w, y=y: linear_softmax_cross_entropy(
        x, w, y, reduction="mean", recompute=recompute, chunk_size=10
    )
    direction = (x[::-1], w[:, ::-1])
    products = [
        jax.jit(lambda d, f=f: jax.jvp(jax.grad(f, (0, 1)), (x, w), d)[1])(direction) for f in (mine, held)
    ]
    for got, true in zip(*products, strict=True):
        assert error(got, np.asarray(true)) < 3e-6
    batch = jnp.stack([x, 2 * x]), np.stack([y, y[::-1]])
    together = jax.vmap(jax.value_and_grad(mine, (0, 1)), (0, None, 0))(batch[0], w, batch[1])
    for i in range(2):
        alone = jax.value_and_grad(mine, (0, 1))(batch[0][i], w, batch[1][i])
        for got, true in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            assert error(got[i], np.asarray(true)) < 1e-6


def test_forward_mode_where_it_exists():
    x, w, y = plain()
    f = lambda x, w: linear_softmax_cross_entropy(x, w, y, reduction="mean", recompute=False, chunk_size=10)
    tangent = jax.jvp(f, (x, w), (x, w))[1]
    dx, dw = jax.grad(f, (0, 1))(x, w)
    assert float(tangent) == pytest.approx(float(jnp.vdot(dx, x) + jnp.vdot(dw, w)), rel=1e-5)


def equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


@pytest.mark.parametrize("recompute", [True, False])
def test_products_take_bfloat16_and_give_float32_and_no_logits_exist(recompute):
    x, w, y = (jnp.zeros((24, 8), jnp.bfloat16), jnp.zeros((8, 100), jnp.bfloat16), np.zeros(24, int))
    f = lambda x, w: linear_softmax_cross_entropy(
        x, w, y, reduction="mean", recompute=recompute, chunk_size=16
    )
    eqns = list(equations(jax.make_jaxpr(jax.grad(f, (0, 1)))(x, w).jaxpr))
    dots = [e for e in eqns if e.primitive.name == "dot_general"]
    assert len(dots) == (
        8 if recompute else 6
    )  # 4 or 3 products, in the loop and in the last, narrower block
    for dot in dots:
        assert {v.aval.dtype.name for v in dot.invars} == {"bfloat16"}
        assert dot.outvars[0].aval.dtype.name == "float32"
    shapes = {v.aval.shape for e in eqns for v in e.outvars}
    assert (24, 100) not in shapes
    assert (100, 24) not in shapes


def test_memory_work_and_no_copy_of_a_tied_embedding():
    n, h, v = 512, 64, 8192
    args = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((n, h), (v, h))]
    y = np.zeros(n, int)
    f = lambda x, e: linear_softmax_cross_entropy(x, e, y, transpose_kernel=True, reduction="mean")
    both, frozen = (jax.jit(jax.grad(f, a)).lower(*args).compile() for a in ((0, 1), 0))
    assert both.memory_analysis().temp_size_in_bytes < n * v * 4 / 3
    copies = [line for line in both.as_text().splitlines() if f"f32[{h},{v}]" in line]
    assert copies == []
    one = 2 * n * h * 1024  # cost_analysis counts the body of a loop once: a block of 1,024 columns
    assert both.cost_analysis()["flops"] - frozen.cost_analysis()["flops"] == pytest.approx(one, rel=0.05)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("dtype", "cap"), [("float32", None), ("bfloat16", 5.0)])
def test_distillation(beta, dtype, cap):
    rng = np.random.default_rng(0)
    tau, shapes = 1.5, ((N, H), (H, V), (N, 5), (5, V))
    x, w, u, k = (jnp.asarray(rng.normal(size=s), dtype) for s in shapes)
    ct = np.where(np.arange(N) == 4, 0, rng.normal(size=N)).astype(np.float32)

    def f(x, w, u, k):
        options = {"beta": beta, "temperature": tau, "logit_softcap": cap, "chunk_size": 10}
        where = np.arange(N) != 4
        return jnp.sum(ct * linear_distillation_loss(x.at[4].set(jnp.nan), w, u, k, where=where, **options))

    value, grads = jax.jit(jax.value_and_grad(f, (0, 1, 2, 3)))(x, w, u, k)
    x, w, u, k = (np.asarray(a, np.float64) for a in (x, w, u, k))
    capped = lambda a: cap * np.tanh(a / cap) if cap else a
    log_softmax = lambda z: z - np.log(np.exp(z).sum(1, keepdims=True))
    z = capped(x @ w)
    s, t = log_softmax(z / tau), log_softmax(capped(u @ k) / tau)
    S, T = np.exp(s), np.exp(t)
    m = np.log(beta * T + (1 - beta) * S)
    if beta == 0:
        losses, pull = (T * (t - s)).sum(1), -T
    elif beta == 1:
        losses, pull = (S * (s - t)).sum(1), S * (s - t + 1)
    else:  # ∂/∂s of M's own dependence included
        losses = (beta * T * (t - m) + (1 - beta) * S * (s - m)).sum(1)
        share = (1 - beta) * S / np.exp(m)
        pull = -beta * T * share + (1 - beta) * S * (s - m + 1 - share)
    dz = tau**2 * ct[:, None] * (pull - S * pull.sum(1, keepdims=True)) / tau
    da = dz * (1 - (z / cap) ** 2 if cap else 1)
    tolerance = 2e-6 if dtype == "float32" else 5e-3
    assert float(value) == pytest.approx(tau**2 * (ct * losses).sum(), rel=2e-6)
    assert error(grads[0], da @ w.T) < tolerance
    assert error(grads[1], x.T @ da) < tolerance
    assert not np.any(grads[2])
    assert not np.any(grads[3])


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"kernel": np.ones((8, V))}, ValueError, r"kernel has shape \(8, 43\), expected \[9, V\]"),
        ({"kernel": np.ones((V, H))}, ValueError, "kernel has shape"),
        ({"labels": np.zeros(3, int)}, ValueError, r"labels has shape \(3,\), expected \(14,\)"),
        ({"labels": np.zeros(N)}, TypeError, "labels has dtype"),
        ({"bias": np.ones(4)}, ValueError, r"bias has shape \(4,\), expected \(43,\)"),
        ({"class_weights": np.ones(4)}, ValueError, "class_weights has shape"),
        ({"where": np.ones(N)}, TypeError, "where has dtype"),
        ({"weights": np.ones((N, 1))}, ValueError, "weights has shape"),
        ({"reduction": "avg"}, ValueError, "reduction is 'avg'"),
        ({"recompute": False}, ValueError, "recompute is False with reduction='none'"),
        ({"recompute": False, "reduction": "sum", "return_stats": True}, ValueError, "recompute is False"),
        ({"label_smoothing": 1.5}, ValueError, "label_smoothing is 1.5"),
        ({"temperature": 0.0}, ValueError, "temperature is 0.0"),
        ({"logit_softcap": -1.0}, ValueError, "logit_softcap is -1.0"),
        ({"chunk_size": 0}, ValueError, "chunk_size is 0"),
    ],
)
def test_errors_name_the_argument(change, kind, message):
    x, w, y = plain()
    arguments = {"hidden": x, "kernel": w, "labels": y} | change
    with pytest.raises(kind, match=f"linear_softmax_cross_entropy: {message}"):
        linear_softmax_cross_entropy(**arguments)


def test_on_a_mesh():
    """Eight devices need a process of their own."""
    script = pathlib.Path(__file__).with_name("mesh_language.py")
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    root = str(script.parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
