"""Optimizers on one array in NumPy float64 (complex128), transcribed from the papers.

``trajectory(rule, p, grads)`` runs a rule; a rule is ``rule(t, p, g, memory) -> new p`` with t = 1, 2, … and a
dict for what it keeps. A learning rate is a number or a function of the step, counted from 0.
"""

import mpmath
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


def signum(learning_rate, beta=0.9, weight_decay=0.0):
    """Bernstein et al. 2018, Alg. 2; with β = 0 it is Alg. 1, signSGD. A complex sign is the direction."""

    def rule(t, p, g, memory):
        m = memory["m"] = beta * memory.get("m", 0) + (1 - beta) * g
        return p - rate_at(learning_rate, t) * (direction(m) + weight_decay * p)

    return rule


def direction(x):
    """x / |x|, and 0 at 0."""
    size = np.abs(x)
    return np.where(size > 0, x / np.where(size > 0, size, 1), 0)


def amsgrad(
    learning_rate,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    eps_root=0.0,
    bias_correction_mu=True,
    bias_correction_nu=True,
    weight_decay=0.0,
):
    """Reddi, Kale, Kumar 2018, Alg. 2, with optax's choice of bias corrections."""

    def rule(t, p, g, memory):
        m = memory["m"] = b1 * memory.get("m", 0) + (1 - b1) * g
        v = memory["v"] = b2 * memory.get("v", 0) + (1 - b2) * np.abs(g) ** 2
        v_hat = v / (1 - b2**t) if bias_correction_nu else v
        top = memory["top"] = np.maximum(memory.get("top", 0), v_hat)
        m_hat = m / (1 - b1**t) if bias_correction_mu else m
        return p - rate_at(learning_rate, t) * (m_hat / (np.sqrt(top + eps_root) + eps) + weight_decay * p)

    return rule


def adamax(learning_rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0):
    """Kingma, Ba 2015, Alg. 2, with ε beside |g|."""

    def rule(t, p, g, memory):
        m = memory["m"] = b1 * memory.get("m", 0) + (1 - b1) * g
        u = memory["u"] = np.maximum(b2 * memory.get("u", 0), np.abs(g) + eps)
        return p - rate_at(learning_rate, t) * (m / (1 - b1**t) / u + weight_decay * p)

    return rule


def radam(
    learning_rate, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, threshold=5.0, nesterov=False, weight_decay=0.0
):
    """Liu et al. 2020, Alg. 2, with the code's threshold of 5. ρ in mpmath: it cancels all digits in float64."""

    def rule(t, p, g, memory):
        m = memory["m"] = b1 * memory.get("m", 0) + (1 - b1) * g
        v = memory["v"] = b2 * memory.get("v", 0) + (1 - b2) * np.abs(g) ** 2
        ahead = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        step = ahead if nesterov else m / (1 - b1**t)
        limit = 2 / (1 - b2) - 1
        with mpmath.workdps(40):
            power = mpmath.mpf(b2) ** t
            rho = float(2 / (1 - mpmath.mpf(b2)) - 1 - 2 * t * power / (1 - power))
        if rho >= threshold:
            r = np.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))
            step = r * step / (np.sqrt(v / (1 - b2**t) + eps_root) + eps)
        return p - rate_at(learning_rate, t) * (step + weight_decay * p)

    return rule


def adabelief(learning_rate, b1=0.9, b2=0.999, eps=1e-16, eps_root=1e-16, nesterov=False, weight_decay=0.0):
    """Zhuang et al. 2020, Alg. 2."""

    def rule(t, p, g, memory):
        m = memory["m"] = b1 * memory.get("m", 0) + (1 - b1) * g
        s = memory["s"] = b2 * memory.get("s", 0) + (1 - b2) * np.abs(g - m) ** 2 + eps_root
        ahead = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        m_hat = ahead if nesterov else m / (1 - b1**t)
        return p - rate_at(learning_rate, t) * (m_hat / (np.sqrt(s / (1 - b2**t)) + eps) + weight_decay * p)

    return rule


def yogi(learning_rate, b1=0.9, b2=0.999, eps=1e-3, weight_decay=0.0):
    """Zaheer et al. 2018, Alg. 2, from v = 1e-6 and with bias corrections."""

    def rule(t, p, g, memory):
        m = memory["m"] = b1 * memory.get("m", 0) + (1 - b1) * g
        old, square = memory.get("v", 1e-6), np.abs(g) ** 2
        v = memory["v"] = old - (1 - b2) * np.sign(old - square) * square
        step = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)
        return p - rate_at(learning_rate, t) * (step + weight_decay * p)

    return rule


def adan(learning_rate, b1=0.98, b2=0.92, b3=0.99, eps=1e-8, eps_root=1e-8, weight_decay=0.0, weight=None):
    """Xie et al. 2024, Alg. 1 (β for its 1 − β), with bias corrections; ``weight`` of the differences is β₂."""

    def rule(t, p, g, memory):
        w = b2 if weight is None else weight
        d = g - memory.get("g", g)
        memory["g"] = g
        m = memory["m"] = b1 * memory.get("m", 0) + (1 - b1) * g
        v = memory["v"] = b2 * memory.get("v", 0) + (1 - b2) * d
        n = memory["n"] = b3 * memory.get("n", 0) + (1 - b3) * np.abs(g + w * d) ** 2
        top = m / (1 - b1**t) + w * v / (1 - b2**t)
        step = top / (np.sqrt(n / (1 - b3**t) + eps_root) + eps)
        return p - rate_at(learning_rate, t) * (step + weight_decay * p)

    return rule


def lion(learning_rate, b1=0.9, b2=0.99, weight_decay=1e-3):
    """Chen et al. 2023, Alg. 2."""

    def rule(t, p, g, memory):
        m = memory.get("m", 0)
        memory["m"] = b2 * m + (1 - b2) * g
        return p - rate_at(learning_rate, t) * (direction(b1 * m + (1 - b1) * g) + weight_decay * p)

    return rule


def ademamix(learning_rate, b1=0.9, b2=0.999, b3=0.9999, alpha=5.0, eps=1e-8, eps_root=0.0, weight_decay=0.0):
    """Pagliardini, Ablin, Grangier 2025, Alg. 1."""

    def rule(t, p, g, memory):
        slow = rate_at(b3, t)
        m1 = memory["m1"] = b1 * memory.get("m1", 0) + (1 - b1) * g
        m2 = memory["m2"] = slow * memory.get("m2", 0) + (1 - slow) * g
        v = memory["v"] = b2 * memory.get("v", 0) + (1 - b2) * np.abs(g) ** 2
        step = (m1 / (1 - b1**t) + rate_at(alpha, t) * m2) / (np.sqrt(v / (1 - b2**t) + eps_root) + eps)
        return p - rate_at(learning_rate, t) * (step + weight_decay * p)

    return rule


def mars(learning_rate, b1=0.95, b2=0.99, gamma=0.025, eps=1e-8, weight_decay=0.0):
    """Yuan et al. 2025, Alg. 2, approximate: the last gradient was taken at the last parameters."""

    def rule(t, p, g, memory):
        c = g + gamma * b1 / (1 - b1) * (g - memory.get("g", g))
        memory["g"] = g
        c = c / max(1, np.sqrt(np.sum(np.abs(c) ** 2)))
        m = memory["m"] = b1 * memory.get("m", 0) + (1 - b1) * c
        v = memory["v"] = b2 * memory.get("v", 0) + (1 - b2) * np.abs(c) ** 2
        step = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)
        return p - rate_at(learning_rate, t) * (step + weight_decay * p)

    return rule


def adam_mini(learning_rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0, shared=None):
    """Zhang et al. 2025, Alg. 2: v of the mean square over a block; a column of a matrix, or all of a vector."""

    def rule(t, p, g, memory):
        axes = (0 if p.ndim == 2 else None) if shared is None else shared
        m = memory["m"] = b1 * memory.get("m", 0) + (1 - b1) * g
        square = np.mean(np.abs(g) ** 2, axis=axes, keepdims=True)
        v = memory["v"] = b2 * memory.get("v", 0) + (1 - b2) * square
        step = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)
        return p - rate_at(learning_rate, t) * (step + weight_decay * p)

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
