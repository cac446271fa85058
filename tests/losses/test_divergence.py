"""Divergences: oracle, optax at ordinary inputs, zero probabilities, and the ends of the Jensen–Shannon family."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_lite import losses
from tests.oracles.compare import DTYPES, Case, check, triples

INF = np.inf
RNG = np.random.default_rng(0)
TARGETS = RNG.dirichlet(np.ones(3), 60)
LOG_T, LOG_Q = np.log(TARGETS), np.log(RNG.dirichlet(np.ones(3), 60))
WITH_ZEROS = np.where(np.arange(60)[:, None] % 4 == 0, np.eye(3)[np.arange(60) % 3], TARGETS)
LOGITS, LABELS = triples(), RNG.integers(0, 3, len(triples())).astype(np.int32)


def sizes(a, b):
    return np.abs(a).sum(axis=1) + np.abs(b).sum(axis=1)


CASES = [
    Case("kl_divergence", (LOG_Q, WITH_ZEROS), noise=2),
    Case("kl_divergence", (LOG_Q, TARGETS), differentiate=(0, 1), noise=2, slope_noise=sizes),
    Case("kl_divergence_with_log_targets", (LOG_Q, LOG_T), differentiate=(0, 1), noise=2, slope_noise=sizes),
    Case("generalized_kl_divergence", (LOG_Q, TARGETS), differentiate=(0, 1), noise=2, slope_noise=sizes),
    *(
        Case("js_divergence", (LOG_Q, LOG_T), {"beta": b}, differentiate=(0, 1), noise=2, slope_noise=sizes)
        for b in (0, 0.3, 1)
    ),
    Case("distillation_loss", (LOGITS, LOGITS[::-1]), {"temperature": 2.0}, noise=8, slope_noise=2),
    Case(
        "distillation_loss",
        (LOGITS, LOGITS[::-1], LABELS),
        {"temperature": 2.0, "alpha": 0.3},
        noise=8,
        slope_noise=2,
    ),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_oracle(case, dtype):
    check(case, dtype)


@pytest.mark.parametrize(
    "name", ["kl_divergence", "kl_divergence_with_log_targets", "generalized_kl_divergence"]
)
def test_equal_to_optax(name):
    ours, theirs = getattr(losses, name), getattr(optax.losses, name)
    q, t = jnp.asarray(LOG_Q), jnp.asarray(LOG_T if name.endswith("log_targets") else TARGETS)
    classes = jnp.asarray(RNG.random(t.shape) < 0.7).at[:, 0].set(True)
    np.testing.assert_allclose(ours(q, t), theirs(q, t), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours(q, t, where=classes), theirs(q, t, where=classes), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours(q, t, 0), theirs(q, t, 0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours(q, t, None), theirs(q, t, None), rtol=1e-5)


# A class that both give up, one that only the target gives up, and one that only the prediction gives up.
Q = np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])
T = np.array([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.5, 0.5, 0.0]])
with np.errstate(divide="ignore"):
    LOG = {"q": jnp.log(Q), "t": jnp.log(T)}


def test_kl_at_zero_probabilities():
    expected = [0, 0.5 * np.log(0.5 / 0.3), INF]
    np.testing.assert_allclose(losses.kl_divergence(LOG["q"], jnp.asarray(T)), expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(
        losses.kl_divergence_with_log_targets(LOG["q"], LOG["t"]), expected, rtol=1e-6, atol=1e-7
    )
    np.testing.assert_allclose(
        losses.generalized_kl_divergence(LOG["q"], jnp.asarray(T)), expected, rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("name", ["kl_divergence", "kl_divergence_with_log_targets"])
def test_kl_gradients_at_zero_probabilities(name):
    loss, t = getattr(losses, name), LOG["t"] if name.endswith("log_targets") else jnp.asarray(T, jnp.float32)
    slope = jax.grad(lambda q: loss(q, t).sum())(LOG["q"])
    np.testing.assert_allclose(slope, -T, rtol=1e-6)
    np.testing.assert_allclose(
        jax.jvp(lambda q: loss(q, t), (LOG["q"],), (jnp.ones((3, 3)),))[1], [-1, -1, -1]
    )
    hessian = jax.jacfwd(jax.grad(lambda q: loss(q, t).sum()))(LOG["q"])
    np.testing.assert_array_equal(hessian, np.zeros_like(hessian))


def test_batched_kl_from_log_targets_of_ordinary_rows_and_rows_with_zeros():
    loss = jax.vmap(losses.kl_divergence_with_log_targets)
    q = jnp.stack([jnp.vstack([LOG["q"], LOG_Q[:1]]), jnp.vstack([LOG["t"], LOG_T[:1]])])
    both = q, q[::-1]
    expected = losses.kl_divergence(q, jnp.exp(q[::-1]))
    np.testing.assert_allclose(jax.jit(loss)(*both), expected, rtol=1e-5, atol=1e-7)
    one_target = jax.vmap(losses.kl_divergence_with_log_targets, (0, None))(q, q[1])
    np.testing.assert_allclose(one_target[0], expected[0], rtol=1e-5, atol=1e-7)


def test_kl_slope_at_a_zero_target_is_minus_infinity_or_zero_never_nan():
    slope = jax.grad(lambda t: losses.kl_divergence(LOG["q"], t).sum())(jnp.asarray(T, jnp.float32))
    np.testing.assert_allclose(slope[:2], [[1, 1, 0], [-INF, np.log(0.5 / 0.3) + 1, 1]], rtol=1e-6)
    slope = jax.grad(lambda t: losses.kl_divergence_with_log_targets(LOG["q"], t).sum())(LOG["t"])
    assert not np.isnan(slope).any()


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_js_with_zero_probabilities(beta):
    loss = lambda p, t: losses.js_divergence(p, t, beta=beta)
    value, pull = jax.vjp(loss, LOG["q"], LOG["t"])
    assert value[0] == 0
    if beta == 0.5:
        m = (Q + T) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            kl = lambda a: np.where(a > 0, a * np.log(a / m), 0).sum(axis=1)
            np.testing.assert_allclose(value, (kl(T) + kl(Q)) / 2, rtol=1e-5, atol=1e-7)
    assert not any(np.isnan(g).any() for g in pull(jnp.ones(3)))
    assert not np.isnan(jax.jvp(loss, tuple(LOG.values()), (jnp.ones((3, 3)),) * 2)[1]).any()


def test_js_is_symmetric_at_one_half_and_takes_a_traced_beta():
    forth = losses.js_divergence(LOG_Q, LOG_T)
    np.testing.assert_allclose(forth, losses.js_divergence(LOG_T, LOG_Q), rtol=1e-4, atol=1e-7)
    traced = jax.jit(lambda beta: losses.js_divergence(LOG_Q, LOG_T, beta=beta))(0.5)
    np.testing.assert_allclose(forth, traced, rtol=1e-5, atol=1e-7)


def test_distillation_ends_and_errors():
    z, teacher, y = LOGITS[:5].astype(np.float32), LOGITS[5:10].astype(np.float32), LABELS[:5]
    hard = losses.softmax_cross_entropy_with_integer_labels(z, y)
    np.testing.assert_allclose(losses.distillation_loss(z, teacher, y, alpha=0.0), hard, rtol=1e-6)
    np.testing.assert_array_equal(losses.distillation_loss(z, z), np.zeros(5))
    assert np.isnan(losses.distillation_loss(z, teacher, y + 3, alpha=0.5)).all()
    with pytest.raises(ValueError, match="labels is None, expected integer labels for alpha"):
        losses.distillation_loss(z, teacher, alpha=0.5)
    with pytest.raises(ValueError, match=r"temperature is 0, expected a number in \(0, inf\)"):
        losses.distillation_loss(z, teacher, temperature=0)
