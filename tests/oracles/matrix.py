"""Matrix optimizers on one matrix in NumPy float64 (complex128), transcribed from the papers; see ``optimizers``."""

import functools
import json
import pathlib

import jax
import numpy as np

import jaxopt_lite as jol
from tests.oracles.optimizers import rate_at, wide

STEPS = 200
JORDAN = [(3.4445, -4.7750, 2.0315)] * 5


def polar(x):
    """U·Vᴴ from the singular value decomposition; directions with singular value 0 left out."""
    u, s, vh = np.linalg.svd(x, full_matrices=False)
    return (u * (s > 1e-12 * s.max())) @ vh


def newton_schulz(x, coefficients):
    """Jordan et al. 2024: the polynomial on singular values, through the decomposition rather than by products."""
    u, s, vh = np.linalg.svd(x, full_matrices=False)
    norm = np.linalg.norm(s)
    s = s / norm if norm else s
    for a, b, c in coefficients:
        s = a * s + b * s**3 + c * s**5
    return (u * s) @ vh


def width_scale(shape, scale):
    """Jordan et al. 2024 for [in, out]; Liu et al. 2025, sec. 2.2."""
    inputs, outputs = shape
    return max(1, outputs / inputs) ** 0.5 if scale == "original" else 0.2 * max(inputs, outputs) ** 0.5


def muon(
    learning_rate, momentum=0.95, nesterov=True, coefficients=JORDAN, scale="original", weight_decay=0.0
):
    """Jordan et al. 2024, Algorithm 2, with the momentum as an average; Liu et al. 2025, eq. 4."""

    def rule(t, p, g, memory):
        m = memory["m"] = momentum * memory.get("m", 0) + (1 - momentum) * g
        d = momentum * m + (1 - momentum) * g if nesterov else m
        o = width_scale(p.shape, scale) * newton_schulz(d, coefficients)
        return p - rate_at(learning_rate, t) * (o + weight_decay * p)

    return rule


def normuon(learning_rate, momentum=0.95, b2=0.95, eps=1e-8, weight_decay=0.0):
    """Li et al. 2025, Alg. 1, for [in, out]: a neuron is a column; the Frobenius norm is kept."""

    def rule(t, p, g, memory):
        m = memory["m"] = momentum * memory.get("m", 0) + (1 - momentum) * g
        o = newton_schulz(momentum * m + (1 - momentum) * g, JORDAN)
        v = memory["v"] = b2 * memory.get("v", 0) + (1 - b2) * np.mean(np.abs(o) ** 2, axis=0)
        d = o / (np.sqrt(v) + eps)
        d = d * np.linalg.norm(o) / np.linalg.norm(d)
        return p - rate_at(learning_rate, t) * (width_scale(p.shape, "original") * d + weight_decay * p)

    return rule


def soap(learning_rate, b1=0.95, b2=0.95, eps=1e-8, weight_decay=0.01, every=10, sides=(True, True)):
    """Vyas et al. 2024, Alg. 3 and 4, and its first step as in the authors' code: it only builds the basis."""

    def rule(t, p, g, memory):
        if t == 1:
            memory |= {"l": (1 - b2) * g @ g.conj().T, "r": (1 - b2) * g.conj().T @ g, "m": 0 * p, "v": 0}
            basis = lambda a, on: np.linalg.eigh(a)[1][:, ::-1] if on else np.eye(len(a))
            memory |= {"ql": basis(memory["l"], sides[0]), "qr": basis(memory["r"], sides[1])}
            return p
        ql, qr = memory["ql"], memory["qr"]
        project = lambda x: ql.conj().T @ x @ qr
        memory["m"] = b1 * memory["m"] + (1 - b1) * g
        v = memory["v"] = b2 * memory["v"] + (1 - b2) * np.abs(project(g)) ** 2
        d = (project(memory["m"]) / (1 - b1 ** (t - 1))) / (np.sqrt(v / (1 - b2 ** (t - 1))) + eps)
        new = p - rate_at(learning_rate, t) * (ql @ d @ qr.conj().T + weight_decay * p)
        memory["l"] = b2 * memory["l"] + (1 - b2) * g @ g.conj().T
        memory["r"] = b2 * memory["r"] + (1 - b2) * g.conj().T @ g
        if (t - 1) % every == 0:
            for axis, (a, q) in enumerate((("l", "ql"), ("r", "qr"))):
                if sides[axis]:
                    memory[q], order = refreshed(memory[a], memory[q])
                    memory["v"] = np.take(memory["v"], order, axis)
        return new

    return rule


def refreshed(a, q):
    """Vyas et al. 2024, Alg. 4: one power iteration and QR, eigenvalue estimates descending."""
    order = np.argsort(-np.diag(q.conj().T @ a @ q).real, kind="stable")
    return np.linalg.qr(a @ q[:, order])[0], order


def shampoo(learning_rate, b1=0.9, b2=0.999, eps=1e-12, weight_decay=0.0, every=10, block=1024, graft="adam"):
    """Gupta et al. 2018, Alg. 1, with averages; Shi et al. 2023: blocks, bias correction, grafting, momentum."""

    def rule(t, p, g, memory):
        for i in range(0, p.shape[0], block):
            for j in range(0, p.shape[1], block):
                part = np.s_[i : i + block, j : j + block]
                own = memory.setdefault((i, j), {"l": 0, "r": 0})
                own["l"] = b2 * own["l"] + (1 - b2) * g[part] @ g[part].conj().T
                own["r"] = b2 * own["r"] + (1 - b2) * g[part].conj().T @ g[part]
                if (t - 1) % every == 0:
                    own["roots"] = [inverse_root(own[k] / (1 - b2**t), eps) for k in "lr"]
        v = memory["v"] = b2 * memory.get("v", 0) + (1 - b2) * np.abs(g) ** 2
        m = memory["m"] = b1 * memory.get("m", 0) + (1 - b1) * g
        m = m / (1 - b1**t)
        d = np.zeros_like(p)
        for i, j in [key for key in memory if isinstance(key, tuple)]:
            part = np.s_[i : i + block, j : j + block]
            left, right = memory[i, j]["roots"]
            d[part] = left @ m[part] @ right
            other = {"adam": m / (np.sqrt(v / (1 - b2**t)) + 1e-8), "sgd": m, None: d}[graft][part]
            norm = np.linalg.norm(d[part])
            d[part] *= np.linalg.norm(other) / norm if norm else 1
        return p - rate_at(learning_rate, t) * (d + weight_decay * p)

    return rule


def inverse_root(a, eps):
    """(A + ε)^(−1/4)."""
    values, vectors = np.linalg.eigh(a)
    return (vectors * (np.maximum(values, 0) + eps) ** -0.25) @ vectors.conj().T


def hyperball(p, d, radius):
    """Wen et al. 2025: the parameters after the step d, moved back to the sphere of their first norm."""
    return (p + d) * radius / np.linalg.norm(p + d)


def gradients(shape, seed=0, steps=STEPS):
    """Float32 gradients with some drift, sizes 0.1 … 10 a step, and a matrix of parameters."""
    rng = np.random.default_rng(seed)
    drift, size = rng.normal(size=shape), 10 ** rng.uniform(-1, 1, steps)
    grads = np.stack([c * (0.5 * drift + rng.normal(size=shape)) for c in size])
    return rng.normal(size=shape).astype(np.float32), grads.astype(np.float32)


def path(tx, params, grads):
    """The parameters after every step, from one compiled scan; trees of arrays, the steps first."""

    def body(carry, g):
        state, p = carry
        updates, state = tx.update(g, state, p)
        p = jol.apply_updates(p, updates)
        return (state, p), p

    run = jax.jit(lambda p, gs: jax.lax.scan(body, (tx.init(p), p), gs)[1])
    return jax.tree.map(lambda x: np.asarray(x, wide(x).dtype), run(params, grads))


@functools.cache
def golden():
    """What PyTorch and pytorch-optimizer make of some matrices, by name."""
    path = pathlib.Path(__file__).parent.parent / "golden" / "matrix_torch.json"
    return json.loads(path.read_text())["records"]


def check_golden(name, tx, atol):
    """Assert that ``tx`` takes PyTorch's path; its kernels are [out, in]."""
    record = golden()[name]
    start, grads = (np.asarray(record[k], np.float32).swapaxes(-1, -2) for k in ("start", "grads"))
    got = path(tx, start, grads)[record["kept"]]
    np.testing.assert_allclose(got, np.swapaxes(record["path"], -1, -2), atol=atol)
