"""What tests of wrappers share: a small model's parameters, gradients, a jitted loop, and a comparison."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxopt_lite as jol
from tests import users
from tests.oracles import wrappers as oracles

RANDOM = np.random.default_rng(11)
PARAMS = {
    "bias": jnp.asarray(RANDOM.normal(size=3), jnp.float32),
    "kernel": jnp.asarray(RANDOM.normal(size=(4, 3)), jnp.float32),
}
GRADS = [jax.tree.map(lambda p: jnp.asarray(RANDOM.normal(size=p.shape), p.dtype), PARAMS) for _ in range(8)]

MOMENTUM = jol.sgd(0.125, momentum=0.5)
MOMENTUM_ORACLE = oracles.momentum(0.125, 0.5)


@functools.cache
def jitted(tx, with_params=True):
    """One compiled update per transformation, shared by all tests (ours hash by value)."""
    if with_params:
        return jax.jit(tx.update)
    return jax.jit(lambda g, s: tx.update(g, s))


def run(tx, grads=GRADS, params=PARAMS, state=None, jit=True):
    """The updates of every step, and the parameters and states after each."""
    update = jitted(tx) if jit else tx.update
    state = tx.init(params) if state is None else state
    updates, path, states = [], [], []
    for g in grads:
        u, state = update(g, state, params)
        params = optax.apply_updates(params, u)
        updates.append(u)
        path.append(params)
        states.append(state)
    return updates, path, states


def wide(tree):
    """The leaves in NumPy float64 (complex128)."""
    double = lambda x: np.complex128 if np.iscomplexobj(x) else np.float64
    return [np.asarray(x).astype(double(x)) for x in jax.tree.leaves(tree)]


def close(got, expected, rtol=2e-6, atol=2e-7):
    """Leaf by leaf; ``expected`` a list of arrays, ``got`` a tree."""
    for g, e in zip(wide(got), map(np.asarray, jax.tree.leaves(expected)), strict=True):
        np.testing.assert_allclose(g, e, rtol=rtol, atol=atol * max(1.0, np.max(np.abs(e), initial=0.0)))


def equal(a, b):
    """Equal to the bit, NaN and signed zeros included."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def full(tree, value):
    return jax.tree.map(lambda x: jnp.full_like(x, value), tree)


def spoiled(tree, value=jnp.nan):
    """The tree with ``value`` in one entry."""
    return {**tree, "bias": tree["bias"].at[1].set(value)}


def needs_value():
    """A foreign transformation that needs an extra argument."""

    def update(updates, state, params=None, *, value, **extra):
        return jax.tree.map(lambda u: -value * u, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def emits_float32():
    """A foreign transformation whose updates are float32 for 16-bit gradients, as kahan's must be."""
    widen = lambda g, s, p=None: (jax.tree.map(lambda x: -x.astype(jnp.float32), g), s)
    return optax.GradientTransformation(lambda params: optax.EmptyState(), widen)


def temporaries(tx, size=512):
    """Scratch memory of a donated, compiled step in sizes of the one parameter, and its full-size copies."""
    params = jnp.ones((size, size))
    compiled = users.compiled_step(tx, params, optax.apply_updates)
    copies = [
        line for line in compiled.as_text().splitlines() if " copy(" in line and f"[{size},{size}]" in line
    ]
    return compiled.memory_analysis().temp_size_in_bytes / params.nbytes, copies
