"""The norms are those of the step, whatever its magnitude, and the step is the inner one's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_lite as jol
from jaxopt_lite.wrappers import monitor, monitored, skip_nonfinite
from tests.oracles import wrappers as oracles
from tests.wrappers.common import GRADS, MOMENTUM, MOMENTUM_ORACLE, PARAMS, equal, run, temporaries, wide

KEYS = {"gradient_norm", "update_norm", "parameter_norm", "ratio"}


def test_norms_of_every_step():
    updates, _, states = run(monitor(MOMENTUM), GRADS[:4])
    equal(updates, run(MOMENTUM, GRADS[:4])[0])
    want, path, _ = oracles.run(MOMENTUM_ORACLE, wide(PARAMS), map(wide, GRADS[:4]))
    for g, u, p, s in zip(GRADS, want, [wide(PARAMS), *path], states, strict=False):
        got = monitored(s)
        assert set(got) == KEYS
        expected = {"gradient_norm": oracles.norm(wide(g)), "update_norm": oracles.norm(u)}
        expected |= {"parameter_norm": oracles.norm(p), "ratio": oracles.norm(u) / oracles.norm(p)}
        for name, value in expected.items():
            np.testing.assert_allclose(got[name], value, rtol=2e-6, err_msg=name)


def test_is_zero_before_the_first_step_and_found_inside_other_states():
    tx = skip_nonfinite(jol.chain(jol.clip(1.0), monitor(MOMENTUM)))
    assert set(map(float, monitored(tx.init(PARAMS)).values())) == {0.0}
    with pytest.raises(ValueError, match="monitored: state holds 0 MonitorState, expected one"):
        monitored(MOMENTUM.init(PARAMS))


@pytest.mark.parametrize(
    ("g", "p", "expected"),
    [
        (1e20, 1e-25, (2e20, 2e20, 2e-25, np.inf)),  # the ratio is beyond float32
        (1e-25, 1e20, (2e-25, 2e-25, 2e20, 1e-45)),  # a CPU makes it 0
        (0.0, 0.0, (0, 0, 0, 0)),
        (1.0, 0.0, (2, 2, 0, np.inf)),
        (np.nan, 1.0, (np.nan, np.nan, 2, np.nan)),
        (np.inf, 1.0, (np.inf, np.inf, 2, np.inf)),
    ],
)
def test_at_the_edges(g, p, expected):
    tx = monitor(jol.sgd(1.0))
    p = jnp.full(4, p, jnp.float32)
    _, state = jax.jit(tx.update)(jnp.full(4, g, jnp.float32), tx.init(p), p)
    got = monitored(state)
    names = ("gradient_norm", "update_norm", "parameter_norm", "ratio")
    subnormal = expected[3] if expected[3] < 1e-40 else 0
    np.testing.assert_allclose([got[n] for n in names], expected, rtol=1e-6, atol=subnormal)


def test_16_bits_are_measured_in_float32():
    """Of 300s the sum of squares overflows in float16."""
    tx, g = monitor(jol.sgd(1.0)), jnp.full(4, 300, jnp.float16)
    updates, state = tx.update(g, tx.init(g), g)
    assert updates.dtype == jnp.float16
    assert {(x.dtype.name, x.item()) for x in (state.gradient_norm, state.parameter_norm)} == {
        ("float32", 600)
    }


def test_float64_is_measured_in_float64():
    with jax.enable_x64(True):
        p = jnp.full(3, 1 + 1e-12, jnp.float64)
        tx = monitor(jol.sgd(1.0))
        _, state = tx.update(p, tx.init(p), p)
        np.testing.assert_allclose(monitored(state)["gradient_norm"], np.sqrt(3) * (1 + 1e-12), rtol=1e-15)


def test_costs_no_copy_of_the_parameters():
    used, copies = temporaries(monitor(jol.adam(1e-3)))
    assert used < 2.1
    assert not copies


def test_needs_params():
    with pytest.raises(ValueError, match=r"monitor.update: params is None"):
        monitor(MOMENTUM).update(GRADS[0], monitor(MOMENTUM).init(PARAMS))
