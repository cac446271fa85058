"""Right losses, written by hand, on which no law may fire; the mutants change one thing in them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_lite.testing import LossCase

SHAPE = (6, 5)


def check_shapes(a, b):
    if jnp.shape(a) != jnp.shape(b):
        raise ValueError(f"shapes {jnp.shape(a)} and {jnp.shape(b)} differ")


def wide(x):
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def fill(where, x):
    return x if where is None else jnp.where(where, x, 0)


def reduced(losses, where, weights, reduction):
    keep = jnp.ones(losses.shape, bool) if where is None else where
    w = jnp.where(keep, jnp.ones_like(losses) if weights is None else weights, 0)
    total = jnp.where(keep, losses, 0) * w
    if reduction == "none":
        return total
    if reduction == "sum":
        return jnp.sum(total)
    if reduction != "mean":
        raise ValueError(f"reduction {reduction!r}")
    size = jnp.sum(w)
    return jnp.sum(total) / jnp.where(size > 0, size, 1)


def squares(predictions, targets, *, where=None, weights=None, reduction="none"):
    check_shapes(predictions, targets)
    p, t = (fill(where, wide(x)) for x in (predictions, targets))
    return reduced(0.5 * (p - t) ** 2, where, weights, reduction)


def cross_entropy_ids(logits, labels):
    check_shapes(logits[..., 0], labels)
    logits, classes = wide(logits), logits.shape[-1]
    picked = jnp.take_along_axis(logits, jnp.clip(labels, 0, classes - 1)[..., None], -1)[..., 0]
    good = (labels >= 0) & (labels < classes)
    return (jax.nn.logsumexp(logits, -1) - picked) * jnp.where(good, 1.0, jnp.nan).astype(logits.dtype)


def cross_entropy(logits, targets):
    check_shapes(logits, targets)
    log_p, t = jax.nn.log_softmax(wide(logits)), wide(targets)
    return -jnp.sum(jnp.where(t > 0, t * jnp.where(t > 0, log_p, 0), 0), -1)


def kl(log_predictions, targets):
    check_shapes(log_predictions, targets)
    p, t = wide(log_predictions), wide(targets)
    on = t > 0
    return jnp.sum(jnp.where(on, t * (jnp.log(jnp.where(on, t, 1)) - jnp.where(on, p, 0)), 0), -1)


def squares_oracle(p, t):
    return 0.5 * (p - t) ** 2


def cross_entropy_oracle(x, t):
    top = x.max(-1, keepdims=True)
    return -(t * (x - top - np.log(np.exp(x - top).sum(-1, keepdims=True)))).sum(-1)


REGRESSION = {"non_negative", "convex", "zero_at_target", "float32_result"}
LOGITS = {"logits", "convex", "shift_invariant", "float32_result"}
LOSSES = {
    "squares": partial(LossCase, squares, claims=REGRESSION, oracle=squares_oracle),
    "cross_entropy": partial(LossCase, cross_entropy, claims=LOGITS, oracle=cross_entropy_oracle),
    "cross_entropy_ids": partial(LossCase, cross_entropy_ids, claims=LOGITS | {"non_negative"}),
    "kl": partial(LossCase, kl, claims={"log_probabilities", "zero_at_target", "float32_result"}),
}
