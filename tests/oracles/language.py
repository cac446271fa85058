"""Losses of an output head, transcribed from their formulas on whole logits, with gradients; NumPy, float64."""

import jax
import ml_dtypes
import numpy as np


def logits(x, w, b=None, cap=None, tau=1.0):
    """``z = c·tanh((x·w + b) / c) / τ`` and its slope ``∂z/∂(x·w + b)``."""
    a = np.asarray(x, np.float64) @ np.asarray(w, np.float64)
    a = a if b is None else a + np.asarray(b, np.float64)
    t = np.tanh(a / cap) if cap else 0.0
    return (cap * t if cap else a) / tau, (1 - t**2) / tau


def log_softmax(z):
    """The log-sum-exp of every row, and ``log p``."""
    top = z.max(1, keepdims=True)
    lse = top + np.log(np.exp(z - top).sum(1, keepdims=True))
    return lse[:, 0], z - lse


def entropy(log_p):
    return -np.sum(np.exp(log_p) * np.where(np.isneginf(log_p), 0, log_p), axis=1)


def gradients(x, w, da, operands=np.float64):
    """Of x, w and b from that of ``x·w + b``, which enters products as ``operands``."""
    x, w = np.asarray(x, np.float64), np.asarray(w, np.float64)
    a = da.astype(operands).astype(np.float64)
    return a @ w.T, x.T @ a, da.sum(0)


def operands(*arrays):
    """The dtype in which ∂(x·w + b) enters products: on accelerators bfloat16 where x and w are."""
    narrow = jax.default_backend() != "cpu" and all(a.dtype == ml_dtypes.bfloat16 for a in arrays)
    return ml_dtypes.bfloat16 if narrow else np.float64


def cross_entropy(x, w, b, y, *, keep, weight, scale, ct, mean, cap=None, tau=1.0, eps=0.0, lam=0.0, **how):
    """``Σ ct·ℓ`` (over the summed weights of what counts when ``mean``), and its gradients in x, w and b.

    ``keep``, ``weight`` and ``scale`` (the class weight of each label) are ``[N]``.
    """
    z, slope = logits(x, w, b, cap, tau)
    lse, log_p = log_softmax(z)
    classes, rows, label = z.shape[1], np.arange(len(z)), np.where(keep, y, 0)
    factor = keep * scale.astype(np.float64) * weight.astype(np.float64)
    factor = factor / factor.sum() if mean else factor
    factor = factor * np.asarray(ct, np.float64)
    losses = lse - (1 - eps) * z[rows, label] - eps * z.mean(1) + lam * lse**2
    dz = (1 + 2 * lam * lse[:, None]) * np.exp(log_p) - (1 - eps) * np.eye(classes)[label] - eps / classes
    return np.sum(factor * losses), *gradients(x, w, factor[:, None] * dz * slope, **how)


def divergence(beta, s, t):
    """``D [N]`` of log-probabilities ``s`` from ``t``, and ``∂D/∂s`` with M's own dependence on s in it."""
    student, teacher = np.exp(s), np.exp(t)
    if beta == 0:
        return (teacher * (t - s)).sum(1), -teacher
    if beta == 1:
        return (student * (s - t)).sum(1), student * (s - t + 1)
    m = np.log(beta * teacher + (1 - beta) * student)
    share = (1 - beta) * student / np.exp(m)  # ∂m/∂s
    losses = (beta * teacher * (t - m) + (1 - beta) * student * (s - m)).sum(1)
    return losses, -beta * teacher * share + (1 - beta) * student * (s - m + 1 - share)


def distillation(x, w, u, k, *, beta, tau, cap, ct, **how):
    """``Σ ct·ℓ`` of the student's head against the teacher's, and the gradients in x and w."""
    z, slope = logits(x, w, None, cap, tau)
    s, t = log_softmax(z)[1], log_softmax(logits(u, k, None, cap, tau)[0])[1]
    losses, pull = divergence(beta, s, t)
    dz = pull - np.exp(s) * pull.sum(1, keepdims=True)
    return np.sum(tau**2 * ct * losses), *gradients(x, w, tau**2 * ct[:, None] * dz * slope, **how)[:2]


def error(got, true):
    """The distance of ``got`` from ``true``, relative to the size of ``true``."""
    return np.linalg.norm(np.asarray(got, np.float64) - true) / np.linalg.norm(true)
