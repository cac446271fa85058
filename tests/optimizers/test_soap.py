"""SOAP: the paper's formula, its first step, one-sided bases, hostile gradients, the laws."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_lite import optimizers
from tests import users
from tests.oracles import matrix as oracle
from tests.oracles.optimizers import adam, trajectory


def schedule(step):
    return 0.02 / (1 + 0.02 * step)


ROWS = [
    ({}, {}),
    (
        {"weight_decay": 0.2, "precondition_every": 3, "b1": 0.9, "b2": 0.8, "max_dim": 5},
        {"sides": (False, True)},
    ),
]


@pytest.mark.parametrize(("options", "more"), ROWS, ids=["default", "one side"])
def test_200_steps_are_the_papers(options, more):
    (p, g), (vector, gv) = oracle.gradients((6, 5)), oracle.gradients((4,), 1)
    got = oracle.path(optimizers.soap(schedule, **options), {"a": p, "b": vector}, {"a": g, "b": gv})
    options = {{"precondition_every": "every"}.get(k, k): v for k, v in options.items() if k != "max_dim"}
    want = trajectory(oracle.soap(schedule, **options, **more), p, g)[1:]
    np.testing.assert_allclose(got["a"], want, atol=1e-4)
    rest = {k: v for k, v in options.items() if k != "every"}
    plain = adam(lambda step: schedule(step + 1), **({"b1": 0.95, "b2": 0.95, "weight_decay": 0.01} | rest))
    np.testing.assert_allclose(got["b"][0], vector)
    np.testing.assert_allclose(got["b"], trajectory(plain, vector, gv[1:]), atol=2e-5)


def test_pytorch_optimizers_numbers():
    tx = optimizers.soap(0.01, b1=0.95, b2=0.9, weight_decay=0.0, precondition_every=5)
    oracle.check_golden("soap", tx, 2e-5)


def run(tx, grads):
    """Updates at fixed parameters, from one compilation."""
    state, step, updates = tx.init(grads[0]), jax.jit(tx.update), []
    for g in grads:
        u, state = step(g, state, jnp.ones_like(g))
        updates.append(u)
    return updates, state


def test_hand_case():
    """A diagonal gradient is its own basis, so that the second step is Adam's first: its sign."""
    g = jnp.diag(jnp.array([1.0, -3.0, 2.0]))
    (first, second), state = run(optimizers.soap(0.1, weight_decay=0.5), [g, g])
    assert not first.any()
    np.testing.assert_allclose(second, -0.1 * (jnp.sign(g) + 0.5), atol=1e-6)
    np.testing.assert_allclose(jnp.abs(state[0].left_basis), jnp.eye(3)[:, [1, 2, 0]].T.T, atol=1e-6)


def test_stacked_layers_are_each_their_own():
    _, grads = oracle.gradients((2, 3, 4), steps=4)
    tx = optimizers.soap(0.1, precondition_every=1)
    stacked, _ = run(tx, [jnp.asarray(g) for g in grads])
    for k in range(2):
        alone, _ = run(tx, [jnp.asarray(g[k]) for g in grads])
        np.testing.assert_allclose(stacked[-1][k], alone[-1], atol=1e-4)


@pytest.mark.cpu
@pytest.mark.parametrize("shape", [(64, 96), (96, 64), (2, 64, 64)])
def test_no_step_turns_the_state_over_in_memory(shape):
    """LAPACK's order of columns stays inside the branches that call it."""
    tx, params = optimizers.soap(0.1), jnp.zeros(shape)
    lowered = jax.jit(tx.update).lower(params, jax.eval_shape(tx.init, params), params)
    text = users.compiled(lowered).as_text()
    (conditional,) = [line for line in text.splitlines() if " conditional(" in line]
    layouts = set(re.findall(r"\]\{([\d,]+)\}", conditional.split(" conditional(")[0]))
    assert layouts == {",".join(str(k) for k in reversed(range(len(shape))))}


@pytest.mark.parametrize("size", [1e-30, 1e20])
def test_extreme_gradients(size):
    _, grads = oracle.gradients((4, 4), steps=5)
    tx = optimizers.soap(0.1, precondition_every=2, eps=1e-38 if size < 1 else 1e-8)
    (*_, got), state = run(tx, [jnp.asarray(size * g, jnp.float32) for g in grads])
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves((got, state)))
    if size > 1:
        (*_, want), _ = run(tx, [jnp.asarray(g) for g in grads])
        np.testing.assert_allclose(got, want, atol=1e-4)


def test_wrong_arguments():
    for options in ({"precondition_every": 0}, {"b2": 1.0}, {"max_dim": -1}):
        with pytest.raises(ValueError, match=next(iter(options))):
            optimizers.soap(0.1, **options)
