"""Sophia: momentum divided by an estimate of the Hessian's diagonal, clipped entry by entry.

[1] Liu, Li, Hall, Liang, Ma, "Sophia: A Scalable Stochastic Second-order Optimizer for Language Model
    Pre-training", ICLR 2024, arXiv:2305.14342, Alg. 3 (Sophia-H) and Alg. 1 (Hutchinson's estimator).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_lite import checks
from jaxopt_lite.compose import chain
from jaxopt_lite.optimizers import moments
from jaxopt_lite.optimizers.scale import add_decayed_weights, scale_by_learning_rate
from jaxopt_lite.transformation import elementwise, transformation
from jaxopt_lite.types import Array, Mask, Params, Scalar, ScalarOrSchedule


class HutchinsonState(NamedTuple):
    """The key of the next estimate."""

    key: Array  # [2] uint32, or a typed key


class SophiaState(NamedTuple):
    """Step count, momentum, the averaged Hessian diagonal, and the estimator's state."""

    count: Array  # [] int32
    mu: Params  # like params, float32 for 16-bit ones
    nu: Params  # like |params|
    hessian_fn_state: Any


class _Inner(NamedTuple):
    count: Array
    mu: Params
    nu: Params


@transformation
def hutchinson_estimator_diag_hessian(random_seed: Any = None):
    """Hutchinson's estimate of the Hessian's diagonal [1, Alg. 1]: z ⊙ ∇²f(p)·z with z random signs.

    Its ``update`` needs ``params`` and the extra argument ``obj_fn``, a scalar function of the parameters.

    Args:
      random_seed: a JAX random key; by default ``jax.random.PRNGKey(0)``.
    """

    def init(params):
        key = jax.random.PRNGKey(0) if random_seed is None else random_seed
        return HutchinsonState(jnp.copy(key))

    def update(updates, state, params=None, *, obj_fn=None, **extra):
        if params is None or obj_fn is None:
            missing = "params" if params is None else "the extra argument obj_fn"
            raise ValueError(f"hutchinson_estimator_diag_hessian.update: {missing} is None, expected a value")
        key, subkey = jax.random.split(state.key)
        leaves, treedef = jax.tree.flatten(params)
        keys = jax.random.split(subkey, max(1, len(leaves)))
        signs = [jax.random.rademacher(k, p.shape, p.dtype) for k, p in zip(keys, leaves, strict=False)]
        signs = treedef.unflatten(signs)
        _, curvature = jax.jvp(jax.grad(obj_fn), (params,), (signs,))
        return jax.tree.map(lambda z, h: (z * h).real, signs, curvature), HutchinsonState(key)

    return optax.GradientTransformationExtraArgs(init, update)


@transformation
def scale_by_sophia(
    b1: Scalar = 0.965,
    b2: Scalar = 0.99,
    eps: Scalar = 1e-8,
    gamma: Scalar = 0.01,
    clip_threshold: Scalar | None = 1.0,
    update_interval: int = 10,
    hessian_diagonal_fn: Any = None,
    mu_dtype: Any = None,
):
    """Sophia's direction [1]; see ``sophia``."""
    name = "scale_by_sophia"
    moments.check_rates(name, decays={"b1": b1, "b2": b2}, epsilons={"eps": eps, "gamma": gamma})
    checks.between(name, "update_interval", update_interval, 1, float("inf"))
    estimator = optax.with_extra_args_support(hessian_diagonal_fn or hutchinson_estimator_diag_hessian())
    direction = _direction(b1, eps, gamma, clip_threshold, mu_dtype)

    def init(params):
        return SophiaState(*direction.init(params), estimator.init(params))

    def update(updates, state, params=None, **extra):
        def refresh():
            h, inner = estimator.update(updates, state.hessian_fn_state, params, **extra)
            average = lambda new, old: moments.ema(old, new.astype(old.dtype), b2)
            return jax.tree.map(average, h, state.nu), inner

        due = state.count % update_interval == 0
        nu, inner = jax.lax.cond(due, refresh, lambda: (state.nu, state.hessian_fn_state))
        updates, new = direction.update(updates, _Inner(state.count, state.mu, nu), params)
        return updates, SophiaState(*new, inner)

    return optax.GradientTransformationExtraArgs(init, update)


@transformation
def _direction(b1: Scalar, eps: Scalar, gamma: Scalar, clip_threshold: Scalar | None, mu_dtype: Any):
    """The clipped quotient; h passes through."""

    def rule(g, p, s, mu, h):
        mu = moments.ema(mu, g, b1)
        u = mu / jnp.maximum(jnp.maximum(gamma * h, eps), jnp.finfo(h.dtype).tiny)
        return (u if clip_threshold is None else _clip(u, clip_threshold)), mu, h

    return elementwise(rule, _Inner, init=lambda leaf: moments.two_moments(leaf, mu_dtype))


def _clip(u: Array, threshold: Scalar) -> Array:
    """Every entry's magnitude to at most the threshold; a complex entry keeps its direction."""
    if not jnp.iscomplexobj(u):
        return jnp.clip(u, -threshold, threshold)
    size = jnp.abs(u)
    return u * jnp.where(size > threshold, threshold / jnp.where(size > threshold, size, 1), 1)


@transformation
def sophia(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.965,
    b2: Scalar = 0.99,
    eps: Scalar = 1e-8,
    weight_decay: ScalarOrSchedule = 1e-4,
    weight_decay_mask: Mask | None = None,
    gamma: Scalar = 0.01,
    clip_threshold: Scalar | None = 1.0,
    update_interval: int = 10,
    hessian_diagonal_fn: Any = None,
    mu_dtype: Any = None,
):
    """Sophia [1].

    ```
    mₜ = β₁·mₜ₋₁ + (1 − β₁)·gₜ
    hₜ = β₂·hₜ₋₁ + (1 − β₂)·ĥₜ      in steps 1, 1 + k, 1 + 2k, …, else hₜ₋₁
    uₜ = −η · (clip(mₜ / max(γ·hₜ, ε), ρ) + λ·pₜ)
    ```

    ``update`` needs the extra argument ``obj_fn``, this batch's loss as a function of the parameters alone::

        updates, state = tx.update(grads, state, params, obj_fn=lambda params: loss(params, batch))

    optax divides by the Hessian of before the refresh, and corrects m's bias; here [1] rules: the first step
    already uses curvature.

    # deviation from [1]: z in the estimate are signs, which have less variance, not normal numbers.

    Args:
      learning_rate: η, a float, a 0-d array or a schedule.
      b1: β₁ in [0, 1), decay of the momentum.
      b2: β₂ in [0, 1), decay of the average of Hessian estimates.
      eps: ε ≥ 0, the smallest denominator.
      weight_decay: λ, a float, a 0-d array or a schedule.
      weight_decay_mask: where λ applies: a tree of bools like the parameters (or a prefix), or a function from
        parameters to one.
      gamma: γ ≥ 0; larger means fewer clipped entries.
      clip_threshold: ρ > 0, or ``None`` for no clipping.
      update_interval: k ≥ 1.
      hessian_diagonal_fn: a transformation whose update is ĥ, by default ``hutchinson_estimator_diag_hessian()``.
        It gets the extra arguments, and must average over devices itself.
      mu_dtype: how real leaves' momentum is stored; by default float32 for 16-bit parameters.

    State: two float32 values per parameter.
    """
    return chain(
        scale_by_sophia(b1, b2, eps, gamma, clip_threshold, update_interval, hessian_diagonal_fn, mu_dtype),
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_learning_rate(learning_rate),
    )
