"""Losses fused with the output head, against float64 transcriptions of their formulas on whole logits."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_lite import losses
from jaxopt_lite.losses import language
from jaxopt_lite.losses.language import linear_log_probs, linear_softmax_cross_entropy, sized
from jaxopt_lite.losses.vocabulary import Head
from tests.oracles import language as oracle
from tests.oracles.language import error

N, H, V = 14, 9, 43  # nothing divides: blocks of 8 or 16 columns, chunks of 8 or 16 tokens
ROWS = np.arange(N)
PEAKS = 1.0, 40.0, 160.0

OPTIONS = {
    "dtype": ["float32", "bfloat16"],
    "logit_softcap": [None, 20.0],
    "bias": [False, True],
    "label_smoothing": [0.0, 0.1],
    "z_loss": [0.0, 1e-2],
    "temperature": [1.0, 0.7],
    "ignore_index": [None, -100],
    "class_weights": [False, True],
    "mask": [None, "where", "both"],
    "reduction": ["none", "mean", "sum"],
    "transpose_kernel": [False, True],
    "recompute": [True, False],
    "chunk_size": [None, 8, 16],
}


@pytest.fixture(autouse=True)
def narrow_blocks(monkeypatch):
    """Blocks of 8 columns where chunks of tokens are sized: so both walks have several steps and a rest."""
    monkeypatch.setattr(
        language, "sized", lambda *args: sized(*args[:-1], 8 if args[-1] is None else args[-1])
    )


def allowed(case):
    return not (case.get("recompute") is False and case.get("reduction") == "none")


def pairwise(options, seed=0, candidates=200):
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


def interacting():
    """Everything between logits and loss in all combinations, the rest in a fraction of resolution IV."""
    for cap, tau, eps, lam, bias in itertools.product((0, 1), repeat=5):
        recompute = bool((cap + tau + eps + lam) % 2)
        picks = {
            "logit_softcap": cap,
            "temperature": tau,
            "label_smoothing": eps,
            "z_loss": lam,
            "bias": bias,
        }
        picks |= {"dtype": (cap + eps + bias) % 2, "class_weights": (tau + lam + bias) % 2, "mask": lam}
        picks |= {"ignore_index": eps, "transpose_kernel": cap, "chunk_size": 1 + tau}
        case = {name: OPTIONS[name][i] for name, i in picks.items()}
        yield case | {"recompute": recompute, "reduction": "none" if recompute and bias else "mean"}


def data(case, seed=0, peak=1.0):
    """Hidden states, kernel, labels at both ends and within, and the arrays among the options of a case."""
    rng = np.random.default_rng(seed)
    x, w = rng.normal(size=(N, H)), rng.normal(size=(H, V))
    x *= peak / np.abs(x @ w).max()
    y = rng.integers(0, V, N)
    y[:2] = 0, V - 1
    if case["ignore_index"] is not None:
        y[[2, 9]] = case["ignore_index"]
    extra = {"bias": rng.normal(size=V).astype(np.float32) if case["bias"] else None}
    extra["class_weights"] = rng.uniform(0.5, 2, V).astype(np.float32) if case["class_weights"] else None
    extra["where"] = ROWS % 5 != 3 if case["mask"] else None
    extra["weights"] = rng.uniform(0, 2, N).astype(np.float32) if case["mask"] == "both" else None
    ct = rng.normal(size=N).astype(np.float32) if case["reduction"] == "none" else np.float32(1.0)
    return jnp.asarray(x, case["dtype"]), jnp.asarray(w, case["dtype"]), y, extra, ct


def truth(x, w, y, case, extra, ct, **how):
    """``ct·loss`` and its gradients, float64."""
    one, keep = np.ones(N, np.float32), np.ones(N, bool) if extra["where"] is None else extra["where"]
    keep = keep if case["ignore_index"] is None else keep & (y != case["ignore_index"])
    scale = one if extra["class_weights"] is None else extra["class_weights"][np.where(keep, y, 0)]
    names = {"cap": "logit_softcap", "tau": "temperature", "eps": "label_smoothing", "lam": "z_loss"}
    options = {short: case[name] for short, name in names.items()} | {"mean": case["reduction"] == "mean"}
    weight = one if extra["weights"] is None else extra["weights"]
    arrays = {"keep": keep, "weight": weight, "scale": scale, "ct": ct}
    return oracle.cross_entropy(x, w, extra["bias"], y, **arrays, **options, **how)


def ours(x, w, b, y, case, extra, ct):
    names = ("logit_softcap", "label_smoothing", "z_loss", "temperature", "ignore_index", "transpose_kernel")
    options = {n: case[n] for n in (*names, "reduction", "recompute", "chunk_size")}
    options |= {n: extra[n] for n in ("class_weights", "where", "weights")}
    kernel = w.T if case["transpose_kernel"] else w
    return jnp.sum(ct * linear_softmax_cross_entropy(x, kernel, y, bias=b, **options))


def check(case, seed=0):
    """float32: 2e-6; bfloat16: 2 % over the exact gradient rounded once, which is what held float32 logits give.

    On accelerators the gradient of logits is rounded to bfloat16 as well, before its products.
    """
    _, _, y, extra, ct = data(case, seed)
    given = (0, 1) if extra["bias"] is None else (0, 1, 2)
    f = jax.jit(jax.value_and_grad(lambda x, w, b=None: ours(x, w, b, y, case, extra, ct), given))
    for peak in PEAKS:
        x, w, *_ = data(case, seed, peak)
        arguments = (x, w, extra["bias"])[: len(given)]
        compare(f(*arguments), arguments, case, y, extra, ct)


def compare(results, arguments, case, y, extra, ct):
    """Value and gradients with those of float64."""
    value, grads = results
    true, *slopes = truth(*arguments[:2], y, case, extra, ct)
    size, *_ = truth(*arguments[:2], y, case, extra, np.abs(ct))  # cotangents of both signs may cancel
    assert abs(value - true) < 1e-6 * size
    _, *best = truth(*arguments[:2], y, case, extra, ct, operands=oracle.operands(*arguments[:2]))
    for got, slope, argument, reachable in zip(grads, slopes, arguments, best, strict=False):
        assert got.dtype == argument.dtype
        rounded = error(jnp.asarray(reachable, got.dtype), slope) if got.dtype == jnp.bfloat16 else 0
        assert error(got, slope) < max(2e-6, 1.02 * rounded)


@pytest.mark.parametrize(
    "case", [*pairwise(OPTIONS), *interacting()], ids=lambda case: "-".join(map(str, case.values()))
)
def test_value_and_gradients(case):
    check(case)


PLAIN = {name: values[0] for name, values in OPTIONS.items()} | {"chunk_size": 8}


def plain(peak=3.0):
    return data(PLAIN, peak=peak)[:3]


@pytest.mark.parametrize(("recompute", "size"), [(True, 1), (True, V - 1), (False, N - 1), (False, 1000)])
def test_any_chunk_size_gives_the_same(recompute, size):
    case = {"label_smoothing": 0.2, "reduction": "mean", "recompute": recompute, "chunk_size": size}
    check(PLAIN | case)


def test_sizes_follow_the_docstring():
    def columns(features, classes, chunk_size=None):
        x, kernel = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((9, features), (features, classes)))
        return sized("f", Head(), x, kernel, chunk_size).columns

    assert [columns(*sizes) for sizes in ((4096, 128_256), (512, 50_304), (20_000, 128_256))] == [
        4096,
        1024,
        8192,
    ]
    assert [columns(1500, 200), columns(1500, 200, 64)] == [200, 64]


@pytest.mark.parametrize(
    ("platform", "rows", "chunk_size", "tokens"),
    [
        ("cpu", 4096, None, 1024),
        ("cpu", 1001, None, 256),
        ("cpu", 200, None, 128),
        ("cpu", 100, None, 100),
        ("tpu", 4096, None, 640),
        ("tpu", 1001, None, 256),
        ("tpu", 9000, None, 1024),
        ("tpu", 100, 64, 64),
    ],
)
def test_a_chunk_holds_so_many_tokens(platform, rows, chunk_size, tokens):
    """A quarter on a CPU, N·H/V elsewhere, within the docstring's limits, or what is given."""
    loss = lambda x, w: linear_softmax_cross_entropy(
        x, w, jnp.zeros(rows, int), reduction="mean", recompute=False, chunk_size=chunk_size
    )
    gradient = jax.jit(jax.grad(loss)).trace(jnp.zeros((rows, 3)), jnp.zeros((3, 20)))
    text = gradient.lower(lowering_platforms=(platform,)).as_text()
    kept = {
        int(n) for n in re.findall(r"tensor<3x(\d+)x8xf32>", text)
    }  # 3 blocks of a chunk; the last is narrower
    assert max(kept) == tokens


@pytest.mark.parametrize(
    ("backend", "rows", "chunked"), [("cpu", 3 * H, True), ("cpu", 3 * H - 1, False), ("gpu", 3 * H, False)]
)
def test_gradients_are_formed_in_the_forward_pass_on_cpus_with_many_tokens(
    backend, rows, chunked, monkeypatch
):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    x, w, y = jnp.zeros((rows, H)), jnp.zeros((H, V)), jnp.zeros(rows, int)
    loss = lambda x: linear_softmax_cross_entropy(x, w, y, reduction="mean")
    assert ("fused_loss" in str(jax.make_jaxpr(loss)(x))) == chunked


@pytest.mark.parametrize("recompute", [True, False])
def test_a_wrong_label_is_nan_and_only_its_row(recompute):
    x, w, y = plain()
    y[[3, 5, 6]] = V, -1, -100

    @jax.jit
    def everything(x):
        options = {"recompute": recompute, "reduction": "sum", "chunk_size": 8}
        f = lambda x, ignore: linear_softmax_cross_entropy(x, w, y, ignore_index=ignore, **options)
        each = linear_softmax_cross_entropy(x, w, y, ignore_index=-100)
        # an id beyond the range of 8 bits is no other class, and an index that the dtype cannot hold ignores nothing
        small = linear_softmax_cross_entropy(x, w, np.abs(y).astype(np.uint8), ignore_index=-100)
        return *(jax.value_and_grad(f)(x, ignore) for ignore in (None, -100)), each, small

    (total, slope), (_, ignoring), each, small = everything(x)
    assert np.isnan(total)
    assert np.isnan(slope).all(axis=1).nonzero()[0].tolist() == [3, 5, 6]
    assert np.isnan(ignoring).all(axis=1).nonzero()[0].tolist() == [3, 5]
    assert np.isnan(ignoring).any(axis=1).sum() == 2
    assert np.isnan(each).nonzero()[0].tolist() == [3, 5]
    assert each[6] == 0
    assert np.isnan(small).nonzero()[0].tolist() == [3, 6]


@pytest.mark.parametrize("recompute", [True, False])
def test_masked_rows_are_exactly_zero_even_over_nan(recompute):
    x, w, y = plain()
    where = ROWS % 3 != 1
    bad, y[1] = x.at[~where].set(jnp.nan), 999
    b = jnp.zeros(V).at[0].set(-jnp.inf)  # the class that masked rows are given
    y[y == 0] = 1

    @jax.jit
    def f(x, w, weights, where):
        options = {"reduction": "mean", "recompute": recompute, "chunk_size": 8}
        loss = lambda *a: linear_softmax_cross_entropy(
            *a[:2], y, bias=b, where=where, weights=a[2], **options
        )
        return jax.value_and_grad(loss, (0, 1, 2))(x, w, weights)

    clean = f(x.at[~where].set(0.0), w, jnp.ones(N), where)
    for got in (
        f(bad, w, jnp.ones(N), where),
        f(bad, w, jnp.where(where, 1.0, 0.0), np.ones(N, bool)),
    ):
        jax.tree.map(np.testing.assert_array_equal, got, clean)
        assert not np.any(got[1][0][~where])
        assert np.isfinite(got[0])


@pytest.mark.parametrize("recompute", [True, False])
def test_nothing_counted_is_zero(recompute):
    x, w, _ = plain()
    f = lambda x, w: linear_softmax_cross_entropy(
        x, w, np.full(x.shape[0], -100), ignore_index=-100, reduction="mean", recompute=recompute
    )
    value, grads = jax.jit(jax.value_and_grad(f, (0, 1)))(x, w)
    assert value == 0
    assert not any(np.any(g) for g in grads)
    assert jax.jit(f)(x[:0], w) == 0


@pytest.mark.parametrize("peak", [1.0, 160.0])
def test_statistics_and_their_gradients(peak):
    x, w, y = plain(peak)
    b = np.where(np.arange(V) < 12, -np.inf, 0.5)  # a whole first block of -inf
    y, where = np.maximum(y, 12), ROWS > 0
    cts = np.random.default_rng(1).normal(size=(3, N)).astype(np.float32)

    def f(x, w):
        options = {"bias": b, "chunk_size": 8, "return_stats": True, "where": where}
        loss, stats = linear_softmax_cross_entropy(x, w, y, **options)
        return jnp.sum(cts[0] * loss + cts[1] * stats.lse + cts[2] * stats.entropy), stats

    (_, stats), grads = jax.jit(jax.value_and_grad(f, (0, 1), has_aux=True))(x, w)
    z = oracle.logits(x, w, b)[0]
    lse, log_p = oracle.log_softmax(z)
    entropy, p, c = oracle.entropy(log_p), np.exp(log_p), (cts.astype(np.float64) * where)[:, :, None]
    finite = np.where(np.isneginf(log_p), 0, log_p)
    dz = (c[0] + c[1]) * p - c[0] * np.eye(V)[y] - c[2] * p * (finite + entropy[:, None])
    assert error(stats.lse, lse * where) < 1e-6
    assert np.abs(stats.entropy - entropy * where).max() < 2e-6 * max(1, peak / 8)
    assert stats.argmax.tolist() == (z.argmax(1) * where).tolist()
    for got, true in zip(grads, oracle.gradients(x, w, dz), strict=False):
        assert error(got, true) < 2e-6


def test_log_probs_of_any_cotangent():
    x, w, y = plain(20.0)
    ct = np.random.default_rng(2).normal(size=(2, 7)).astype(np.float32)

    def f(x, w):
        got = linear_log_probs(x.reshape(2, 7, H), w, y.reshape(2, 7), chunk_size=8, return_entropy=True)
        return jnp.sum(ct * jnp.sin(got[0])), got

    (_, (log_probs, entropy)), grads = jax.jit(jax.value_and_grad(f, (0, 1), has_aux=True))(x, w)
    log_p = oracle.log_softmax(oracle.logits(x, w)[0])[1]
    picked = log_p[ROWS, y]
    assert log_probs.shape == (2, 7)
    assert error(log_probs.ravel(), picked) < 1e-6
    assert error(entropy.ravel(), oracle.entropy(log_p)) < 1e-5
    dz = (ct.ravel() * np.cos(picked))[:, None] * (np.eye(V)[y] - np.exp(log_p))
    for got, true in zip(grads, oracle.gradients(x, w, dz), strict=False):
        assert error(got, true) < 3e-6
    assert np.isnan(linear_log_probs(x, w, np.full(N, -100))).all()


def held_log_probs(x, w, y):
    return jnp.take_along_axis(jax.nn.log_softmax(x @ w), y[..., None], -1)[..., 0]


def preference_and_policy(log_probs, x, w, y):
    """Every such loss of pairs, ratings and groups, summed with unequal weights, on one policy's tokens."""
    tokens = log_probs(x, w, y)  # [4, 5]: two chosen, then two rejected answers
    sums, means = tokens.sum(1), tokens.mean(1)
    pairs, averages, still = (sums[:2], sums[2:]), (means[:2], means[2:]), np.float32([-9.0, -11.0])
    good, rest = np.array([True, False, True, False]), {"reduction": "mean"}
    terms = [
        losses.dpo_loss(*pairs, still, still[::-1], **rest),
        losses.ipo_loss(*averages, still / 5, still / 5, **rest),
        losses.simpo_loss(*averages, **rest),
        losses.cpo_loss(*pairs, **rest),
        losses.orpo_loss(*averages, **rest),
        losses.kto_loss(sums, np.repeat(still, 2), good, kl=0.1, **rest),
        losses.grpo_loss(
            tokens,
            jax.lax.stop_gradient(tokens) - 0.3,
            np.float32([1, -1, 0.5, -0.5]),
            mask=y > 5,
            variant="dapo",
        ),
        losses.clipped_surrogate_loss(tokens, tokens * 0 - 3.6, jnp.ones((4, 5)), **rest),
    ]
    return sum((i + 1) * term for i, term in enumerate(terms))


def test_chunked_preference_and_policy_losses_equal_the_held_ones():
    rng = np.random.default_rng(3)
    x, w = (rng.normal(size=s).astype(np.float32) for s in ((4, 5, H), (H, V)))
    y = rng.integers(0, V, (4, 5))
    chunked = lambda *a: linear_log_probs(*a, chunk_size=8)
    results = [
        jax.jit(jax.value_and_grad(lambda x, w, f=f: preference_and_policy(f, x, w, y), (0, 1)))(x, w)
        for f in (chunked, held_log_probs)
    ]
    for got, true in zip(*map(jax.tree.leaves, results), strict=True):
        assert error(got, np.asarray(true)) < 2e-6


def test_float64_is_kept():
    x, w, y = plain()
    with jax.enable_x64(True):
        x, w = jnp.asarray(np.asarray(x, np.float64)), jnp.asarray(np.asarray(w, np.float64))
        f = lambda x, w: linear_softmax_cross_entropy(x, w, y, reduction="mean", chunk_size=8)
        value, grads = jax.jit(jax.value_and_grad(f, (0, 1)))(x, w)
        extra = dict.fromkeys(("bias", "class_weights", "where", "weights"))
        true = truth(x, w, y, PLAIN | {"reduction": "mean"}, extra, 1.0)
        assert max(error(g, t) for g, t in zip((value, *grads), true, strict=False)) < 1e-14


@pytest.mark.parametrize("recompute", [True, False])
def test_second_derivatives_forward_mode_and_batches(recompute):
    x, w, y = plain()
    held = lambda x, w: -jnp.mean(held_log_probs(x, w, y))
    options = {"reduction": "mean", "recompute": recompute, "chunk_size": 8}
    mine = lambda x, w, y=y: linear_softmax_cross_entropy(x, w, y, **options)
    direction = (x[::-1], w[:, ::-1])
    derivatives = [jax.jit(lambda d, f=f: jax.jvp(jax.grad(f, (0, 1)), (x, w), d)) for f in (mine, held)]
    got, true = (d(direction) for d in derivatives)
    for g, t in zip(jax.tree.leaves(got), jax.tree.leaves(true), strict=True):
        assert error(g, np.asarray(t)) < 3e-6
    if not recompute:
        tangent = jax.jit(lambda d: jax.jvp(mine, (x, w), d)[1])(direction)
        exact = sum(np.vdot(g, d) for g, d in zip(true[0], direction, strict=True))
        assert float(tangent) == pytest.approx(float(exact), rel=1e-5)
    together = jax.jit(jax.vmap(jax.grad(mine, (0, 1)), (0, None, 0)))(jnp.stack([x, x]), w, np.stack([y, y]))
    for g, t in zip(together, true[0], strict=True):
        assert error(g, np.stack([t, t])) < 1e-6


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
