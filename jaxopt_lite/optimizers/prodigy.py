"""Prodigy: AdamW whose learning rate is an estimate of the distance to the solution.

[1] Mishchenko, Defazio, "Prodigy: An Expeditiously Adaptive Parameter-Free Learner", ICML 2024, arXiv:2306.06101,
    Alg. 4, as in the authors' code.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_lite import checks
from jaxopt_lite.optimizers import moments
from jaxopt_lite.optimizers.scale import value_at
from jaxopt_lite.transformation import active, transformation
from jaxopt_lite.tree import is_none
from jaxopt_lite.types import Array, Mask, Params, Scalar, ScalarOrSchedule


class ProdigyState(NamedTuple):
    """Both moments of d·g, the weighted sum of gradients, the initial parameters, d and its numerator, the count."""

    exp_avg: Params  # like params, float32 for 16-bit ones
    exp_avg_sq: Params  # like |params|; k²·v, see moments.second_moment
    grad_sum: Params  # like exp_avg
    params0: Params  # a copy
    estim_lr: Array  # [] float32
    numerator_weighted: Array  # [] float32
    count: Array  # [] int32


@transformation
def prodigy(
    learning_rate: ScalarOrSchedule = 1.0,
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    beta3: Scalar | None = None,
    eps: Scalar = 1e-8,
    estim_lr0: Scalar = 1e-6,
    estim_lr_coef: Scalar = 1.0,
    weight_decay: ScalarOrSchedule = 0.0,
    safeguard_warmup: bool = False,
    *,
    mask: Mask | None = None,
):
    """Prodigy [1]: AdamW without a learning rate to tune.

    ```
    γₜ = d·η·√(1 − β₂ᵗ) / (1 − β₁ᵗ)
    mₜ = β₁·mₜ₋₁ + (1 − β₁)·d·gₜ
    vₜ = β₂·vₜ₋₁ + (1 − β₂)·|d·gₜ|²
    sₜ = β₃·sₜ₋₁ + (γₜ·d/d₀)·gₜ                       (safeguard_warmup: d²/d₀)
    rₜ = β₃·rₜ₋₁ + (γₜ·d/d₀)·⟨gₜ, p₁ − pₜ⟩
    d  ← max(d, c·rₜ / ‖sₜ‖₁)
    uₜ = −γₜ · (mₜ / (√vₜ + d·ε) + λ·pₜ)
    ```

    ⟨·,·⟩ and ‖·‖₁ run over all leaves; d = d₀ at first. While no gradient has been seen d stays.

    Args:
      learning_rate: η, 1 or a schedule around 1.
      betas: β₁ and β₂ in [0, 1).
      beta3: β₃ in [0, 1), by default √β₂.
      eps: ε ≥ 0.
      estim_lr0: d₀ > 0, a low guess of d.
      estim_lr_coef: c > 0.
      weight_decay: λ, a float, a 0-d array or a schedule.
      safeguard_warmup: keep η out of s, for a warm-up from 0.
      mask: where λ applies: a tree of bools like the parameters (or a prefix), or a function from parameters to one.

    State: four values per parameter, one of them a copy of it.
    """
    b1, b2 = betas
    b3 = b2**0.5 if beta3 is None else beta3
    moments.check_rates("prodigy", decays={"b1": b1, "b2": b2, "beta3": b3}, epsilons={"eps": eps})

    @jax.jit
    def accumulate(g, m, v, s, p0, p, d, weight):
        g, p0, p = (x.astype(m.dtype) for x in (g, p0, p))
        m = moments.ema(m, d * g, b1)
        v = moments.second_moment(v, d * g, b2)
        s = b3 * s + weight * g
        return m, v, s, jnp.sum((g.conj() * (p0 - p)).real), jnp.sum(jnp.abs(s))

    def update(updates, state, params=None, **extra):
        checks.require_params("prodigy", params)
        d, dtype, t = state.estim_lr, state.estim_lr.dtype, optax.safe_increment(state.count)
        correction = jnp.sqrt(moments.bias_correction(b2, t)) / moments.bias_correction(b1, t)
        rate = (d * value_at(learning_rate, t) * correction).astype(dtype)
        gain = d / estim_lr0
        leaves, treedef = jax.tree.flatten(updates, is_leaf=is_none)
        rows = list(zip(*(treedef.flatten_up_to(x) for x in (*state[:4], params)), strict=True))
        weight = gain * (d if safeguard_warmup else rate)
        new = [
            (*row[:3], 0.0, 0.0) if g is None else accumulate(g, *row, d, weight)
            for g, row in zip(leaves, rows, strict=True)
        ]
        total = lambda k: sum((row[k] for row in new), start=jnp.zeros([], dtype))
        numerator = (b3 * state.numerator_weighted + gain * rate * total(3)).astype(dtype)
        d = jnp.maximum(d, _ratio(estim_lr_coef * numerator, total(4))).astype(dtype)
        decay = value_at(weight_decay, t)
        stepped = [
            None if g is None else _step(g, *row[:2], p, rate, d * eps, decay if on else 0.0)
            for g, row, (*_, p), on in zip(leaves, new, rows, active(mask, updates, params), strict=True)
        ]
        slots = [treedef.unflatten([row[k] for row in new]) for k in range(3)]
        return treedef.unflatten(stepped), ProdigyState(*slots, state.params0, d, numerator, t)

    return optax.GradientTransformationExtraArgs(lambda params: _init(params, estim_lr0), update)


def _init(params: Params, estim_lr0: Scalar) -> ProdigyState:
    dtype = moments.scalar_dtype(params)
    return ProdigyState(
        exp_avg=jax.tree.map(moments.first_moment, params),
        exp_avg_sq=jax.tree.map(moments.real_moment, params),
        grad_sum=jax.tree.map(moments.first_moment, params),
        params0=jax.tree.map(lambda p: moments.own_copy(p, p.dtype), params),
        estim_lr=jnp.array(estim_lr0, dtype, copy=True),
        numerator_weighted=jnp.zeros([], dtype),
        count=jnp.zeros([], jnp.int32),
    )


@jax.jit
def _step(g, m, v, p, rate, offset, decay):
    """The update of one leaf."""
    u = m / (moments.root_of(v) + offset) + decay * p.astype(m.dtype)
    return (-rate * u).astype(g.dtype)


def _ratio(a: Array, b: Array) -> Array:
    """a / b, and 0 where no gradient has made b positive yet."""
    return jnp.where(b == 0, 0, a / jnp.where(b == 0, 1, b))
