"""Every exported optimizer solves four problems, each with the best of thirteen learning rates.

One compiled run for each optimizer: its updates are batched over problems and learning rates, which fall linearly to 0.
"""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.datasets

import jaxopt_lite as jol
from jaxopt_lite import optimizers

STEPS = 1000
RATES = np.logspace(-4, 2, 13).astype(np.float32)
SHAPE = (8, 4)


def rotated(seed, shape=SHAPE):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def cancer(rows=150):
    """Real measurements of tumours, standardised, with a column of ones (and one of zeros), and labels ±1."""
    x, y = sklearn.datasets.load_breast_cancer(return_X_y=True)
    x = (x[:rows] - x[:rows].mean(0)) / x[:rows].std(0)
    return np.concatenate([x, np.ones((rows, 1)), np.zeros((rows, 1))], 1).astype(np.float32), 2 * y[
        :rows
    ] - 1


X, Y = cancer()
CURVATURE, TARGET, LOW_RANK = (
    np.logspace(-1, 1, 32).reshape(SHAPE),
    rotated(0),
    rotated(1, (5, 2)) @ rotated(2, (2, 3)),
)


def quadratic(p):
    return jnp.sum(jnp.float32(CURVATURE) * (p - TARGET) ** 2) / 2


def rosenbrock(p):
    x, y = p[:4], p[4:]
    return jnp.sum((1 - x) ** 2 + 100 * (y - x * x) ** 2)


def logistic(p):
    return jnp.mean(jax.nn.softplus(-Y * (X @ p.reshape(-1)))) + 5e-3 * jnp.sum(p * p)


def factorisation(p):
    return jnp.sum((p[:5] @ p[5:].T - LOW_RANK) ** 2) / 2


def best_logistic():
    """The least logistic loss, by Newton's method in float64."""
    w, x = np.zeros(32), X.astype(np.float64)
    for _ in range(30):
        s = 1 / (1 + np.exp(Y * (x @ w)))
        slope = -(x.T @ (Y * s)) / len(Y) + 1e-2 * w
        w -= np.linalg.solve((x.T * (s * (1 - s))) @ x / len(Y) + 1e-2 * np.eye(32), slope)
    return np.mean(np.logaddexp(0, -Y * (x @ w))) + 5e-3 * np.sum(w * w)


# Each problem, its start, its least value, and the fraction of the way down that may be left.
PROBLEMS = {
    "quadratic": (quadratic, rotated(3), 0.0, 1e-3),
    "rosenbrock": (rosenbrock, np.repeat(np.float32([-1.2, 1.0]), 16).reshape(SHAPE), 0.0, 0.15),
    "logistic": (logistic, rotated(4), best_logistic(), 0.02),
    "factorisation": (factorisation, rotated(5) / 2, 0.0, 0.01),
}
FUNCTIONS = [problem for problem, *_ in PROBLEMS.values()]
START = np.stack([np.broadcast_to(start, (len(RATES), *SHAPE)) for _, start, *_ in PROBLEMS.values()])

SPECIAL = {"schedule_free": lambda rate: optimizers.schedule_free(jol.sgd(rate), rate)}
FACTORIES = sorted(
    name
    for name in optimizers.__all__
    if "learning_rate" in inspect.signature(getattr(optimizers, name)).parameters
    and not name.startswith("scale_by")
)


def values(ps):
    """The loss of every lane, [problems, rates]."""
    return jnp.stack([jax.vmap(f)(p) for f, p in zip(FUNCTIONS, ps, strict=True)])


def train(factory):
    """Losses at the start and at the end, [problems, rates]."""
    optimizer = lambda rate: factory(lambda step: rate * (1 - step / STEPS))

    def update(k, rate, g, state, p):
        objective = lambda p: jax.lax.switch(k, FUNCTIONS, p)
        u, state = optimizer(rate).update(g, state, p, obj_fn=objective)
        return jol.apply_updates(p, u), state

    many = jax.vmap(jax.vmap(update, (None, 0, 0, 0, 0)), (0, None, 0, 0, 0))
    kinds = jnp.arange(len(FUNCTIONS))

    def body(carry, _):
        p, state = carry
        grads = jax.grad(lambda p: values(p).sum())(p)
        return many(kinds, jnp.asarray(RATES), grads, state, p), None

    @jax.jit
    def run(p):
        init = jax.vmap(jax.vmap(lambda rate, p: optimizer(rate).init(p)), (None, 0))
        carry = (p, init(jnp.asarray(RATES), p))
        return values(p), values(jax.lax.scan(body, carry, length=STEPS)[0][0])

    return run(jnp.asarray(START))


@pytest.mark.parametrize("name", FACTORIES)
def test_the_best_learning_rate_solves_each_problem(name):
    start, end = train(SPECIAL.get(name, getattr(optimizers, name)))
    failures = {}
    for k, (problem, (_, _, least, allowed)) in enumerate(PROBLEMS.items()):
        left = (np.nanmin(end[k]) - least) / (start[k, 0] - least)
        if not -1e-3 < left < allowed:
            failures[problem] = f"{left:.2g} of the way left, at {RATES[np.nanargmin(end[k])]:.2g}"
    assert not failures, failures
