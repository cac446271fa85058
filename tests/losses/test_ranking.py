"""Ranking losses against their formulas, optax and Rax; item masks, ties, −∞ scores; derivatives."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_lite import losses
from tests.oracles import losses_more as oracle
from tests.users import Jitted

ranking = Jitted(losses.ranking)
GOLDEN = json.loads((pathlib.Path(__file__).parents[1] / "golden" / "ranking_rax.json").read_text())
NAMES = ["ranking_softmax_loss", "pairwise_logistic_loss", "list_mle"]
RNG = np.random.default_rng(0)
SCORES = jnp.asarray(3 * RNG.standard_normal((5, 4)), jnp.float32)
RELEVANCE = jnp.asarray(RNG.integers(0, 3, (5, 4)), jnp.float32)
ITEMS = jnp.asarray(RNG.random((5, 4)) > 0.4).at[1].set(False)
LISTS = np.array([*RNG.choice(oracle.HOSTILE, (40, 3)), [5, 5, 5], [1e4, -1e4, 1e4], [0, 1e-3, -1e-3]])
GRADES = RNG.permuted(np.tile([0.0, 1.0, 2.0], (43, 1)), axis=1)
V = jnp.asarray(RNG.random((5, 4)), jnp.float32)
INF = jnp.inf


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", oracle.DTYPES)
def test_exact_on_hostile_lists(name, dtype):
    with jax.enable_x64(dtype == jnp.float64):
        loss, s = getattr(ranking, name), jnp.asarray(LISTS, dtype)
        value, vjp = jax.vjp(lambda s: loss(s, jnp.asarray(GRADES, dtype)), s)
        (gradient,) = vjp(jnp.ones_like(value))
        assert gradient.dtype == dtype
        exact = np.asarray(s.astype(value.dtype), np.float64)
    want, (slope,) = oracle.evaluate(getattr(oracle, name), exact, GRADES)
    eps = float(jnp.finfo(value.dtype).eps)
    # 4 ulp, or what rounding a score by 4 ulp would give
    slack = 4 * eps * (np.abs(want) + np.abs(exact * slope).sum(1)) + 1e-37
    assert (np.abs(np.asarray(value, np.float64) - want) <= slack).all()
    moved = 4 * eps * np.maximum(np.abs(exact).max(1), 4) * np.abs(slope).max(1)
    error = np.abs(np.asarray(gradient, np.float64) - slope) - float(jnp.finfo(dtype).smallest_normal)
    assert (error <= moved[:, None] + 4 * float(jnp.finfo(dtype).eps) * np.abs(slope)).all()


@pytest.mark.parametrize("name", NAMES)
def test_derivatives(name):
    loss = getattr(ranking, name)
    few = np.asarray(RELEVANCE[:2])
    oracle.assert_smooth(lambda s: loss(s, few), SCORES[:2])
    np.testing.assert_allclose(loss(SCORES + 7, RELEVANCE), loss(SCORES, RELEVANCE), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(loss(SCORES[None], RELEVANCE[None])[0], loss(SCORES, RELEVANCE))
    assert (loss(SCORES, RELEVANCE) >= 0).all()
    assert loss(SCORES[0], RELEVANCE[0]).shape == ()


@pytest.mark.parametrize("name", NAMES)
def test_masked_items_are_absent(name):
    loss = getattr(ranking, name)
    scores = jnp.where(ITEMS, SCORES, jnp.nan)
    relevance = jnp.where(ITEMS, RELEVANCE, jnp.nan)
    f = lambda s: loss(s, relevance, where=ITEMS, reduction="sum")
    gradient, hessian = jax.jit(lambda s: jax.jvp(jax.grad(f), (s,), (jnp.ones_like(s),)))(scores)
    assert (gradient[~ITEMS] == 0).all()
    np.testing.assert_allclose(hessian, 0, atol=1e-5)  # shifting all scores changes nothing
    each = loss(scores, relevance, where=ITEMS)
    for i in (0, 2, 3, 4):
        s, y = SCORES[i][ITEMS[i]], RELEVANCE[i][ITEMS[i]]
        value, inner = jax.value_and_grad(loss)(s, y)
        np.testing.assert_allclose(each[i], value, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(gradient[i][ITEMS[i]], inner, rtol=1e-4, atol=1e-6)
    assert each[1] == 0
    mean = loss(scores, relevance, where=ITEMS, reduction="mean")
    np.testing.assert_allclose(mean, each.sum() / 4, rtol=1e-6)  # the list without items does not count


@pytest.mark.parametrize("name", NAMES)
def test_minus_infinite_scores(name):
    loss = getattr(ranking, name)
    scores, relevance = jnp.array([2.0, -INF, 1.0]), jnp.array([1.0, 0.0, 0.0])
    if name == "list_mle":
        relevance = jnp.array([2.0, 0.0, 1.0])
    value, gradient = jax.value_and_grad(loss)(scores, relevance)
    np.testing.assert_allclose(value, np.log1p(np.exp(-1.0)), rtol=1e-6)
    assert gradient[1] == 0
    assert np.isfinite(gradient).all()
    assert loss(scores, jnp.array([0.0, 2.0, 0.5])) == INF


def test_equal_to_optax():
    ours, theirs = ranking.ranking_softmax_loss, optax.losses.ranking_softmax_loss
    for options in ({}, {"where": ITEMS}, {"weights": V}, {"where": ITEMS, "weights": V}):
        for name, reduce_fn in (("none", None), ("mean", jnp.mean), ("sum", jnp.sum)):
            np.testing.assert_allclose(
                ours(SCORES, RELEVANCE, reduction=name, **options),
                theirs(SCORES, RELEVANCE, reduce_fn=reduce_fn, **options),
                rtol=1e-5,
            )
    hidden = jnp.where(ITEMS, V, jnp.nan)
    np.testing.assert_allclose(
        ours(SCORES, RELEVANCE, where=ITEMS, weights=hidden), ours(SCORES, RELEVANCE, where=ITEMS, weights=V)
    )


@pytest.mark.parametrize("name", NAMES[1:])
def test_equal_to_rax(name):
    with jax.enable_x64(True):
        s, y, mask = (jnp.asarray(GOLDEN[k]) for k in ("scores", "relevance", "mask"))
        value, vjp = jax.vjp(lambda s: getattr(ranking, name)(s, y, where=mask), s)
        np.testing.assert_allclose(value, GOLDEN[name]["values"], rtol=1e-12)
        np.testing.assert_allclose(vjp(jnp.ones(4))[0], GOLDEN[name]["gradients"], rtol=1e-9, atol=1e-14)


def test_ties():
    s, y = jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 1.0, 0.0])
    assert ranking.pairwise_logistic_loss(s, jnp.ones(3)) == 0
    in_order = oracle.list_mle([oracle.mpf(v) for v in (1, 2, 3)], [2, 1, 0])
    np.testing.assert_allclose(ranking.list_mle(s, y), float(in_order), rtol=1e-6)


def test_wrong_arguments_are_named():
    fault = oracle.assert_names_the_fault
    fault("ranking_softmax_loss", "labels", lambda: ranking.ranking_softmax_loss(SCORES, RELEVANCE[:, :1]))
    fault("pairwise_logistic_loss", "relevance", lambda: ranking.pairwise_logistic_loss(SCORES, RELEVANCE[0]))
    fault("list_mle", "relevance", lambda: ranking.list_mle(SCORES, RELEVANCE[0]))
    fault("list_mle", "scores", lambda: ranking.list_mle(RELEVANCE.astype(int), RELEVANCE), TypeError)
    fault("list_mle", "where", lambda: ranking.list_mle(SCORES, RELEVANCE, where=ITEMS[:, :1]))
    fault("list_mle", "weights", lambda: ranking.list_mle(SCORES, RELEVANCE, weights=SCORES))
    fault("list_mle", "reduction", lambda: ranking.list_mle(SCORES, RELEVANCE, reduction="max"))
