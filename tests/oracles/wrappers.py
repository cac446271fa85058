"""Wrappers in NumPy float64: a small optax on lists of arrays, transcribed from the papers.

A transformation is a pair ``init(ps) -> state`` and ``update(gs, state, ps, **extra) -> (us, state)`` on lists of
arrays; ``run`` takes a pair through some gradients. States are dicts.
"""

from typing import Any, NamedTuple

import numpy as np


class Pair(NamedTuple):
    init: Any
    update: Any


def run(pair, ps, gradients, grad_fn=None):
    """The updates of every step, and the parameters and states after each."""
    ps, state = list(ps), pair.init(ps)
    updates, path, states = [], [], []
    for gs in gradients:
        us, state = pair.update(gs, state, ps, **({} if grad_fn is None else {"grad_fn": grad_fn}))
        ps = [p + u for p, u in zip(ps, us, strict=True)]
        updates.append(us)
        path.append(ps)
        states.append(state)
    return updates, path, states


def zeros(xs):
    return [np.zeros_like(x) for x in xs]


def norm(xs):
    return np.sqrt(sum(np.sum(np.abs(x) ** 2) for x in xs))


def finite(xs):
    return all(np.isfinite(x).all() for x in xs)


def momentum(eta, mu):
    """m = μ·m + g, u = −η·m."""

    def update(gs, state, ps, **extra):
        ms = [mu * m + g for m, g in zip(state["m"], gs, strict=True)]
        return [-eta * m for m in ms], {"m": ms}

    return Pair(lambda ps: {"m": zeros(ps)}, update)


def accumulate(inner, steps):
    """The inner update for the mean of a window's gradients, at its end."""

    def update(gs, state, ps, **extra):
        window = [*state["window"], gs]
        if len(window) < steps:
            return zeros(gs), {**state, "window": window}
        mean = [sum(parts) / steps for parts in zip(*window, strict=True)]
        us, new = inner.update(mean, state["inner"], ps, **extra)
        return us, {"window": [], "inner": new}

    return Pair(lambda ps: {"window": [], "inner": inner.init(ps)}, update)


def ema_params(inner, decay):
    """e = d·e + (1 − d)·p after every step, from e₀ = p₀; d may be a function of the step."""

    def update(gs, state, ps, **extra):
        us, new = inner.update(gs, state["inner"], ps, **extra)
        d = decay(state["t"]) if callable(decay) else decay
        rows = zip(state["ema"], ps, us, strict=True)
        return us, {"t": state["t"] + 1, "inner": new, "ema": [d * e + (1 - d) * (p + u) for e, p, u in rows]}

    return Pair(lambda ps: {"t": 0, "ema": list(ps), "inner": inner.init(ps)}, update)


def lookahead(inner, steps, rate):
    """Zhang et al. 2019, Alg. 1: after k fast steps, slow += α·(fast − slow) and fast = slow."""

    def update(gs, state, ps, **extra):
        us, new = inner.update(gs, state["inner"], ps, **extra)
        t, slow = state["t"] + 1, state["slow"]
        if t % steps == 0:
            fast = [p + u for p, u in zip(ps, us, strict=True)]
            slow = [s + rate * (f - s) for s, f in zip(slow, fast, strict=True)]
            us = [s - p for s, p in zip(slow, ps, strict=True)]
        return us, {"t": t, "slow": slow, "inner": new}

    return Pair(lambda ps: {"t": 0, "slow": list(ps), "inner": inner.init(ps)}, update)


def cautious(inner):
    """Liang et al. 2024: u·m / max(mean(m), 1e-3) with m = [−u·g > 0]; Re(conj(g)·u) for complex ones."""

    def leaf(u, g):
        mask = (-(np.conj(g) * u).real > 0).astype(np.float64)
        return u * mask / max(mask.mean(), 1e-3)

    def update(gs, state, ps, **extra):
        us, state = inner.update(gs, state, ps, **extra)
        return [leaf(u, g) for u, g in zip(us, gs, strict=True)], state

    return Pair(inner.init, update)


def sam(inner, rho):
    """Foret et al. 2021, Alg. 1: the inner update for the gradient at p + ρ·g/‖g‖."""

    def update(gs, state, ps, *, grad_fn):
        size = norm(gs)
        there = [p + (rho * g / size if size > 0 else 0) for p, g in zip(ps, gs, strict=True)]
        return inner.update(grad_fn(there), state, ps)

    return Pair(inner.init, update)


def skip_nonfinite(inner, most=None):
    """Zero, and the old state, unless gradients and updates are finite or more than ``most`` in a row were not."""

    def update(gs, state, ps, **extra):
        us, new = inner.update(gs, state["inner"], ps, **extra)
        good = finite(gs) and finite(us)
        row = 0 if good else state["row"] + 1
        passes = good or (most is not None and row > most)
        total = state["total"] + (not good)
        kept = {"row": row, "total": total, "inner": new if passes else state["inner"]}
        return (us if passes else zeros(us)), kept

    return Pair(lambda ps: {"row": 0, "total": 0, "inner": inner.init(ps)}, update)


def dynamic_loss_scale(inner, initial, factor, period, minimum=1.0):
    """Micikevicius et al. 2018: unscale; halve and skip on overflow; double after ``period`` good steps."""

    def update(gs, state, ps, **extra):
        scale, good = state["scale"], state["good"] + 1
        if not finite(gs):
            down = max(scale / factor, min(scale, minimum))
            return zeros(gs), {**state, "scale": down, "good": 0, "skipped": state["skipped"] + 1}
        us, new = inner.update([g / scale for g in gs], state["inner"], ps, **extra)
        grows = good == period
        scale, good = (scale * factor, 0) if grows else (scale, good)
        return us, {"scale": scale, "good": good, "skipped": state["skipped"], "inner": new}

    return Pair(lambda ps: {"scale": initial, "good": 0, "skipped": 0, "inner": inner.init(ps)}, update)


def decay(inner, rates):
    """u − λₜ·p; ``rates(t)`` gives one λ for each leaf, t = 0, 1, …"""

    def update(gs, state, ps, **extra):
        us, new = inner.update(gs, state["inner"], ps, **extra)
        shrunk = [u - c * p for u, c, p in zip(us, rates(state["t"]), ps, strict=True)]
        return shrunk, {"t": state["t"] + 1, "inner": new}

    return Pair(lambda ps: {"t": 0, "inner": inner.init(ps)}, update)


def clip_by_block_rms(g, threshold):
    """Shazeer, Stern 2018, Alg. 3: u / max(1, RMS(u) / d)."""
    return g / max(1.0, np.sqrt(np.mean(np.abs(g) ** 2)) / threshold)


def adaptive_grad_clip(g, p, clipping, eps, axes):
    """Brock et al. 2021, eq. 3: λ·max(‖W‖, ε)/‖G‖·G where ‖G‖/max(‖W‖, ε) > λ, unit by unit."""
    size = lambda x: np.sqrt(np.sum(np.abs(x) ** 2, axis=axes, keepdims=True))
    bound = np.maximum(size(p), eps)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(size(g) / bound > clipping, clipping * bound / size(g) * g, g)


def per_example_clip(gs, max_norm):
    """Abadi et al. 2016, Alg. 1, without noise: Σᵦ gᵦ / max(1, ‖gᵦ‖/C); an example that is not finite is 0."""
    total = [np.zeros(g.shape[1:]) for g in gs]
    for b in range(len(gs[0])):
        example = [g[b] for g in gs]
        if finite(example):
            size = norm(example)
            factor = 1.0 if size <= max_norm else max_norm / size
            total = [t + factor * g for t, g in zip(total, example, strict=True)]
    return total
