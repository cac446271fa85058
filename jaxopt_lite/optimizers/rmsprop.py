"""RMSProp: gradients divided by their recent root mean square, or by their standard deviation.

[1] Tieleman, Hinton, "Lecture 6.5 - rmsprop", Coursera: Neural Networks for Machine Learning, 2012.
[2] Graves, "Generating Sequences With Recurrent Neural Networks", 2013, arXiv:1308.0850, eqs. 38–41 (centered).
"""

from typing import NamedTuple

import jax.numpy as jnp

from jaxopt_lite import checks
from jaxopt_lite.compose import chain
from jaxopt_lite.optimizers import moments
from jaxopt_lite.optimizers.scale import add_decayed_weights, scale_by_learning_rate
from jaxopt_lite.optimizers.sgd import trace
from jaxopt_lite.transformation import elementwise, transformation
from jaxopt_lite.types import Array, Mask, Params, Scalar, ScalarOrSchedule


class ScaleByRmsState(NamedTuple):
    """The average of squared gradients."""

    nu: Params  # like |params|; k²·v, see moments.second_moment


class ScaleByRmsWithCountState(NamedTuple):
    """Step count and the average of squared gradients."""

    count: Array  # [] int32
    nu: Params  # like |params|; k²·v, see moments.second_moment


class ScaleByRStdDevState(NamedTuple):
    """Averages of gradients and of their squares."""

    mu: Params  # like params, float32 for 16-bit ones
    nu: Params  # like |params|; k²·v, see moments.second_moment


class ScaleByRStdDevWithCountState(NamedTuple):
    """Step count, averages of gradients and of their squares."""

    count: Array  # [] int32
    mu: Params  # like params, float32 for 16-bit ones
    nu: Params  # like |params|; k²·v, see moments.second_moment


@transformation
def scale_by_rms(
    decay: Scalar = 0.9,
    eps: Scalar = 1e-8,
    initial_scale: Scalar = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
):
    """RMSProp's direction [1].

    ```
    vₜ = β·vₜ₋₁ + (1 − β)·|gₜ|²       (v₀ = initial_scale)
    uₜ = gₜ / √(vₜ + ε)               (eps_in_sqrt=False: gₜ / (√vₜ + ε))
    ```

    With ``bias_correction`` vₜ / (1 − βᵗ) stands for vₜ in the second line.
    """
    _check("scale_by_rms", decay, eps, initial_scale)

    def rule(g, p, s, nu):
        nu = moments.second_moment(nu, g, decay)
        return g / _root(nu * s if bias_correction else nu, eps, eps_in_sqrt), nu

    state = ScaleByRmsWithCountState if bias_correction else ScaleByRmsState
    init = lambda leaf: (moments.real_moment(leaf, initial_scale),)
    return elementwise(rule, state, init=init, scalars=_correction(decay) if bias_correction else None)


@transformation
def scale_by_stddev(
    decay: Scalar = 0.9,
    eps: Scalar = 1e-8,
    initial_scale: Scalar = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
):
    """Centered RMSProp's direction [2].

    ```
    mₜ = β·mₜ₋₁ + (1 − β)·gₜ
    vₜ = β·vₜ₋₁ + (1 − β)·|gₜ|²       (v₀ = initial_scale)
    uₜ = gₜ / √(vₜ − |mₜ|² + ε)       (eps_in_sqrt=False: gₜ / (√(vₜ − |mₜ|²) + ε))
    ```

    With ``bias_correction`` both averages are divided by 1 − βᵗ in the last line. A variance that rounding
    makes negative counts as 0.
    """
    _check("scale_by_stddev", decay, eps, initial_scale)

    def rule(g, p, s, mu, nu):
        mu = moments.ema(mu, g, decay)
        nu = moments.second_moment(nu, g, decay)
        v, mean = (nu * s, mu * s) if bias_correction else (nu, mu)
        variance = jnp.maximum(v - moments.squared(mean), 0)
        return g / _root(variance, eps, eps_in_sqrt), mu, nu

    state = ScaleByRStdDevWithCountState if bias_correction else ScaleByRStdDevState
    init = lambda leaf: (moments.first_moment(leaf), moments.real_moment(leaf, initial_scale))
    return elementwise(rule, state, init=init, scalars=_correction(decay) if bias_correction else None)


def _check(name, decay, eps, initial_scale):
    moments.check_rates(name, decays={"decay": decay}, epsilons={"eps": eps})
    checks.between(name, "initial_scale", initial_scale, 0, 1e30)


def _correction(decay):
    """1 / (1 − βᵗ), which the averages are multiplied by."""
    return lambda t, updates: 1 / moments.bias_correction(decay, t)


def _root(nu, eps, inside):
    return moments.root_of(nu, eps) if inside else moments.root_of(nu) + eps


@transformation
def rmsprop(
    learning_rate: ScalarOrSchedule,
    decay: Scalar = 0.9,
    eps: Scalar = 1e-8,
    initial_scale: Scalar = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: Scalar | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
    *,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
):
    """RMSProp [1], plain or centered [2], with momentum and decoupled weight decay.

    ```
    vₜ = β·vₜ₋₁ + (1 − β)·|gₜ|²             (v₀ = initial_scale; centered: less |mₜ|² below)
    dₜ = −η · (gₜ / √(vₜ + ε) + λ·pₜ)       (eps_in_sqrt=False: √vₜ + ε)
    uₜ = dₜ                                 (momentum: uₜ = μ·uₜ₋₁ + dₜ; nesterov: dₜ + μ·(μ·uₜ₋₁ + dₜ))
    ```

    Args:
      learning_rate: η, a float, a 0-d array or a schedule.
      decay: β in [0, 1).
      eps: ε ≥ 0, under the root or outside of it (``eps_in_sqrt``).
      initial_scale: v₀ ≥ 0.
      eps_in_sqrt: where ε stands.
      centered: divide by the standard deviation, not the root mean square.
      momentum: μ in [0, 1], or ``None`` for none (and no state).
      nesterov: look ahead by one step of momentum.
      bias_correction: divide the averages by 1 − βᵗ.
      weight_decay: λ, a float, a 0-d array or a schedule.
      mask: where λ applies: a tree of bools like the parameters (or a prefix), or a function from parameters to one.

    State: one float32 value per parameter; one more each with ``centered`` and with ``momentum``.
    """
    direction = scale_by_stddev if centered else scale_by_rms
    return chain(
        direction(decay, eps, initial_scale, eps_in_sqrt, bias_correction),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
        *([] if momentum is None else [trace(momentum, nesterov)]),
    )
