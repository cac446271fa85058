"""Sophia: the paper's order of refresh and use, its estimator; optax's difference."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_lite import optimizers
from tests.oracles import optimizers_more as oracle
from tests.oracles.optimizers_check import REAL, against_paper, data, mask, path, same_signature, schedule

CURVATURE = {
    "bias": np.array([0.5, 2.0, 0.0], np.float32),
    "kernel": np.linspace(-1, 30, 12, dtype=np.float32).reshape(4, 3),
}


def quadratic(params):
    """Its Hessian is diagonal, so Hutchinson's estimate is exact."""
    return sum(jnp.sum(CURVATURE[name] * params[name] ** 2) / 2 for name in params)


def extra():
    return {"obj_fn": quadratic}


ROWS = [
    {},
    {"b1": 0.5, "b2": 0.9, "gamma": 0.1, "eps": 1e-2, "update_interval": 3, "clip_threshold": 5.0},
    {
        "weight_decay": 0.1,
        "weight_decay_mask": mask,
        "clip_threshold": None,
        "update_interval": 1,
        "eps": 0.1,
    },
]


@pytest.mark.parametrize("options", ROWS, ids=["default", "interval", "decay"])
def test_sophia_is_the_papers(options):
    plain = {k: v for k, v in options.items() if k != "weight_decay_mask"}
    decays = lambda name: name == "kernel" or "weight_decay_mask" not in options
    rule = lambda name: oracle.sophia(
        schedule, CURVATURE[name], **(plain if decays(name) else plain | {"weight_decay": 0.0})
    )
    against_paper(optimizers.sophia(schedule, **options), rule, names=REAL, extra=extra)


def test_the_first_step_uses_curvature_where_optaxs_does_not():
    options = {"clip_threshold": None, "weight_decay": 0.0, "eps": 1e-3}
    ours = path(optimizers.sophia(1.0, **options), REAL, extra)["kernel"][0]
    theirs = path(optax.contrib.sophia(1.0, **options), REAL, extra)["kernel"][0]
    g = data()[1]["kernel"][0]
    np.testing.assert_allclose(ours, -0.035 * g / np.maximum(1e-4 * CURVATURE["kernel"], 1e-3), rtol=1e-5)
    np.testing.assert_allclose(theirs, -g / 1e-3, rtol=1e-5)


def test_hutchinsons_estimate_is_unbiased():
    matrix = np.array([[2.0, 0.7, 0.1], [0.7, -1.0, 0.4], [0.1, 0.4, 3.0]], np.float32)
    tx = optimizers.hutchinson_estimator_diag_hessian()
    loss = lambda p: jnp.vdot(p, jnp.asarray(matrix) @ p) / 2
    step = lambda state, _: tx.update(jnp.zeros(3), state, jnp.ones(3), obj_fn=loss)[::-1]
    _, estimates = jax.jit(lambda state: jax.lax.scan(step, state, length=4000))(tx.init(jnp.ones(3)))
    assert len(np.unique(estimates, axis=0)) > 2
    np.testing.assert_allclose(np.mean(estimates, axis=0), np.diag(matrix), atol=0.06)


def test_what_is_missing_is_named():
    tx = optimizers.sophia(0.1)
    p = jnp.ones(2)
    with pytest.raises(ValueError, match="obj_fn is None"):
        tx.update(p, tx.init(p), p)
    with pytest.raises(ValueError, match="update_interval is 0"):
        optimizers.sophia(0.1, update_interval=0)


def test_signatures():
    # The library prints nothing, so it has no ``verbose``.
    same_signature(
        optimizers.sophia,
        optax.contrib.sophia,
        without=("hessian_diagonal_fn", "verbose", "print_win_rate_every_n_steps"),
        positional=("hessian_diagonal_fn",),
    )
    same_signature(
        optimizers.hutchinson_estimator_diag_hessian, optax.contrib.hutchinson_estimator_diag_hessian
    )
