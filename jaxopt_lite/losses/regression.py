"""Losses of real-valued predictions: elementwise errors, likelihoods, and the cosine between vectors."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_lite import checks
from jaxopt_lite.losses.reduce import (
    Axis,
    axes_of,
    entries,
    option,
    product,
    reduced,
    split_mask,
)


def _errors(name: str, predictions: Any, targets: Any, where: Any, weights: Any) -> jax.Array:
    """Predictions minus targets (0 when left out), with masked entries at 0."""
    checks.floating(name, predictions=predictions)
    if targets is None:
        (errors,) = entries(name, where, weights, predictions=predictions)
        return errors
    predictions, targets = entries(name, where, weights, predictions=predictions, targets=targets)
    return predictions - targets


def squared_error(
    predictions: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike | None = None,
    *,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Squared error of each prediction.

    ::

        ℓ = (p − t)²

    ``predictions`` and ``targets`` have one shape ``[...]`` (``targets=None`` means zeros); so has ℓ.
    Raises ``TypeError`` for predictions that are not floating, ``ValueError`` for shapes that differ.

    >>> squared_error(jnp.array([1.2, 1.8, 3.5]), jnp.array([1.0, 2.0, 3.0]), reduction="mean").round(4)
    Array(0.11, dtype=float32)
    """
    errors = _errors("squared_error", predictions, targets, where, weights)
    return reduced("squared_error", jnp.square(errors), where, weights, reduction)


def l2_loss(
    predictions: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike | None = None,
    *,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Half the squared error of each prediction, whose gradient is the error itself.

    ::

        ℓ = ½·(p − t)²

    Shapes and errors as in :func:`squared_error`.
    """
    errors = _errors("l2_loss", predictions, targets, where, weights)
    return reduced("l2_loss", 0.5 * jnp.square(errors), where, weights, reduction)


def absolute_error(
    predictions: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike | None = None,
    *,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Absolute error of each prediction; its minimiser is the median.

    ::

        ℓ = |p − t|        ∂ℓ/∂p = sign(p − t), 0 at the target

    Shapes and errors as in :func:`squared_error`.
    """
    errors = _errors("absolute_error", predictions, targets, where, weights)
    # Not jnp.abs, whose derivative at 0 is 1.
    return reduced("absolute_error", jnp.maximum(errors, -errors), where, weights, reduction)


def huber_loss(
    predictions: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike | None = None,
    *,
    delta: jax.typing.ArrayLike = 1.0,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Squared near the target, linear beyond ``delta``: outliers pull with a bounded force.

    ::

        e = p − t
        ℓ = ½·e²              where |e| ≤ δ
            δ·(|e| − ½·δ)     elsewhere

    ``delta`` is a finite number ≥ 0 or has the shape of ``predictions``. Shapes and errors as in
    :func:`squared_error`. Source: Huber, "Robust Estimation of a Location Parameter", Ann. Math. Stat. 1964.
    """
    checks.between("huber_loss", "delta", delta, 0, math.inf, open_high=True)
    errors = _errors("huber_loss", predictions, targets, where, weights)
    delta = option("huber_loss", "delta", delta, errors.shape, errors.dtype)
    size = jnp.abs(errors)
    near = size <= delta
    inner = jnp.where(near, errors, 0)
    losses = jnp.where(near, 0.5 * jnp.square(inner), delta * (size - 0.5 * delta))
    return reduced("huber_loss", losses, where, weights, reduction)


@jax.custom_jvp
def _log_cosh(x: jax.Array) -> jax.Array:
    # Below 1 by cosh x − 1, whose Taylor series of ten terms is exact there; above, where cosh x may overflow, not.
    size, tail = jnp.abs(x), jnp.ones_like(x)
    for k in range(17, 1, -2):
        tail = 1 + x * x / (k * (k + 1)) * tail
    small = size < 1
    grown = jnp.log1p(jnp.where(small, 0.5 * x * x * tail, jnp.exp(-2 * size)))
    return jnp.where(small, grown, size - math.log(2) + grown)


_log_cosh.defjvps(lambda t, ans, x: t * jnp.tanh(x))


def log_cosh(
    predictions: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike | None = None,
    *,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Logarithm of the hyperbolic cosine of the error: a Huber loss with all derivatives.

    ::

        ℓ = log cosh(p − t)        ∂ℓ/∂p = tanh(p − t)

    Shapes and errors as in :func:`squared_error`. Source: Chen et al., "Log Hyperbolic Cosine Loss Improves
    Variational Auto-Encoder", 2018.

    >>> print(f"{log_cosh(jnp.array(1e-4)):.4g}, {log_cosh(jnp.array(1e4)):.7g}")  # x²/2 near 0, |x| − log 2 far away
    5e-09, 9999.307
    """
    errors = _errors("log_cosh", predictions, targets, where, weights)
    return reduced("log_cosh", _log_cosh(errors), where, weights, reduction)


def quantile_loss(
    predictions: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    quantile: jax.typing.ArrayLike = 0.5,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Pinball loss; its minimiser is the ``quantile`` of the targets.

    ::

        ℓ = q·max(t − p, 0) + (1 − q)·max(p − t, 0)        ∂ℓ/∂p = 0 at the target

    ``quantile`` is a number in (0, 1) or has the shape of ``predictions``. Shapes and errors as in
    :func:`squared_error`. Source: Koenker and Bassett, "Regression Quantiles", Econometrica 1978.
    """
    checks.between("quantile_loss", "quantile", quantile, 0, 1, open_low=True, open_high=True)
    errors = _errors("quantile_loss", predictions, targets, where, weights)
    quantile = option("quantile_loss", "quantile", quantile, errors.shape, errors.dtype)
    over, under = jax.nn.relu(errors), jax.nn.relu(-errors)
    losses = jnp.asarray(quantile * under + (1 - quantile) * over)
    return reduced("quantile_loss", losses, where, weights, reduction)


def gaussian_nll(
    predictions: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    variance: jax.typing.ArrayLike,
    *,
    eps: float = 1e-6,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Negative log-likelihood of targets under a normal distribution, without its constant ½·log 2π.

    ::

        v = max(variance, ε)
        ℓ = ½·(log v + (p − t)² / v)

    All arrays have one shape. Below ε the gradient to ``variance`` is that at ε and not 0, as in PyTorch, so
    that a collapsed variance recovers; a negative variance gives NaN. In nats. Source: Nix and Weigend,
    "Estimating the Mean and Variance of the Target Probability Distribution", ICNN 1994.
    """
    checks.floating("gaussian_nll", predictions=predictions, variance=variance)
    checks.between("gaussian_nll", "eps", eps, 0, math.inf, open_low=True)
    predictions, targets, variance = entries(
        "gaussian_nll", where, weights, predictions=predictions, targets=targets, variance=variance
    )
    lift = jnp.where(variance < 0, jnp.nan, jnp.maximum(eps - variance, 0))
    v = variance + jax.lax.stop_gradient(lift)
    errors = predictions - targets
    losses = 0.5 * (jnp.log(v) + errors * (errors / v))
    return reduced("gaussian_nll", losses, where, weights, reduction)


def poisson_nll(
    log_rate: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Negative log-likelihood of counts under a Poisson distribution, without its constant log t!.

    ::

        ℓ = exp(x) − t·x        x = log_rate,  0·(−∞) = 0

    ``log_rate`` and ``targets`` (counts ≥ 0, integer or floating) have one shape. In nats.
    """
    checks.floating("poisson_nll", log_rate=log_rate)
    log_rate, targets = entries("poisson_nll", where, weights, log_rate=log_rate, targets=targets)
    # exp grows faster than any t·x: where it overflows the loss is +∞, not ∞ − ∞.
    rate = jnp.exp(log_rate)
    linear = jnp.where(rate == jnp.inf, 0, log_rate)
    return reduced("poisson_nll", rate - product(targets, linear), where, weights, reduction)


@functools.partial(jax.jit, static_argnums=1)  # its two branches differ in type where shardings are explicit
def _unit_factors(x: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """s and f such that x·s·f has length 1 along ``axes`` and x·s is of moderate size; f = 0 for the zero vector."""
    squared = jnp.sum(jnp.square(x), axis=axes, keepdims=True)
    info = jnp.finfo(x.dtype)
    ordinary = (squared > info.tiny * 2.0**56) & (squared < info.max * 2.0**-8)

    def scaled(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        # A power of two scales without rounding, and keeps the squares from overflow and underflow.
        largest = jnp.max(jnp.abs(jax.lax.stop_gradient(x)), axis=axes, keepdims=True, initial=0.0)
        exponent = jnp.clip(-jnp.frexp(largest)[1], info.minexp, -info.minexp)
        scale = jnp.ldexp(jnp.ones_like(largest), exponent)
        squared = jnp.sum(jnp.square(x * scale), axis=axes, keepdims=True)
        return scale, jnp.where(squared > 0, jax.lax.rsqrt(jnp.where(squared > 0, squared, 1)), 0)

    plain = lambda x: (jnp.ones_like(squared), jax.lax.rsqrt(jnp.where(ordinary, squared, 1)))
    return jax.lax.cond(jnp.all(ordinary), plain, scaled, x)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def units(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Vectors of length 1, whatever their scale; the zero vector stays zero, with gradient 0."""
    scale, factor = _unit_factors(x, axes)
    return x * scale * factor


@units.defjvp
def _units_jvp(axes: tuple[int, ...], primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    # du = (dx − u·⟨u, dx⟩)/‖x‖: autodiff of the norm would keep a second copy of x.
    (x,), (dx,) = primals, tangents
    scale, factor = _unit_factors(x, axes)
    u = x * scale * factor
    across = dx - u * jnp.sum(u * dx, axis=axes, keepdims=True)
    return u, across * (scale * factor)


def _floored(x: jax.Array, axes: tuple[int, ...], epsilon: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """s, f as in ``_unit_factors`` but with at least √ε in place of the length, and where that is so."""
    scale, factor = _unit_factors(x, axes)
    root = jnp.sqrt(jnp.asarray(epsilon, x.dtype))
    short = (root > 0) & ((factor == 0) | (factor * scale * root > 1))
    return scale, jnp.where(short, 1 / jnp.where(root > 0, root, 1) / scale, factor), short


def _cosine_parts(p: jax.Array, t: jax.Array, epsilon: Any, axes: tuple[int, ...]) -> tuple[jax.Array, Any]:
    of_p, of_t = _floored(p, axes, epsilon), _floored(t, axes, epsilon)
    scale_p, scale_t = of_p[0], of_t[0]
    # Scaled copies cost two passes over memory that ordinary vectors do not need.
    product = jax.lax.cond(
        jnp.all((scale_p == 1) & (scale_t == 1)),
        lambda: jnp.sum(p * t, axis=axes, keepdims=True),
        lambda: jnp.sum((p * scale_p) * (t * scale_t), axis=axes, keepdims=True),
    )
    return product * (of_p[1] * of_t[1]), (of_p, of_t)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _cosine(p: jax.Array, t: jax.Array, epsilon: Any, axes: tuple[int, ...]) -> jax.Array:
    """p·t / (‖p‖·‖t‖) along ``axes``, which stay with length 1."""
    return _cosine_parts(p, t, epsilon, axes)[0]


@_cosine.defjvp
def _cosine_jvp(axes: tuple[int, ...], primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    # dc = (t̂ − c·p̂)·dp/‖p‖ + …: one pass over both, where autodiff of the norms stores scaled copies.
    p, t, epsilon = primals
    dp, dt, d_epsilon = tangents
    c, ((s, f, p_short), (r, g, t_short)) = _cosine_parts(p, t, epsilon, axes)
    u, v = p * s * f, t * r * g
    toward_p = (v - jnp.where(p_short, 0, c) * u) * (f * s * dp)
    toward_t = (u - jnp.where(t_short, 0, c) * v) * (g * r * dt)
    floors = p_short.astype(c.dtype) + t_short
    floor = -0.5 * floors * c * d_epsilon / jnp.where(epsilon > 0, epsilon, 1)
    return c, jnp.sum(toward_p + toward_t, axis=axes, keepdims=True) + floor


def _cosines(
    name: str, predictions: Any, targets: Any, epsilon: Any, axis: Axis, where: Any, weights: Any
) -> tuple[jax.Array, Any]:
    """The cosines and the mask of results."""
    checks.floating(name, predictions=predictions, targets=targets)
    checks.between(name, "epsilon", epsilon, 0, math.inf)
    where, classes = split_mask(name, where, predictions, axis)
    predictions, targets = entries(
        name, where, weights, axis=axis, classes=classes, predictions=predictions, targets=targets
    )
    axes = axes_of(axis, predictions.ndim)
    cosines = _cosine(predictions, targets, jnp.asarray(epsilon, predictions.dtype), axes)
    return jnp.squeeze(cosines, axes), where


def cosine_similarity(
    predictions: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    epsilon: jax.typing.ArrayLike = 0.0,
    axis: Axis = -1,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Cosine of the angle between two vectors; higher is more alike.

    ::

        ℓ = Σ p·t / (‖p‖·‖t‖)        0 when either vector is 0, with gradient 0

    ``predictions`` and ``targets`` have one shape ``[..., D]``, ℓ the shape without ``axis`` (an axis, several,
    or ``None`` for all). ``epsilon`` is a floor of the squared norms. ``where`` masks results ``[...]``, or
    single components when it has the shape of ``predictions``. Norms neither overflow nor underflow.
    """
    name = "cosine_similarity"
    cosines, where = _cosines(name, predictions, targets, epsilon, axis, where, weights)
    return reduced(name, cosines, where, weights, reduction)


def cosine_distance(
    predictions: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    epsilon: jax.typing.ArrayLike = 0.0,
    axis: Axis = -1,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """One minus the cosine of the angle between two vectors.

    ::

        ℓ = 1 − Σ p·t / (‖p‖·‖t‖)        1 when either vector is 0, with gradient 0

    Arguments as in :func:`cosine_similarity`.
    """
    name = "cosine_distance"
    cosines, where = _cosines(name, predictions, targets, epsilon, axis, where, weights)
    return reduced(name, 1 - cosines, where, weights, reduction)
