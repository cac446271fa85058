"""Divergence between two output heads, against float64 on whole logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_lite.losses import linear_distillation_loss
from tests.oracles import language as oracle

N, H, V = 14, 9, 43
KEEP = np.arange(N) != 4


def data(dtype="float32", size=1.0, seed=0):
    """Student and teacher: hidden states and heads."""
    rng = np.random.default_rng(seed)
    return [jnp.asarray(size * rng.normal(size=s), dtype) for s in ((N, H), (H, V), (N, 5), (5, V))]


@pytest.mark.parametrize(
    ("beta", "dtype", "cap", "transpose"),
    [(0.0, "float32", None, False), (0.3, "float32", 5.0, True), (1.0, "bfloat16", 5.0, False)],
)
def test_value_and_gradients(beta, dtype, cap, transpose):
    x, w, u, k = data(dtype)
    ct = np.where(KEEP, np.random.default_rng(1).normal(size=N), 0).astype(np.float32)
    options = {"beta": beta, "temperature": 1.5, "logit_softcap": cap, "transpose_kernel": transpose}
    turn = (lambda a: a.T) if transpose else (lambda a: a)

    def f(x, w, u, k):
        losses = linear_distillation_loss(
            x.at[4].set(jnp.nan), turn(w), u, turn(k), where=KEEP, chunk_size=10, **options
        )
        return jnp.sum(ct * losses)

    value, grads = jax.jit(jax.value_and_grad(f, (0, 1, 2, 3)))(x, w, u, k)
    true, *slopes = oracle.distillation(x, w, u, k, beta=beta, tau=1.5, cap=cap, ct=ct)
    assert float(value) == pytest.approx(true, rel=2e-6)
    how = {"operands": oracle.operands(x, w)}
    _, *reachable = oracle.distillation(x, w, u, k, beta=beta, tau=1.5, cap=cap, ct=ct, **how)
    for got, slope, rounded in zip(grads, slopes, reachable, strict=False):
        best = 0 if dtype == "float32" else oracle.error(jnp.asarray(rounded, dtype), slope)
        assert oracle.error(got, slope) < max(2e-6, 1.02 * best)
    assert not np.any(grads[2])
    assert not np.any(grads[3])


def test_distant_heads_mask_and_reduction():
    """At logits of some hundreds, shared by a student that equals its teacher in one row: finite, never negative."""
    x, w, u, k = data(size=4.0)
    x, w, u, k = x.at[0].set(0.0), w, u.at[0].set(0.0), k
    weights = np.where(KEEP, np.arange(N) / 3, 0).astype(np.float32)

    @jax.jit
    def everything(x, w):
        each = [linear_distillation_loss(x, w, u, k, beta=beta, chunk_size=10) for beta in (0.0, 0.5, 1.0)]
        mean = lambda x, w: linear_distillation_loss(
            x, w, u, k, beta=0.5, weights=weights, where=KEEP, reduction="mean", chunk_size=10
        )
        return each, jax.value_and_grad(mean, (0, 1))(x, w)

    each, (mean, grads) = everything(x, w)
    s, t = (oracle.log_softmax(oracle.logits(a, b)[0])[1] for a, b in ((x, w), (u, k)))
    for beta, got in zip((0.0, 0.5, 1.0), each, strict=True):
        np.testing.assert_allclose(got, oracle.divergence(beta, s, t)[0], rtol=3e-6, atol=1e-5)
        assert got[0] == pytest.approx(0, abs=1e-6)
    assert float(mean) == pytest.approx(np.average(each[1], weights=weights), rel=1e-5)
    assert all(np.isfinite(g).all() for g in grads)
    assert not np.any(grads[0][4])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel": np.ones((8, V))}, r"kernel has shape \(8, 43\), expected \(9, 43\)"),
        ({"teacher_kernel": np.ones((5, 42))}, r"teacher_kernel has shape \(5, 42\), expected \(5, 43\)"),
        ({"teacher_hidden": np.ones((13, 5))}, r"teacher_hidden has shape \(13, 5\), expected \(14, 5\)"),
        ({"beta": 1.1}, "beta is 1.1"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"weights": np.ones((N, 1))}, "weights has shape"),
        ({"reduction": "avg"}, "reduction is 'avg'"),
    ],
)
def test_errors_name_the_argument(change, message):
    names = ("hidden", "kernel", "teacher_hidden", "teacher_kernel")
    with pytest.raises(ValueError, match=f"linear_distillation_loss: {message}"):
        linear_distillation_loss(**(dict(zip(names, data(), strict=True)) | change))
