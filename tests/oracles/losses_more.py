"""Ranking, segmentation, sequence, preference and policy losses from their formulas, and how to hold ours to them.

The formulas of one example are in 60-digit arithmetic, in the calling convention of ``oracles.losses``; those of a
whole batch (segmentation, CTC, GRPO) in NumPy float64, by loops that follow the definition.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.oracles.losses import evaluate, exp, log, mp, mpf, sqrt

HOSTILE = (0.0, 2.0**-24, -(2.0**-24), 1e-3, -1e-3, 1.0, -1.0, 30.0, -30.0, 1e4, -1e4)
DTYPES = (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64)


def grid(count: int) -> list[np.ndarray]:
    """Every pair of hostile values in the first two arguments, with further ones cycling in the rest."""
    pairs = list(itertools.product(HOSTILE, repeat=2))
    columns = [np.array(c) for c in zip(*pairs, strict=True)]
    cycle = np.array([HOSTILE[(7 * i) % len(HOSTILE)] for i in range(len(pairs))])
    return (columns + [np.roll(cycle, 3 * k) for k in range(count)])[:count]


def assert_as_good_as_its_inputs(loss, oracle, arrays, dtype, differentiate=(0, 1), tiny=1e-37, **options):
    """Value and gradient within 4 ulp of the exact ones, or of what an input rounded by 4 ulp would give.

    Exact gradients at kinks are NaN and skipped. ``arrays`` are float64; integers and booleans are kept.
    """
    with jax.enable_x64(dtype == jnp.float64):
        inputs = [jnp.asarray(a, dtype) if a.dtype == np.float64 else jnp.asarray(a) for a in arrays]
        exact = [np.asarray(a.astype(jnp.float64) if dtype == jnp.float64 else a, np.float64) for a in inputs]

        def run(*inputs):
            value, vjp = jax.vjp(lambda *xs: loss(*xs, **options), *inputs)
            cotangents = vjp(jnp.ones_like(value))
            return value, [cotangents[i] for i in differentiate]

        value, gradients = jax.jit(run)(*inputs)
        assert value.dtype == (jnp.float64 if dtype == jnp.float64 else jnp.float32)
        assert all(g.dtype == dtype for g in gradients)
    eps, eps_out = float(jnp.finfo(value.dtype).eps), float(jnp.finfo(dtype).eps)
    ours = [np.asarray(x, np.float64) for x in (value, *gradients)]
    v, g = evaluate(oracle, *exact, differentiate=differentiate, **options)
    theirs = [v, *(x[:, 0] for x in g)]
    slack = [4 * (eps_out if i else eps) * np.abs(t) for i, t in enumerate(theirs)]
    for i in range(len(exact)):
        moved = list(exact)
        moved[i] = exact[i] * (1 + 4 * eps)
        v, g = evaluate(oracle, *moved, differentiate=differentiate, **options)
        slack = [s + np.abs(m - t) for s, m, t in zip(slack, [v, *(x[:, 0] for x in g)], theirs, strict=True)]
    largest = [float(jnp.finfo(value.dtype).max)] + [float(jnp.finfo(dtype).max)] * len(gradients)
    for got, want, s, high in zip(ours, theirs, slack, largest, strict=True):
        check = np.isfinite(want) & ~np.isnan(s) & (np.abs(want) < high)
        assert check.sum() > len(want) / 2
        error = np.abs(got - want)
        floor = float(jnp.finfo(dtype).smallest_subnormal) if dtype == jnp.float16 else tiny
        bad = check & ~(error <= s + floor)
        assert not bad.any(), [(a[bad][:4], got[bad][:4], want[bad][:4]) for a in exact]
        assert not np.isnan(got).any()


def assert_smooth(f, *args, step=1e-5):
    """In float64: finite differences = forward mode = reverse mode, and so for second derivatives."""
    with jax.enable_x64(True):
        args = tuple(jnp.asarray(np.asarray(a), jnp.float64) for a in args)
        rng = np.random.default_rng(1)
        along = tuple(jnp.asarray(rng.standard_normal(a.shape)) for a in args)
        weigh = lambda y: jnp.sum(y * jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))
        first = jax.jit(jax.value_and_grad(lambda xs: weigh(f(*xs))))
        (_, gradient), (slope, bend) = jax.jit(lambda xs: jax.jvp(first, (xs,), (along,)))(args)
        steps = [first(tuple(a + h * u for a, u in zip(args, along, strict=True))) for h in (step, -step)]
        (right, right_gradient), (left, left_gradient) = jax.tree.map(np.asarray, steps)
        gradient, slope, bend, along = jax.tree.map(np.asarray, (gradient, slope, bend, along))
    np.testing.assert_allclose(
        slope, sum(np.vdot(g, u) for g, u in zip(gradient, along, strict=True)), rtol=1e-9
    )
    np.testing.assert_allclose(slope, (right - left) / (2 * step), rtol=1e-6, atol=1e-7)
    for b, r, l in zip(bend, right_gradient, left_gradient, strict=True):
        np.testing.assert_allclose(b, (r - l) / (2 * step), rtol=1e-5, atol=1e-6)


def assert_names_the_fault(name, argument, call, error=ValueError):
    """The message names function and argument, what was got and what was expected."""
    with pytest.raises(error, match=rf"{name}: {argument} .*expected"):
        call()


# Ranking: rows of one list.
def ranking_softmax_loss(s, y):
    total = log(sum(exp(x) for x in s))
    return sum(v * (total - x) for x, v in zip(s, y, strict=True))


def pairwise_logistic_loss(s, y):
    pairs = [(i, j) for i in range(len(s)) for j in range(len(s)) if y[i] > y[j]]
    return sum((_softplus(s[j] - s[i]) for i, j in pairs), mpf(0))


def list_mle(s, y):
    s = [s[i] for i in sorted(range(len(s)), key=lambda i: -y[i])]
    return sum((log(sum(exp(x) for x in s[i:])) - s[i] for i in range(len(s))), mpf(0))


# Segmentation: float64 arrays [B, ..., C].
def probabilities(x):
    if x.shape[-1] == 1:
        return 1 / (1 + np.exp(np.minimum(-x, 700)))
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def dice_loss(p, t, smooth=1.0, alpha=0.5, beta=0.5, class_weights=None, pixels=None):
    out = np.zeros(len(p))
    for b, c in itertools.product(range(len(p)), range(p.shape[-1])):
        hit = false_positive = false_negative = 0.0
        for at in np.ndindex(p.shape[1:-1]):
            if pixels is None or pixels[(b, *at)]:
                q, r = p[(b, *at, c)], t[(b, *at, c)]
                hit, false_positive, false_negative = (
                    hit + q * r,
                    false_positive + q * (1 - r),
                    false_negative + (1 - q) * r,
                )
        low = hit + alpha * false_positive + beta * false_negative + smooth
        loss = 0.0 if low == 0 else 1 - (hit + smooth) / low
        out[b] += loss * (1.0 if class_weights is None else class_weights[c]) / p.shape[-1]
    return out


# Sequence: one example, by enumerating all paths.
def ctc_loss(log_p, labels, blank=0):
    frames, classes = log_p.shape
    found = []
    for path in itertools.product(range(classes), repeat=frames):
        merged = [k for i, k in enumerate(path) if i == 0 or path[i - 1] != k]
        if [k for k in merged if k != blank] == list(labels):
            found.append(sum(log_p[t, k] for t, k in enumerate(path)))
    return -np.logaddexp.reduce(found) if found else math.inf


# Preference: rows of length 1.
def _softplus(x):
    return mp.log1p(exp(x))


def _sigmoid(x):
    return 1 / (1 + exp(-x))


def dpo_loss(w, l, w_ref, l_ref, beta=0.1, label_smoothing=0.0, variant="sigmoid"):
    x, e = mpf(beta) * ((w[0] - w_ref[0]) - (l[0] - l_ref[0])), mpf(label_smoothing)
    if variant == "hinge":
        return max(mpf(0), 1 - x)
    sign = 1 if variant == "sigmoid" else -1
    loss = (1 - e) * _softplus(-x) + sign * e * _softplus(x)
    return loss if variant == "sigmoid" else loss / (1 - 2 * e)


def ipo_loss(w, l, w_ref, l_ref, beta=0.1):
    return ((w[0] - w_ref[0]) - (l[0] - l_ref[0]) - 1 / (2 * mpf(beta))) ** 2


def simpo_loss(w, l, beta=2.0, gamma=1.0):
    return _softplus(-(mpf(beta) * (w[0] - l[0]) - mpf(gamma)))


def cpo_loss(w, l, beta=0.1, alpha=1.0):
    return _softplus(-mpf(beta) * (w[0] - l[0])) - mpf(alpha) * w[0]


def orpo_loss(w, l, beta=0.1):
    log_odds = [a - log(-mp.expm1(a)) for a in (w[0], l[0])]
    return -w[0] + mpf(beta) * _softplus(log_odds[1] - log_odds[0])


def kto_loss(w, w_ref, good, kl=0.0, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0):
    ahead = mpf(beta) * (w[0] - w_ref[0] - max(mpf(0), mpf(kl)))
    return (
        mpf(desirable_weight) * (1 - _sigmoid(ahead))
        if good[0]
        else mpf(undesirable_weight) * (1 - _sigmoid(-ahead))
    )


def bradley_terry_loss(c, r, margin=0.0, centering=0.0):
    return _softplus(-(c[0] - r[0] - mpf(margin))) + mpf(centering) * (c[0] + r[0]) ** 2


# Policy: rows of length 1, but for entropy and advantages.
def clipped_surrogate_loss(new, old, a, clip_low=0.2, clip_high=None, dual_clip=None):
    low, high = 1 - mpf(clip_low), 1 + mpf(clip_low if clip_high is None else clip_high)
    ratio = exp(new[0] - old[0])
    loss = -min(ratio * a[0], max(low, min(high, ratio)) * a[0])
    return min(loss, -mpf(dual_clip) * a[0]) if dual_clip is not None and a[0] < 0 else loss


def k3_kl(new, reference):
    d = reference[0] - new[0]
    return exp(d) - d - 1


def value_clip_loss(v, old, r, clip=0.2):
    held = max(old[0] - mpf(clip), min(old[0] + mpf(clip), v[0]))
    return max((v[0] - r[0]) ** 2, (held - r[0]) ** 2) / 2


def policy_entropy(z):
    total = log(sum(exp(x) for x in z))
    return sum(exp(x - total) * (total - x) for x in z)


def group_advantages(rewards, eps=1e-4):
    rows = [[mpf(float(r)) for r in row] for row in rewards]
    out = []
    for row in rows:
        mean = sum(row) / len(row)
        std = sqrt(sum((r - mean) ** 2 for r in row) / (len(row) - 1))
        out.append([float((r - mean) / (std + mpf(eps))) for r in row])
    return np.array(out)


def grpo_loss(new, old, a, mask, variant, low, high, reference=None, kl_weight=0.0, max_length=None):
    """Float64 arrays, token by token."""
    sequences, tokens, sums = [], mask.sum(), 0.0
    for b in range(len(new)):
        total, n = 0.0, mask[b].sum()
        mean_ratio = math.exp((new[b] - old[b])[mask[b]].sum() / max(n, 1))
        for t in np.flatnonzero(mask[b]):
            ratio = mean_ratio if variant == "gspo" else math.exp(new[b, t] - old[b, t])
            if variant == "cispo":
                loss = -min(ratio, 1 + high) * a[b] * new[b, t]
            else:
                loss = -min(ratio * a[b], min(max(ratio, 1 - low), 1 + high) * a[b])
            if reference is not None:
                d = reference[b, t] - new[b, t]
                loss += kl_weight * (math.exp(d) - d - 1)
            total += loss
        sums += total
        sequences.append(total / max(n, 1))
    if variant in ("grpo", "gspo"):
        return sum(sequences) / len(new)
    return sums / (len(new) * (max_length or new.shape[1]) if variant == "dr_grpo" else max(tokens, 1))
