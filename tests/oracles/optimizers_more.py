"""More optimizers in NumPy float64: sums of squares, layer-wise rules, and the parameter-free ones."""

import numpy as np

from tests.oracles.optimizers import direction, rate_at


def adagrad(learning_rate, initial_accumulator_value=0.1, eps=1e-7, weight_decay=0.0):
    """Duchi, Hazan, Singer 2011, Fig. 1, with ε under the root and a first value of the sum."""

    def rule(t, p, g, memory):
        v = memory["v"] = memory.get("v", initial_accumulator_value) + np.abs(g) ** 2
        step = np.where(v > 0, g / np.sqrt(np.where(v > 0, v + eps, 1)), 0)
        return p - rate_at(learning_rate, t) * (step + weight_decay * p)

    return rule


def adadelta(learning_rate=None, rho=0.9, eps=1e-6, weight_decay=0.0):
    """Zeiler 2012, Alg. 1; weight decay is added to the gradient."""

    def rule(t, p, g, memory):
        g = g + weight_decay * p
        a = memory["a"] = rho * memory.get("a", 0) + (1 - rho) * np.abs(g) ** 2
        step = np.sqrt(memory.get("b", 0) + eps) / np.sqrt(a + eps) * g
        memory["b"] = rho * memory.get("b", 0) + (1 - rho) * np.abs(step) ** 2
        return p - (1 if learning_rate is None else rate_at(learning_rate, t)) * step

    return rule


def rmsprop(
    learning_rate,
    decay=0.9,
    eps=1e-8,
    initial_scale=0.0,
    eps_in_sqrt=True,
    centered=False,
    momentum=None,
    nesterov=False,
    bias_correction=False,
    weight_decay=0.0,
):
    """Tieleman, Hinton 2012; Graves 2013, eqs. 38–41; momentum of the whole step."""

    def rule(t, p, g, memory):
        m = memory["m"] = decay * memory.get("m", 0) + (1 - decay) * g
        v = memory["v"] = decay * memory.get("v", initial_scale) + (1 - decay) * np.abs(g) ** 2
        if bias_correction:
            m, v = m / (1 - decay**t), v / (1 - decay**t)
        if centered:
            v = v - np.abs(m) ** 2
        below = np.sqrt(v + eps) if eps_in_sqrt else np.sqrt(v) + eps
        step = -rate_at(learning_rate, t) * (g / below + weight_decay * p)
        if momentum is None:
            return p + step
        u = memory["u"] = momentum * memory.get("u", 0) + step
        return p + (momentum * u + step if nesterov else u)

    return rule


def rprop(learning_rate, eta_minus=0.5, eta_plus=1.2, min_step_size=1e-6, max_step_size=50.0):
    """Igel, Hüsken 2000, Alg. 4 (iRprop−): after a change of sign no step, and the gradient is forgotten."""

    def rule(t, p, g, memory):
        size = memory.get("size", np.full(np.shape(p), rate_at(learning_rate, 1)))
        sign = direction(g)
        same = np.real(sign * np.conj(direction(memory.get("g", np.zeros_like(g)))))
        grown, shrunk = (
            np.minimum(size * eta_plus, max_step_size),
            np.maximum(size * eta_minus, min_step_size),
        )
        size = memory["size"] = np.where(same > 0, grown, np.where(same < 0, shrunk, size))
        memory["g"] = np.where(same < 0, 0, g)
        return p - size * np.where(same < 0, 0, sign)

    return rule


def sm3(learning_rate, momentum=0.9, weight_decay=0.0, eps=1e-8):
    """Anil et al. 2019, Alg. SM3-II, covers are rows and columns; the momentum is an average."""

    def rule(t, p, g, memory):
        rows, columns = memory.get("rows", np.zeros(())), memory.get("columns", np.zeros(()))
        v = np.minimum(rows, columns) + np.abs(g) ** 2
        if p.ndim == 2:
            memory["rows"], memory["columns"] = v.max(1, keepdims=True), v.max(0, keepdims=True)
        else:
            memory["rows"] = memory["columns"] = v
        step = np.where(v > 0, g / np.sqrt(np.where(v > 0, v + eps, 1)), 0)
        m = memory["m"] = momentum * memory.get("m", 0) + (1 - momentum) * step
        return p - rate_at(learning_rate, t) * (m + weight_decay * p)

    return rule


def norm(x):
    """√Σ|x|²."""
    return np.sqrt(np.sum(np.abs(x) ** 2))


def novograd(learning_rate, b1=0.9, b2=0.25, eps=1e-6, eps_root=0.0, weight_decay=0.0):
    """Ginsburg et al. 2019, Alg. 1."""

    def rule(t, p, g, memory):
        v = memory["v"] = norm(g) ** 2 if t == 1 else b2 * memory["v"] + (1 - b2) * norm(g) ** 2
        m = memory["m"] = b1 * memory.get("m", 0) + g / (np.sqrt(v + eps_root) + eps) + weight_decay * p
        return p - rate_at(learning_rate, t) * m

    return rule


def lars(
    learning_rate,
    weight_decay=0.0,
    trust_coefficient=0.001,
    eps=0.0,
    momentum=0.9,
    nesterov=False,
    scaled=True,
):
    """You, Gitman, Ginsburg 2017, Alg. 1, with ‖g + λp‖ for its ‖g‖ + λ‖p‖; ``scaled`` or plain momentum."""

    def rule(t, p, g, memory):
        g = g + weight_decay * p
        if scaled and norm(p) > 0 and norm(g) > 0:
            g = g * trust_coefficient * norm(p) / (norm(g) + eps)
        step = rate_at(learning_rate, t) * g
        m = memory["m"] = momentum * memory.get("m", 0) + step
        return p - (momentum * m + step if nesterov else m)

    return rule


def lamb(learning_rate, b1=0.9, b2=0.999, eps=1e-6, eps_root=0.0, weight_decay=0.0):
    """You et al. 2020, Alg. 2, φ the identity."""

    def rule(t, p, g, memory):
        m = memory["m"] = b1 * memory.get("m", 0) + (1 - b1) * g
        v = memory["v"] = b2 * memory.get("v", 0) + (1 - b2) * np.abs(g) ** 2
        step = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t) + eps_root) + eps) + weight_decay * p
        ratio = norm(p) / norm(step) if norm(p) > 0 and norm(step) > 0 else 1
        return p - rate_at(learning_rate, t) * ratio * step

    return rule


def fromage(learning_rate, min_norm=1e-6):
    """Bernstein et al. 2020, Alg. 1."""

    def rule(t, p, g, memory):
        eta = rate_at(learning_rate, t)
        return (p - eta * max(norm(p), min_norm) / max(norm(g), min_norm) * g) / np.sqrt(1 + eta**2)

    return rule


def rms(x):
    """√mean|x|²."""
    return np.sqrt(np.mean(np.abs(x) ** 2))


def adafactor(
    learning_rate=None,
    min_dim_size_to_factor=128,
    decay_rate=0.8,
    decay_offset=0,
    multiply_by_parameter_scale=True,
    clipping_threshold=1.0,
    momentum=None,
    weight_decay_rate=0.0,
    eps=1e-30,
    factored=True,
):
    """Shazeer, Stern 2018, Alg. 4 and 5; momentum averages the steps, decay is not multiplied by η."""

    def rule(t, p, g, memory):
        beta, square = 1 - float(max(1, t - decay_offset)) ** -decay_rate, np.abs(g) ** 2 + eps
        if factored and p.ndim == 2 and min(p.shape) >= min_dim_size_to_factor:
            row = memory["row"] = beta * memory.get("row", 0) + (1 - beta) * square.sum(1, keepdims=True)
            column = memory["column"] = beta * memory.get("column", 0) + (1 - beta) * square.sum(
                0, keepdims=True
            )
            v = row * column / row.sum()
        else:
            v = memory["v"] = beta * memory.get("v", 0) + (1 - beta) * square
        step = g / np.sqrt(v)
        if clipping_threshold is not None:
            step = step / max(1, rms(step) / clipping_threshold)
        step = step * (1 if learning_rate is None else rate_at(learning_rate, t))
        step = step * (max(rms(p), 1e-3) if multiply_by_parameter_scale else 1)
        if momentum is not None:
            step = memory["m"] = momentum * memory.get("m", 0) + (1 - momentum) * step
        return p - step - weight_decay_rate * p

    return rule


def sophia(
    learning_rate,
    curvature,
    b1=0.965,
    b2=0.99,
    eps=1e-8,
    gamma=0.01,
    clip_threshold=1.0,
    update_interval=10,
    weight_decay=1e-4,
):
    """Liu et al. 2024, Alg. 3; ``curvature`` is what its estimator returns, an array."""

    def rule(t, p, g, memory):
        m = memory["m"] = b1 * memory.get("m", 0) + (1 - b1) * g
        if t % update_interval == 1 or update_interval == 1:
            memory["h"] = b2 * memory.get("h", 0) + (1 - b2) * curvature
        step = m / np.maximum(gamma * memory["h"], eps)
        if clip_threshold is not None:
            step = np.clip(step, -clip_threshold, clip_threshold)
        return p - rate_at(learning_rate, t) * (step + weight_decay * p)

    return rule


def prodigy(
    learning_rate=1.0,
    betas=(0.9, 0.999),
    beta3=None,
    eps=1e-8,
    estim_lr0=1e-6,
    estim_lr_coef=1.0,
    weight_decay=0.0,
    safeguard_warmup=False,
):
    """Mishchenko, Defazio 2024, Alg. 4, as in its code; on all parameters in one array."""
    b1, b2 = betas
    b3 = np.sqrt(b2) if beta3 is None else beta3

    def rule(t, p, g, memory):
        start, d = memory.setdefault("p", p), memory.get("d", estim_lr0)
        rate = d * rate_at(learning_rate, t) * np.sqrt(1 - b2**t) / (1 - b1**t)
        m = memory["m"] = b1 * memory.get("m", 0) + (1 - b1) * d * g
        v = memory["v"] = b2 * memory.get("v", 0) + (1 - b2) * np.abs(d * g) ** 2
        weight = d / estim_lr0 * (d if safeguard_warmup else rate)
        s = memory["s"] = b3 * memory.get("s", 0) + weight * g
        r = memory["r"] = b3 * memory.get("r", 0) + d / estim_lr0 * rate * np.vdot(g, start - p).real
        d = memory["d"] = max(d, estim_lr_coef * r / np.sum(np.abs(s)))
        return p - rate * (m / (np.sqrt(v) + d * eps) + weight_decay * p)

    return rule


def dowg(learning_rate=1.0, init_estim_sq_dist=None, eps=1e-4, weight_decay=0.0):
    """Khaled, Mishchenko, Jin 2023, Alg. 1; on all parameters in one array."""

    def rule(t, p, g, memory):
        g, start = g + weight_decay * p, memory.setdefault("p", p)
        first = eps if init_estim_sq_dist is None else init_estim_sq_dist
        r2 = memory["r2"] = max(memory.get("r2", first), norm(p - start) ** 2)
        v = memory["v"] = memory.get("v", 0) + r2 * norm(g) ** 2
        return p - rate_at(learning_rate, t) * r2 / (np.sqrt(v) + eps) * g

    return rule


def schedule_free(rule, learning_rate, b1=0.9, weight_lr_power=2.0):
    """Defazio et al. 2024, eqs. 2–4: ``rule`` moves z by what it does at y. Keeps x in ``memory["x"]``."""

    def outer(t, y, g, memory):
        z, x = memory.get("z", y), memory.get("x", y)
        inner = memory.setdefault("inner", {})
        z = memory["z"] = z + (rule(t, y, g, inner) - y)
        top = memory["top"] = max(memory.get("top", 0), rate_at(learning_rate, t + 1))
        weight = top**weight_lr_power
        total = memory["total"] = memory.get("total", 0) + weight
        x = memory["x"] = (1 - weight / total) * x + weight / total * z
        return (1 - b1) * z + b1 * x

    return outer
