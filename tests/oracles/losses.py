"""Losses written from their formulas in 130-digit arithmetic, one example at a time.

Each function takes the rows of one example as lists of ``mpf`` (labels as ``int``) and returns the loss; the
contrastive ones take a whole batch as lists of lists and return its losses. ``evaluate`` runs one over arrays and
differentiates it by central differences, which that many digits make as good as exact.
"""

import mpmath
import numpy as np

mp = mpmath.mp.clone()
mp.dps = 130
STEP = mp.mpf(10) ** -42
exp, log, sqrt, mpf = mp.exp, mp.log, mp.sqrt, mp.mpf


def evaluate(loss, *arrays, differentiate=(0,), batch=False, **options):
    """Values and gradients (of their sum) in float64; NaN marks a gradient at a kink."""
    examples = [arrays] if batch else [tuple(a[i] for a in arrays) for i in range(len(arrays[0]))]
    values, gradients = [], [[] for _ in differentiate]
    for example in examples:
        rows = [_exact(a) for a in example]
        result = loss(*rows, **options)
        values.append(result)
        total = sum(result) if batch else result
        for slot, argument in enumerate(differentiate):
            gradients[slot].append(_gradient(loss, rows, argument, total, options))
    values = values[0] if batch else values
    gradients = [np.array(g[0] if batch else g, np.float64) for g in gradients]
    return np.array([float(v) for v in values]), gradients


def _exact(row):
    row = np.asarray(row)
    if np.issubdtype(row.dtype, np.integer):
        return row.tolist()
    return [_exact(r) for r in row] if row.ndim > 1 else [mpf(float(v)) for v in np.atleast_1d(row)]


def _gradient(loss, rows, argument, total, options):
    def walk(row):
        return [walk(r) if isinstance(r, list) else slope(row, i) for i, r in enumerate(row)]

    def slope(row, i):
        kept, sides = row[i], []
        for side in (STEP, -STEP):
            row[i] = kept + side
            result = loss(*rows, **options)
            sides.append(sum(result) if isinstance(result, list) else result)
        row[i] = kept
        right, left = (sides[0] - total) / STEP, (total - sides[1]) / STEP
        smooth = abs(right - left) <= mpf(10) ** -6 * (1 + abs(right))
        middle = (right + left) / 2
        return float(middle if abs(middle) > mpf(10) ** -60 else 0) if smooth else np.nan

    return walk(rows[argument])


# Regression: rows of length 1.
def squared_error(p, t):
    return (p[0] - t[0]) ** 2


def l2_loss(p, t):
    return (p[0] - t[0]) ** 2 / 2


def absolute_error(p, t):
    return abs(p[0] - t[0])


def huber_loss(p, t, delta=1.0):
    e = abs(p[0] - t[0])
    return e**2 / 2 if e <= delta else delta * (e - mpf(delta) / 2)


def log_cosh(p, t):
    return log(mp.cosh(p[0] - t[0]))


def quantile_loss(p, t, quantile=0.5):
    e = t[0] - p[0]
    return max(quantile * e, (quantile - 1) * e)


def gaussian_nll(p, t, v):
    return (log(v[0]) + (p[0] - t[0]) ** 2 / v[0]) / 2


def poisson_nll(x, t):
    return exp(x[0]) - t[0] * x[0]


def cosine_similarity(p, t):
    norms = sqrt(sum(a * a for a in p)) * sqrt(sum(a * a for a in t))
    return sum(a * b for a, b in zip(p, t, strict=True)) / norms if norms else mpf(0)


def cosine_distance(p, t):
    return 1 - cosine_similarity(p, t)


# Classification.
def _log_softmax(z):
    normalizer = log(sum(exp(a) for a in z))
    return [a - normalizer for a in z]


def _x_log_y(x, log_y):
    return x * log_y if x else mpf(0)


def cross_entropy(p, y):
    return -sum(b * log(a) for a, b in zip(p, y, strict=True) if b)


def softmax_cross_entropy(z, y):
    return -sum(b * a for a, b in zip(_log_softmax(z), y, strict=True))


def softmax_cross_entropy_with_integer_labels(z, y, label_smoothing=0.0, z_loss=0.0, class_weights=None):
    w = [1] * len(z) if class_weights is None else [mpf(float(a)) for a in class_weights]
    log_p, e = _log_softmax(z), mpf(label_smoothing)
    normalizer = log(sum(exp(a) for a in z))
    uniform = sum(a * b for a, b in zip(w, log_p, strict=True)) / len(z)
    return -(1 - e) * w[y] * log_p[y] - e * uniform + mpf(z_loss) * w[y] * normalizer**2


def _sigmoid(x):
    return 1 / (1 + exp(-x))


def sigmoid_binary_cross_entropy(x, y, pos_weight=1.0):
    return -pos_weight * y[0] * log(_sigmoid(x[0])) - (1 - y[0]) * log(_sigmoid(-x[0]))


def sigmoid_focal_loss(x, y, gamma=2.0, alpha=None):
    mistake = (1 - y[0]) * _sigmoid(x[0]) + y[0] * _sigmoid(-x[0])
    balance = 1 if alpha is None else alpha * y[0] + (1 - mpf(alpha)) * (1 - y[0])
    return balance * mistake ** mpf(gamma) * sigmoid_binary_cross_entropy(x, y)


def softmax_focal_loss(z, y, gamma=2.0, alpha=None):
    total = sum(exp(a) for a in z)
    others = sum(exp(a) for i, a in enumerate(z) if i != y) / total
    return (1 if alpha is None else mpf(alpha[y])) * others ** mpf(gamma) * -_log_softmax(z)[y]


def poly_loss_cross_entropy(z, y, epsilon=2.0):
    p = [exp(a) for a in _log_softmax(z)]
    return softmax_cross_entropy(z, y) + epsilon * sum(b * (1 - a) for a, b in zip(p, y, strict=True))


def hinge_loss(x, t):
    return max(mpf(0), 1 - x[0] * t[0])


def squared_hinge_loss(x, t):
    return hinge_loss(x, t) ** 2


def perceptron_loss(x, t):
    return max(mpf(0), -x[0] * t[0])


def multiclass_hinge_loss(s, y):
    return max(a - s[y] + (i != y) for i, a in enumerate(s))


def multiclass_perceptron_loss(s, y):
    return max(s) - s[y]


def sparsemax_loss(x, y):
    u = -x[0] if y else x[0]
    return mpf(0) if u <= -1 else u if u >= 1 else (u + 1) ** 2 / 4


def _simplex_projection(s):
    """The threshold of sparsemax by trying every support size."""
    descending = sorted(s, reverse=True)
    for k in range(len(s), 0, -1):
        threshold = (sum(descending[:k]) - 1) / k
        if descending[k - 1] > threshold:
            return [max(a - threshold, mpf(0)) for a in s]
    raise AssertionError


def multiclass_sparsemax_loss(s, y):
    p = _simplex_projection(s)
    return sum(a * b for a, b in zip(p, s, strict=True)) + (1 - sum(a * a for a in p)) / 2 - s[y]


def smooth_labels(y, alpha):
    return [(1 - mpf(alpha)) * a + mpf(alpha) / len(y) for a in y]


# Divergence.
def kl_divergence(log_q, t):
    return sum(_x_log_y(b, log(b) - a) for a, b in zip(log_q, t, strict=True) if b)


def kl_divergence_with_log_targets(log_q, log_t):
    return sum(exp(b) * (b - a) for a, b in zip(log_q, log_t, strict=True))


def generalized_kl_divergence(log_q, t):
    return kl_divergence(log_q, t) + sum(exp(a) - b for a, b in zip(log_q, t, strict=True))


def js_divergence(log_p, log_t, beta=0.5):
    if beta == 0:
        return kl_divergence_with_log_targets(log_p, log_t)
    if beta == 1:
        return kl_divergence_with_log_targets(log_t, log_p)
    log_m = [log(beta * exp(b) + (1 - mpf(beta)) * exp(a)) for a, b in zip(log_p, log_t, strict=True)]
    to_t, to_p = (kl_divergence_with_log_targets(log_m, a) for a in (log_t, log_p))
    return beta * to_t + (1 - mpf(beta)) * to_p


def distillation_loss(z, teacher, y=None, temperature=1.0, alpha=1.0):
    log_s, log_t = (_log_softmax([a / temperature for a in row]) for row in (z, teacher))
    soft = alpha * mpf(temperature) ** 2 * kl_divergence_with_log_targets(log_s, log_t)
    return soft if y is None else soft - (1 - mpf(alpha)) * _log_softmax(z)[y]


# Contrastive: whole batches.
def _similarities(a, b):
    return [[cosine_similarity(x, y) for y in b] for x in a]


def info_nce(queries, keys, temperature=0.07, symmetric=True):
    s = [[c / temperature for c in row] for row in _similarities(queries, keys)]
    there = [-_log_softmax(row)[i] for i, row in enumerate(s)]
    back = [-_log_softmax(column)[i] for i, column in enumerate(zip(*s, strict=True))]
    return [(a + b) / 2 for a, b in zip(there, back, strict=True)] if symmetric else there


def siglip_loss(images, texts, temperature, bias):
    s = _similarities(images, texts)
    sign = lambda i, j: 1 if i == j else -1
    score = lambda i, j: sign(i, j) * (temperature * s[i][j] + bias)
    return [-sum(log(_sigmoid(score(i, j))) for j in range(len(s))) for i in range(len(s))]


def ntxent(embeddings, labels, temperature=0.07):
    s = [[exp(c / temperature) for c in row] for row in _similarities(embeddings, embeddings)]
    losses = []
    for i, anchor in enumerate(labels):
        repel = sum(s[i][k] for k, label in enumerate(labels) if label != anchor)
        mates = [j for j, label in enumerate(labels) if label == anchor and j != i]
        losses.append(sum((-log(s[i][j] / (repel + s[i][j])) for j in mates), mpf(0)))
    return losses


def triplet_margin_loss(a, p, n, norm_degree=2, margin=1.0, eps=1e-6):
    def distance(x, y):
        return (sum(abs(u - v) ** norm_degree for u, v in zip(x, y, strict=True)) + eps) ** (
            mpf(1) / norm_degree
        )

    return max(distance(a, p) - distance(a, n) + margin, mpf(0))
