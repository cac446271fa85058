"""Divergences between distributions, most of them given by their logarithms.

A probability of 0 is a logarithm of −∞. Where the target is 0 a class costs nothing, whatever the prediction
(0·log 0 = 0); where only the prediction is 0 the divergence is +∞. All results are in nats.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from jaxopt_lite import checks
from jaxopt_lite.losses.classes import label_mask, log_probabilities, negative_log_likelihood, valid_or_nan
from jaxopt_lite.losses.reduce import Axis, axes_of, entries, product, reduced, split_mask


@jax.custom_jvp
def _steep_at_zero(t: jax.Array) -> jax.Array:
    """0 with the derivative of t·log t at t = 0, which is −∞, and 0 elsewhere."""
    return jnp.zeros_like(t)


_steep_at_zero.defjvps(lambda dt, ans, t: dt * jnp.where(t == 0, -jnp.inf, 0))


def _kl_terms(log_predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """t·(log t − log q), with value and gradient 0 where both t and q are 0."""
    both = (targets == 0) & (log_predictions == -jnp.inf)
    log_targets = jnp.log(jnp.where(targets == 0, 1, targets))
    return product(targets, log_targets - log_predictions) + _steep_at_zero(jnp.where(both, 1, targets))


def _log_kl_terms(log_predictions: jax.Array, log_targets: jax.Array) -> jax.Array:
    """t·(log t − log q) from log t, with value and gradient 0 where t is 0."""
    known = jnp.where(log_targets == -jnp.inf, 0, log_targets)
    return product(jnp.exp(log_targets), known - log_predictions)


def _exact_sum(log_predictions: jax.Array, log_targets: jax.Array) -> jax.Array:
    """Σ ``_log_kl_terms`` over the last axis."""
    return jnp.sum(_log_kl_terms(log_predictions, log_targets), axis=-1)


@jax.custom_batching.custom_vmap
def _quick_sum(log_predictions: jax.Array, log_targets: jax.Array) -> jax.Array:
    """``_exact_sum`` with 0·∞ looked for only where it left its NaN."""
    sums = jnp.sum(jnp.exp(log_targets) * (log_targets - log_predictions), axis=-1)
    return jax.lax.cond(
        jnp.any(jnp.isnan(sums)),
        lambda q, t, _: _exact_sum(q, t),
        lambda _, __, s: s,
        log_predictions,
        log_targets,
        sums,
    )


@_quick_sum.def_vmap
def _quick_sum_batched(size: int, batched: Any, *arrays: jax.Array) -> tuple[jax.Array, bool]:
    # Still one condition: under a plain vmap both of its branches would run.
    rows = [a if b else jnp.broadcast_to(a, (size, *a.shape)) for a, b in zip(arrays, batched, strict=True)]
    return _quick_sum(*rows), True


@jax.custom_jvp
def _log_kl(log_predictions: jax.Array, log_targets: jax.Array) -> jax.Array:
    """``_exact_sum``; on CPUs, where its selects keep XLA from summing as it goes, without them as a rule."""
    return jax.lax.platform_dependent(log_predictions, log_targets, cpu=_quick_sum, default=_exact_sum)


@functools.partial(_log_kl.defjvp, symbolic_zeros=True)
def _log_kl_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (log_q, log_t), (dq, dt) = primals, tangents
    value = _log_kl(log_q, log_t)
    dq = jnp.zeros_like(log_q) if isinstance(dq, SymbolicZero) else dq
    if isinstance(dt, SymbolicZero):
        return value, jax.jvp(lambda q: _exact_sum(q, log_t), (log_q,), (dq,))[1]
    return value, jax.jvp(_exact_sum, primals, (dq, dt))[1]


def kl_divergence(
    log_predictions: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    axis: Axis = -1,
    where: jax.typing.ArrayLike | None = None,
    *,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Kullback–Leibler divergence KL(t‖q) of predictions q, given by their logarithms, from targets t.

    ::

        ℓ = Σ t·(log t − log q)        0·log 0 = 0

    ``log_predictions`` and ``targets`` have one shape ``[..., C]``, ℓ the shape without ``axis`` (an axis, several,
    or ``None`` for all). ``where`` masks results ``[...]``, or classes when it has the shape of the inputs. The
    derivative to a target of 0 is −∞. Source: Kullback and Leibler, "On Information and Sufficiency", 1951.
    """
    name = "kl_divergence"
    checks.floating(name, log_predictions=log_predictions, targets=targets)
    where, classes = split_mask(name, where, targets, axis)
    log_q, t = entries(
        name, where, weights, axis=axis, classes=classes, log_predictions=log_predictions, targets=targets
    )
    losses = jnp.sum(_kl_terms(log_q, t), axis=axes_of(axis, t.ndim))
    return reduced(name, losses, where, weights, reduction)


def kl_divergence_with_log_targets(
    log_predictions: jax.typing.ArrayLike,
    log_targets: jax.typing.ArrayLike,
    axis: Axis = -1,
    where: jax.typing.ArrayLike | None = None,
    *,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Kullback–Leibler divergence KL(t‖q) when both are given by their logarithms.

    ::

        ℓ = Σ exp(log t)·(log t − log q)

    Shapes, ``axis`` and ``where`` as in :func:`kl_divergence`.
    """
    name = "kl_divergence_with_log_targets"
    checks.floating(name, log_predictions=log_predictions, log_targets=log_targets)
    where, classes = split_mask(name, where, log_targets, axis)
    arrays: dict[str, Any] = {"log_predictions": log_predictions, "log_targets": log_targets}
    log_q, log_t = entries(name, where, weights, axis=axis, classes=classes, **arrays)
    axes = axes_of(axis, log_t.ndim)
    rows = axes == (log_t.ndim - 1,)  # the only axes that _log_kl sums over
    losses = _log_kl(log_q, log_t) if rows else jnp.sum(_log_kl_terms(log_q, log_t), axis=axes)
    return reduced(name, losses, where, weights, reduction)


def generalized_kl_divergence(
    log_predictions: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    axis: Axis = -1,
    where: jax.typing.ArrayLike | None = None,
    *,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Kullback–Leibler divergence of measures that need not sum to 1.

    ::

        ℓ = Σ t·(log t − log q) + q − t        the Bregman divergence of x·log x − x

    Shapes, ``axis`` and ``where`` as in :func:`kl_divergence`. Source: Bregman, 1967; Boyd and Vandenberghe,
    "Convex Optimization", p. 90.
    """
    name = "generalized_kl_divergence"
    checks.floating(name, log_predictions=log_predictions, targets=targets)
    where, classes = split_mask(name, where, targets, axis)
    arrays: dict[str, Any] = {"log_predictions": log_predictions, "targets": targets}
    log_q, t = entries(name, where, weights, axis=axis, classes=classes, **arrays)
    surplus = jnp.exp(log_q) - t
    if classes is not None:
        surplus = jnp.where(classes, surplus, 0)
    axes = axes_of(axis, t.ndim)
    # Two sums, as the terms of one would be written to memory beside exp(log q), which the gradient keeps.
    losses = jnp.sum(_kl_terms(log_q, t), axis=axes) + jnp.sum(surplus, axis=axes)
    return reduced(name, losses, where, weights, reduction)


def js_divergence(
    log_predictions: jax.typing.ArrayLike,
    log_targets: jax.typing.ArrayLike,
    *,
    beta: jax.typing.ArrayLike = 0.5,
    axis: Axis = -1,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Generalised Jensen–Shannon divergence, from forward (β = 0) to reverse (β = 1) KL.

    ::

        M = β·T + (1 − β)·P
        ℓ = β·KL(T‖M) + (1 − β)·KL(P‖M)        0 < β < 1; symmetric at ½, where it is at most log 2
            KL(T‖P)                            β = 0
            KL(P‖T)                            β = 1

    ``log_predictions`` log P and ``log_targets`` log T have one shape ``[..., C]``; ``axis`` and ``where`` as in
    :func:`kl_divergence`. ``beta`` is a number in [0, 1]. Source: Agarwal et al., "On-Policy Distillation of Language
    Models", arXiv:2306.13649.
    """
    name = "js_divergence"
    checks.floating(name, log_predictions=log_predictions, log_targets=log_targets)
    checks.between(name, "beta", beta, 0, 1)
    where, classes = split_mask(name, where, log_targets, axis)
    arrays: dict[str, Any] = {"log_predictions": log_predictions, "log_targets": log_targets}
    log_p, log_t = entries(name, where, weights, axis=axis, classes=classes, fill=-math.inf, **arrays)
    losses = jnp.sum(_js_terms(log_p, log_t, beta), axis=axes_of(axis, log_t.ndim))
    return reduced(name, losses, where, weights, reduction)


def _js_terms(log_p: jax.Array, log_t: jax.Array, beta: Any) -> jax.Array:
    if isinstance(beta, (int, float)) and beta in (0, 1):
        return _log_kl_terms(log_p, log_t) if beta == 0 else _log_kl_terms(log_t, log_p)
    absent = (log_p == -jnp.inf) & (log_t == -jnp.inf)
    shares = jnp.log(beta) + jnp.where(absent, 0, log_t), jnp.log1p(-beta) + jnp.where(absent, 0, log_p)
    log_m = jnp.logaddexp(*shares)
    return beta * _log_kl_terms(log_m, log_t) + (1 - beta) * _log_kl_terms(log_m, log_p)


def distillation_loss(
    logits: jax.typing.ArrayLike,
    teacher_logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike | None = None,
    *,
    temperature: jax.typing.ArrayLike = 1.0,
    alpha: jax.typing.ArrayLike = 1.0,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Follow a teacher's softened distribution, and the labels if there are any.

    ::

        T = softmax(teacher_logits / τ),  S = softmax(logits / τ)
        ℓ = α·τ²·KL(T‖S) + (1 − α)·cross-entropy(logits, labels)

    ``logits`` and ``teacher_logits`` are ``[..., C]``, ``labels`` integers ``[...]``, as is ℓ; without labels α must
    be 1. ``temperature`` τ > 0 and ``alpha`` in [0, 1] are numbers. The teacher gets a gradient too:
    ``jax.lax.stop_gradient`` is the caller's. Source: Hinton, Vinyals and Dean, arXiv:1503.02531.
    """
    name = "distillation_loss"
    checks.floating(name, logits=logits, teacher_logits=teacher_logits)
    checks.between(name, "temperature", temperature, 0, math.inf, open_low=True, open_high=True)
    checks.between(name, "alpha", alpha, 0, 1)
    arrays: dict[str, Any] = {"logits": logits, "teacher_logits": teacher_logits}
    student, teacher = entries(name, where, weights, axis=-1, **arrays)
    log_s, log_t = log_probabilities(student / temperature), log_probabilities(teacher / temperature)
    losses = alpha * temperature**2 * jnp.sum(_log_kl_terms(log_s, log_t), axis=-1)
    if labels is not None:
        *shape, num_classes = student.shape
        labels, _ = label_mask(name, labels, tuple(shape), where, weights)
        hard = negative_log_likelihood(student, labels, None, 0, 0, None, None)
        losses = losses + product(1 - alpha, valid_or_nan(hard, labels, num_classes))
    elif isinstance(alpha, (int, float)) and alpha != 1:
        raise ValueError(f"{name}: labels is None, expected integer labels for alpha={alpha}")
    return reduced(name, losses, where, weights, reduction)
