"""Optimizers on one array in NumPy float64 (complex128), transcribed from the papers.

``trajectory(rule, p, grads)`` runs a rule; a rule is ``rule(t, p, g, memory) -> new p`` with t = 1, 2, … and a
dict for what it keeps. A learning rate is a number or a function of the step, counted from 0.
"""

import numpy as np


def wide(x):
    """float64, or complex128 for complex input."""
    x = np.asarray(x)
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)


def trajectory(rule, p, grads):
    """The parameters before the first and after each step."""
    memory, path = {}, [wide(p)]
    for t, g in enumerate(grads, start=1):
        path.append(rule(t, path[-1], wide(g), memory))
    return np.stack(path)


def rate_at(learning_rate, t):
    """η of step t = 1, 2, …"""
    return float(learning_rate(t - 1)) if callable(learning_rate) else learning_rate


def sgd(learning_rate, momentum=None, nesterov=False):
    """Sutskever et al. 2013: velocity as a decayed sum; Nesterov looks one decay ahead."""

    def rule(t, p, g, memory):
        eta = rate_at(learning_rate, t)
        if momentum is None:
            return p - eta * g
        velocity = momentum * memory.get("v", 0) + g
        memory["v"] = velocity
        return p - eta * (g + momentum * velocity if nesterov else velocity)

    return rule


def adam(learning_rate, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, weight_decay=0.0, nesterov=False):
    """Kingma, Ba 2015, Alg. 1; Loshchilov, Hutter 2019, Alg. 2 (decay times η); Dozat 2016, Alg. 8."""

    def rule(t, p, g, memory):
        m = memory["m"] = b1 * memory.get("m", 0) + (1 - b1) * g
        v = memory["v"] = b2 * memory.get("v", 0) + (1 - b2) * np.abs(g) ** 2
        v_hat = v / (1 - b2**t)
        ahead = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        m_hat = ahead if nesterov else m / (1 - b1**t)
        return p - rate_at(learning_rate, t) * (m_hat / (np.sqrt(v_hat + eps_root) + eps) + weight_decay * p)

    return rule


def global_norm(leaves):
    """√Σ|x|² over a list of arrays."""
    return np.sqrt(sum(np.sum(np.abs(wide(x)) ** 2) for x in leaves))


def clip_by_global_norm(leaves, max_norm):
    """Pascanu et al. 2013: rescaled only when the norm exceeds the threshold."""
    norm = global_norm(leaves)
    return [wide(x) * (max_norm / norm if norm > max_norm else 1.0) for x in leaves]


def bias_correction(decay, t):
    """1 − βᵗ from the float64 value of β, without cancellation."""
    return -np.expm1(np.asarray(t, np.float64) * np.log1p(np.float64(decay) - 1))
