"""Right transformations, written by hand, on which no law may fire; the mutants change one thing in them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxopt_lite.testing import TransformationCase

LR = 0.01


class State(NamedTuple):
    count: Any
    slots: Any


def wide(x):
    return jnp.promote_types(x.dtype, jnp.float32)


def stateless(rule):
    """A transformation from a rule ``(g, p) -> u`` for one leaf."""

    def update(grads, state, params=None):
        return jax.tree.map(lambda g, p: rule(g, p).astype(g.dtype), grads, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def zeros_wide(p):
    return jnp.zeros(p.shape, wide(p))


def zeros_real(p):
    return jnp.zeros(p.shape, jnp.finfo(wide(p)).dtype)


def with_slot(rule, *, start=zeros_wide, tick=optax.safe_increment):
    """A transformation from a rule ``(g, slot, t, p) -> (u, slot)`` in float32 or better."""

    def init(params):
        return State(jnp.zeros([], jnp.int32), jax.tree.map(start, params))

    def update(grads, state, params=None):
        t = tick(state.count)
        leaves, tree = jax.tree.flatten(grads)
        slots, ps = tree.flatten_up_to(state.slots), tree.flatten_up_to(params)
        done = [rule(g.astype(wide(g)), s, t, p) for g, s, p in zip(leaves, slots, ps, strict=True)]
        updates = [u.astype(g.dtype) for (u, _), g in zip(done, leaves, strict=True)]
        slots = [new.astype(s.dtype) for (_, new), s in zip(done, slots, strict=True)]
        return tree.unflatten(updates), State(t, tree.unflatten(slots))

    return optax.GradientTransformation(init, update)


def momentum(g, m, t, p):
    m = 0.9 * m + 0.1 * g
    return -LR * m, m


def hypot(a, b):
    """√(a² + b²) without overflow, with a finite derivative at zero."""
    big, small = jnp.maximum(a, b), jnp.minimum(a, b)
    return big * jnp.sqrt(1 + (small / jnp.where(big > 0, big, 1)) ** 2)


def corrected(b2, t, dtype):
    return -jnp.expm1(t.astype(dtype) * np.log(b2))


def rms(b2=0.9, eps=1e-8):
    """Adam without first moment, from the root of the second."""

    def rule(g, r, t, p):
        r = hypot(np.sqrt(b2) * r, np.sqrt(1 - b2) * jnp.abs(g))
        return -LR * g / (r / jnp.sqrt(corrected(b2, t, r.dtype)) + eps), r

    return rule


def rms_oracle(b2=0.9, eps=1e-8):
    def leaf(gs):
        v = 0.0
        for t, g in enumerate(gs, 1):
            v = b2 * v + (1 - b2) * g**2
            yield -LR * g / (np.sqrt(v / (1 - b2**t)) + eps)

    def oracle(params, grads):
        leaves = [list(leaf(gs)) for gs in zip(*map(jax.tree.leaves, grads), strict=True)]
        return [jax.tree.unflatten(jax.tree.structure(params), step) for step in zip(*leaves, strict=True)]

    return oracle


def signs(g, m, t, p):
    size = jnp.abs(0.5 * m + 0.5 * g)
    return -LR * (0.5 * m + 0.5 * g) / jnp.where(size > 0, size, 1), 0.9 * m + 0.1 * g


def largest(g):
    return jnp.max(jnp.abs(g), initial=0.0)


def normalised(g, p):
    """A step of fixed length per leaf."""
    top = largest(g.astype(wide(g)))
    unit = g.astype(wide(g)) / jnp.where(top > 0, top, 1)
    size = jnp.sum(jnp.abs(unit) ** 2)
    return -LR * unit / jnp.sqrt(jnp.where(size > 0, size, 1))


def sgd_of(learning_rate):
    """Gradient descent whose rate may be a number, an array or a schedule."""
    rate = learning_rate(0) if callable(learning_rate) else learning_rate
    return stateless(lambda g, p: -g * jnp.asarray(rate, g.dtype))


def descend(g, p):
    return -LR * g


def decay(g, p):
    return -LR * g - LR * p.astype(g.dtype)


LINEAR = {"elementwise", "odd", "linear"}
SCALED = {"elementwise", "odd", "scale_invariant"}
TRANSFORMATIONS = {
    "sgd": lambda: TransformationCase(stateless(descend), claims=LINEAR),
    "sgd_factory": lambda: TransformationCase(sgd_of, claims=LINEAR),
    "momentum": lambda: TransformationCase(with_slot(momentum), claims=LINEAR),
    "rms": lambda: TransformationCase(with_slot(rms(), start=zeros_real), claims=SCALED, oracle=rms_oracle()),
    "signs": lambda: TransformationCase(with_slot(signs), claims=SCALED),
    "decaying": lambda: TransformationCase(stateless(decay), claims={"elementwise", "odd", "decays"}),
    "normalised": lambda: TransformationCase(stateless(normalised), claims={"leafwise", "odd"}),
    "identity": lambda: TransformationCase(stateless(lambda g, p: g), claims=LINEAR | {"part"}),
}
