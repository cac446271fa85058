"""Distillation between two output heads over one large vocabulary, never holding the logits of either."""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxopt_lite import checks
from jaxopt_lite.axes import placed_like
from jaxopt_lite.losses import vocabulary, walk
from jaxopt_lite.losses.language import head_of, sized, streaming
from jaxopt_lite.losses.reduce import check_mask, counted, reduced
from jaxopt_lite.losses.spread import spread
from jaxopt_lite.losses.vocabulary import Head, log_softmax
from jaxopt_lite.losses.walk import part


def linear_distillation_loss(
    hidden: Any,
    kernel: Any,
    teacher_hidden: Any,
    teacher_kernel: Any,
    *,
    beta: float = 0.0,
    temperature: float = 1.0,
    chunk_size: int | None = None,
    logit_softcap: float | None = None,
    transpose_kernel: bool = False,
    where: Any = None,
    weights: Any = None,
    reduction: str = "none",
) -> jax.Array:
    """Generalised Jensen–Shannon divergence of a student's head from a teacher's, blocks of vocabulary at a time.

    ```
    S = softmax(c·tanh(hidden·kernel / c) / τ)        T likewise of the teacher, c = logit_softcap, τ = temperature
    M = β·T + (1 - β)·S
    ℓ = τ²·[β·KL(T‖M) + (1 - β)·KL(S‖M)]              0 < β < 1
    ℓ = τ²·KL(T‖S) at β = 0,   τ²·KL(S‖T) at β = 1
    ```

    in nats. τ² keeps the size of the gradient as τ grows, as in ``distillation_loss``. The teacher is a
    constant: it gets no gradient. Logits and sums are float32 (float64 for float64).

    Args:
      hidden, kernel: the student's, ``[..., H]`` and ``[H, V]`` (``[V, H]`` with ``transpose_kernel``).
      teacher_hidden, teacher_kernel: the teacher's, ``[..., G]`` and ``[G, V]`` (``[V, G]``).
      where, weights, reduction: over ``[...]``, as for every loss.
      chunk_size: columns of the vocabulary in a block; ``None`` as in ``linear_softmax_cross_entropy``.

    Raises:
      ValueError: for shapes that do not fit, or ``beta`` outside 0 … 1.

    Agarwal et al., "On-Policy Distillation of Language Models", ICLR 2024, arXiv:2306.13649, eq. 1;
    Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531.

    >>> hidden, kernel, teacher = jnp.ones((2, 4)), jnp.zeros((4, 10)), jnp.eye(4, 10)
    >>> linear_distillation_loss(hidden, kernel, hidden, teacher, beta=0.5)
    Array([0.03023443, 0.03023443], dtype=float32)
    """
    name = "linear_distillation_loss"
    checks.between(name, "beta", beta, 0, 1)
    head = replace(head_of(name, logit_softcap, temperature, transpose_kernel), beta=float(beta))
    x, w, u, k = (jnp.asarray(a) for a in (hidden, kernel, teacher_hidden, teacher_kernel))
    shape = x.shape[:-1]
    _check(name, head, x, w, u, k)
    check_mask(name, where, weights, shape)
    keep, (x, u) = counted(where, weights), (a.reshape(-1, a.shape[-1]) for a in (x, u))
    if keep is not None:
        keep = keep.reshape(-1, 1)
        x, u = jnp.where(keep, x, 0), jnp.where(keep, u, 0)
    head = streaming(sized(name, head, x, w, chunk_size), x, w)
    arrays = walk.alike(x, w, lax.stop_gradient(u), lax.stop_gradient(k))
    losses = temperature**2 * divergence(head, *arrays)
    return reduced(name, losses.reshape(shape), where, weights, reduction)


def _check(name: str, head: Head, x, w, u, k) -> None:
    checks.floating(name, hidden=x, kernel=w, teacher_hidden=u, teacher_kernel=k)
    checks.shape(name, "teacher_hidden", u, (*x.shape[:-1], u.shape[-1]))
    for argument, kernel, features in (("kernel", w, x.shape[-1]), ("teacher_kernel", k, u.shape[-1])):
        size = w.shape[head.vocabulary_axis]
        checks.shape(name, argument, kernel, (size, features) if head.transpose else (features, size))


def terms(beta: float, s: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Each class's part ``d`` of the divergence, and ``∂D/∂s``, of log-probabilities ``s`` and ``t``."""
    part_of = lambda log_p, log_ratio: jnp.where(log_p > -jnp.inf, jnp.exp(log_p) * log_ratio, 0)
    if beta == 0:
        return part_of(t, t - s), -jnp.exp(t)
    if beta == 1:
        return part_of(s, s - t), part_of(s, s - t + 1)
    m = jnp.logaddexp(math.log(beta) + t, math.log1p(-beta) + s)
    pull = (1 - beta) * part_of(s, s - m)
    return beta * part_of(t, t - m) + pull, pull


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def divergence(head: Head, x, w, u, k) -> jax.Array:
    """``D [N]`` of every row."""
    return _divergence_forward(head, x, w, u, k)[0]


def _divergence_forward(head: Head, x, w, u, k):
    rows = spread(pair_stream, head, _axes(head), "n", x, w, u, k)
    return rows["divergence"], (x, w, u, k, rows)


def _divergence_backward(head: Head, kept, ct: jax.Array):
    axes = _axes(head)
    dx, dw = spread(pair_back, head, (*axes, "n", "n"), axes[:2], *kept, ct)
    return placed_like(kept[0], dx.astype(kept[0].dtype)), placed_like(kept[1], dw), None, None


divergence.defvjp(_divergence_forward, _divergence_backward)


def _axes(head: Head) -> tuple[str, ...]:
    return ("nh", "vh", "ng", "vg") if head.transpose else ("nh", "hv", "ng", "gv")


def pair_logits(head: Head, x, w, u, k, start: Any, width: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One block of the student's logits and of the teacher's, and the block of the student's kernel."""
    columns = part(w, start, width, head.vocabulary_axis)
    teacher = part(k, start, width, head.vocabulary_axis)
    return vocabulary.logits(head, x, columns, None), vocabulary.logits(head, u, teacher, None), columns


def pair_stream(head: Head, x, w, u, k) -> dict[str, Any]:
    """The divergence of every row, and what its gradient needs: both heads' statistics and ``Σ_v ∂D/∂s_v``."""
    nobody = jnp.full(x.shape[0], -1)
    s, t = (vocabulary.whole_stream(head, a, b, None, nobody) for a, b in ((x, w), (u, k)))

    def body(start, width, carry):
        z, teacher, _ = pair_logits(head, x, w, u, k, start, width)
        d, pull = terms(head.beta, log_softmax(z, s), log_softmax(teacher, t).astype(z.dtype))
        return carry[0] + jnp.sum(d, axis=1), carry[1] + jnp.sum(pull, axis=1)

    zero = jnp.zeros_like(s["rest"])
    sums = walk.over_blocks(body, (zero, zero), w.shape[head.vocabulary_axis], head.columns)
    value, slope = sums if head.axis_name is None else lax.psum(sums, head.axis_name)
    return {"divergence": value, "slope": slope, "student": s, "teacher": t}


def pair_back(head: Head, x, w, u, k, rows: dict[str, Any], ct: jax.Array) -> tuple:
    """The gradients of ``x`` (in float32) and ``w``: ``∂D/∂z = ∂D/∂s - S·Σ_v ∂D/∂s_v``."""
    axis, vary = head.vocabulary_axis, partial(walk.vary, axes=walk.varying(x))

    def body(start, width, carry):
        dx, dw = carry
        z, teacher, columns = pair_logits(head, x, w, u, k, start, width)
        s, t = log_softmax(z, rows["student"]), log_softmax(teacher, rows["teacher"]).astype(z.dtype)
        dz = ct[:, None] * (terms(head.beta, s, t)[1] - jnp.exp(s) * rows["slope"][:, None])
        da = vocabulary.logits_pull(head, z, dz)
        dx_block, dw_block = vocabulary.back_products(head, da, x, columns)
        return dx + dx_block, walk.put(dw, dw_block, start, axis)

    carry = (
        vary(jnp.zeros(x.shape, vocabulary.wide(x, w))),
        vary(jnp.zeros(w.shape, vocabulary.stored(head, w))),
    )
    return walk.over_blocks(body, carry, w.shape[axis], head.columns)
