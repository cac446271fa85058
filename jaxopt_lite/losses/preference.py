"""Losses of preferences: learning from chosen and rejected answers, without a reward model or to train one.

They take log-probabilities of whole answers, ``[B]`` (any one shape will do), from summing or averaging the token
log-probabilities of ``language.linear_log_probs``, and give one loss per pair, in nats where nothing else is said.
Different shapes raise ``ValueError``. Log-ratios of any size are safe; nothing is clipped.

[1] Rafailov et al., "Direct Preference Optimization", NeurIPS 2023, arXiv:2305.18290.
[2] Mitchell, "A note on DPO with noisy preferences and relationship to IPO", 2023 (label smoothing).
[3] Chowdhury et al., "Provably Robust DPO", ICML 2024, arXiv:2403.00409.
[4] Zhao et al., "SLiC-HF", 2023, arXiv:2305.10425.
[5] Azar et al., "A General Theoretical Paradigm to Understand Learning from Human Preferences", AISTATS 2024,
    arXiv:2310.12036.
[6] Meng et al., "SimPO", NeurIPS 2024, arXiv:2405.14734.
[7] Xu et al., "Contrastive Preference Optimization", ICML 2024, arXiv:2401.08417.
[8] Hong et al., "ORPO: Monolithic Preference Optimization without Reference Model", EMNLP 2024, arXiv:2403.07691.
[9] Ethayarajh et al., "KTO: Model Alignment as Prospect Theoretic Optimization", ICML 2024, arXiv:2402.01306.
[10] Bradley and Terry, "Rank Analysis of Incomplete Block Designs", Biometrika 1952.
[11] Touvron et al., "Llama 2", 2023, arXiv:2307.09288 (margin).
[12] Eisenstein et al., "Helping or Herding? Reward Model Ensembles ...", 2023, arXiv:2312.09244 (centring).
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxopt_lite import checks
from jaxopt_lite.losses.reduce import entries, option, product, reduced
from jaxopt_lite.losses.sequence import log_add, sigmoid

Array = jax.typing.ArrayLike
Number = float | jax.Array
VARIANTS = ("sigmoid", "robust", "hinge")


def number(name: str, argument: str, value: Any, dtype: Any) -> jax.Array:
    """An option that is one number, as an array without axes; anything else raises ``ValueError``."""
    return jnp.asarray(option(name, argument, value, (), dtype), dtype)


def softplus(x: jax.Array) -> jax.Array:
    """−log σ(−x) = log(1 + eˣ), with the derivative σ(x) to the last digits.

    >>> jax.grad(softplus)(-80.0).item() == jax.nn.sigmoid(-80.0).item()
    True
    """
    return log_add(jnp.zeros_like(x), x)


def dpo_loss(
    chosen_logps: Array,
    rejected_logps: Array,
    reference_chosen_logps: Array,
    reference_rejected_logps: Array,
    *,
    beta: Number = 0.1,
    label_smoothing: float = 0.0,
    variant: str = "sigmoid",
    where: Array | None = None,
    weights: Array | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Direct preference optimization [1].

    ::

        D = (w − w_ref) − (l − l_ref)
        "sigmoid":  ℓ = −(1 − ε)·log σ(βD) − ε·log σ(−βD)                    [1], with ε > 0 [2]
        "robust":   ℓ = (−(1 − ε)·log σ(βD) + ε·log σ(−βD)) / (1 − 2ε)       [3]
        "hinge":    ℓ = max(0, 1 − βD)                                      [4]

    w, l and their references are *summed* log-probabilities ``[B]`` of the chosen and the rejected answers; ε is
    ``label_smoothing``, the probability that a label is flipped, in [0, ½) (0 for ``"hinge"``, which has none). The
    robust form is unbounded below. A wrong ``variant`` or ε raises ``ValueError``.

    >>> print(f"{dpo_loss(jnp.array([-3.0]), jnp.array([-5.0]), jnp.array([-4.0]), jnp.array([-4.0]))[0]:.4f}")
    0.5981
    """
    name = "dpo_loss"
    checks.one_of(name, "variant", variant, VARIANTS)
    high = 0 if variant == "hinge" else 0.5
    checks.between(name, "label_smoothing", label_smoothing, 0, high, open_high=variant != "hinge")
    margin = _margin(
        name, chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps, where, weights
    )
    x = number(name, "beta", beta, margin.dtype) * margin
    if variant == "sigmoid":
        flipped = number(name, "label_smoothing", label_smoothing, x.dtype)
        losses = product(1 - flipped, softplus(-x)) + product(flipped, softplus(x))
    elif variant == "robust":
        # −log σ(−x) = x − log σ(x), so the two terms never cancel.
        odds = label_smoothing / (1 - 2 * label_smoothing)
        losses = softplus(-x) - product(number(name, "label_smoothing", odds, x.dtype), x)
    else:
        losses = jax.nn.relu(1 - x)
    return reduced(name, losses, where, weights, reduction)


def _margin(
    name: str,
    chosen: Any,
    rejected: Any,
    reference_chosen: Any,
    reference_rejected: Any,
    where: Any,
    weights: Any,
) -> jax.Array:
    """How much more the policy has moved towards the chosen than towards the rejected answer."""
    w, l, w_ref, l_ref = entries(
        name,
        where,
        weights,
        chosen_logps=chosen,
        rejected_logps=rejected,
        reference_chosen_logps=reference_chosen,
        reference_rejected_logps=reference_rejected,
    )
    return (w - w_ref) - (l - l_ref)


def ipo_loss(
    chosen_logps: Array,
    rejected_logps: Array,
    reference_chosen_logps: Array,
    reference_rejected_logps: Array,
    *,
    beta: Number = 0.1,
    where: Array | None = None,
    weights: Array | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Identity preference optimization: a margin of a set size, not an ever larger one [5].

    ::

        D = (w − w_ref) − (l − l_ref)
        ℓ = (D − 1/(2β))²

    w, l and their references are token *means* of log-probabilities ``[B]``, the normalisation that the authors
    confirm; β > 0 is their τ.

    >>> ipo_loss(jnp.array([-3.0]), jnp.array([-5.0]), jnp.array([-4.0]), jnp.array([-4.0])).item()
    9.0
    """
    name = "ipo_loss"
    checks.between(name, "beta", beta, 0, math.inf, open_low=True)
    margin = _margin(
        name, chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps, where, weights
    )
    beta = number(name, "beta", beta, margin.dtype)
    return reduced(name, jnp.square(margin - 1 / (2 * beta)), where, weights, reduction)


def simpo_loss(
    chosen_logps: Array,
    rejected_logps: Array,
    *,
    beta: Number = 2.0,
    gamma: Number = 1.0,
    where: Array | None = None,
    weights: Array | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Simple preference optimization: no reference model, a target margin γ [6].

    ::

        ℓ = −log σ(β·(w − l) − γ)

    w and l are token *means* of log-probabilities ``[B]``. γ is the paper's (TRL's divides it by β first).

    >>> print(f"{simpo_loss(jnp.array([-1.0]), jnp.array([-2.0]))[0]:.4f}")
    0.3133
    """
    name = "simpo_loss"
    w, l = entries(name, where, weights, chosen_logps=chosen_logps, rejected_logps=rejected_logps)
    beta, gamma = number(name, "beta", beta, w.dtype), number(name, "gamma", gamma, w.dtype)
    return reduced(name, softplus(gamma - beta * (w - l)), where, weights, reduction)


def _with_nll(
    name: str, chosen_logps: Any, rejected_logps: Any, chosen_nll: Any, where: Any, weights: Any
) -> list[jax.Array]:
    """w, l and the negative log-likelihood of the chosen answer, −w unless given."""
    pair = {"chosen_logps": chosen_logps, "rejected_logps": rejected_logps}
    if chosen_nll is not None:
        return entries(name, where, weights, **pair, chosen_nll=chosen_nll)
    w, l = entries(name, where, weights, **pair)
    return [w, l, -w]


def cpo_loss(
    chosen_logps: Array,
    rejected_logps: Array,
    *,
    beta: Number = 0.1,
    alpha: Number = 1.0,
    chosen_nll: Array | None = None,
    where: Array | None = None,
    weights: Array | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Contrastive preference optimization: DPO against a uniform reference, and likelihood of the chosen [7].

    ::

        ℓ = −log σ(β·(w − l)) + α·nll

    w and l are *summed* log-probabilities ``[B]``; nll is ``chosen_nll`` ``[B]``, −w unless given (TRL gives the
    token mean).

    >>> print(f"{cpo_loss(jnp.array([-1.0]), jnp.array([-2.0]))[0]:.4f}")
    1.6444
    """
    name = "cpo_loss"
    w, l, nll = _with_nll(name, chosen_logps, rejected_logps, chosen_nll, where, weights)
    beta, alpha = number(name, "beta", beta, w.dtype), number(name, "alpha", alpha, w.dtype)
    return reduced(name, softplus(beta * (l - w)) + product(alpha, nll), where, weights, reduction)


def orpo_loss(
    chosen_logps: Array,
    rejected_logps: Array,
    *,
    beta: Number = 0.1,
    chosen_nll: Array | None = None,
    where: Array | None = None,
    weights: Array | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Odds-ratio preference optimization: likelihood of the chosen, and its odds over those of the rejected [8].

    ::

        odds(a) = exp a / (1 − exp a)
        ℓ = nll − β·log σ(log odds(w) − log odds(l))

    w and l are token *means* of log-probabilities ``[B]``, ≤ 0 (what rounding lifts above counts as 0); nll is
    ``chosen_nll`` ``[B]``, −w unless given. β is the paper's λ. At w = 0 the second term is 0, at l = 0 it is +∞,
    and the gradient is alive at both ends; for w = l = 0, where it has no limit, it is β·log 2 with gradient 0.

    >>> print(f"{orpo_loss(jnp.array([-0.5]), jnp.array([-1.0]))[0]:.4f}")
    0.5320
    """
    name = "orpo_loss"
    w, l, nll = _with_nll(name, chosen_logps, rejected_logps, chosen_nll, where, weights)
    w, l = (a + lax.stop_gradient(jnp.minimum(-a, 0)) for a in (w, l))
    beta = number(name, "beta", beta, w.dtype)
    return reduced(name, nll + product(beta, _log_one_plus_odds_ratio(l, w)), where, weights, reduction)


def _log_one_plus_odds_ratio(l: jax.Array, w: jax.Array) -> jax.Array:
    """log(1 + r) with r = odds(l)/odds(w) = exp(l − w)·(1 − exp w)/(1 − exp l).

    Where l ≤ w, r ≤ 1 is formed directly: as log r its derivative would be 0·∞ at w = 0. Elsewhere r may overflow
    and w < 0, so log r is safe.
    """
    both_certain = (w == 0) & (l == 0)
    w, l = jnp.where(both_certain, -1, w), jnp.where(both_certain, -1, l)
    ordered = l <= w
    lower, upper = jnp.where(ordered, l, -1), jnp.where(ordered, w, -1)
    small = jnp.log1p(jnp.exp(lower - upper) * (jnp.expm1(upper) / jnp.expm1(lower)))
    lower, upper = jnp.where(ordered, -1, w), jnp.where(ordered, -1, l)
    # 0 − …, not −…: the derivative at l = 0 is +∞ only for a positive zero.
    large = softplus((upper - lower) + jnp.log(0 - jnp.expm1(lower)) - jnp.log(0 - jnp.expm1(upper)))
    return jnp.where(ordered, small, large)


def kto_loss(
    logps: Array,
    reference_logps: Array,
    desirable: Array,
    *,
    kl: Number,
    beta: Number = 0.1,
    desirable_weight: Number = 1.0,
    undesirable_weight: Number = 1.0,
    where: Array | None = None,
    weights: Array | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Kahneman–Tversky optimization: from single answers marked good or bad [9].

    ::

        z₀ = max(kl, 0), no gradient
        ℓ = λ_D·(1 − σ(β·(w − w_ref − z₀)))        where desirable
        ℓ = λ_U·(1 − σ(β·(z₀ − (w − w_ref))))      elsewhere

    w and its reference are *summed* log-probabilities ``[B]``, ``desirable`` booleans ``[B]``. ``kl`` is the batch's
    estimate of KL(policy‖reference), one number: the mean log-ratio of answers paired with the wrong prompts. λ are
    the two weights of the classes. No unit; ℓ is in [0, λ].

    >>> good = jnp.array([True, False])
    >>> kto_loss(jnp.array([-1.0, -1.0]), jnp.array([-3.0, -3.0]), good, kl=0.0).round(2).tolist()
    [0.44999998807907104, 0.550000011920929]
    """
    name = "kto_loss"
    checks.shape(name, "kl", kl, ())
    checks.shape(name, "desirable", desirable, jnp.shape(logps))
    if jnp.result_type(desirable) != jnp.bool_:
        raise TypeError(f"{name}: desirable has dtype {jnp.result_type(desirable)}, expected bool")
    w, w_ref = entries(name, where, weights, logps=logps, reference_logps=reference_logps)
    (z,) = entries(name, where, weights, kl=jnp.broadcast_to(jnp.asarray(kl, w.dtype), w.shape))
    shortfall = lax.stop_gradient(jnp.maximum(z, 0)) - (w - w_ref)
    good = jnp.asarray(desirable)
    beta = number(name, "beta", beta, w.dtype)
    desirable_weight = number(name, "desirable_weight", desirable_weight, w.dtype)
    undesirable_weight = number(name, "undesirable_weight", undesirable_weight, w.dtype)
    class_weights = jnp.where(good, desirable_weight, undesirable_weight)
    losses = class_weights * sigmoid(beta * jnp.where(good, shortfall, -shortfall))
    return reduced(name, losses, where, weights, reduction)


def bradley_terry_loss(
    chosen_rewards: Array,
    rejected_rewards: Array,
    *,
    margin: Array = 0.0,
    centering: Number = 0.0,
    where: Array | None = None,
    weights: Array | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Negative log-likelihood of a preference between two rewards, to train a reward model [10].

    ::

        ℓ = −log σ(c − r − m) + κ·(c + r)²

    Rewards c, r are ``[B]``; m is ``margin``, a number or one per pair ``[B]`` [11]; κ is ``centering`` (0.01 is
    usual), which holds rewards near zero [12].

    >>> print(f"{bradley_terry_loss(jnp.array([1.0]), jnp.array([0.0]), margin=1.0)[0]:.4f}")
    0.6931
    """
    name = "bradley_terry_loss"
    c, r = entries(name, where, weights, chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards)
    margin = option(name, "margin", margin, c.shape, c.dtype)
    (m,) = entries(name, where, weights, margin=jnp.broadcast_to(jnp.asarray(margin, c.dtype), c.shape))
    centering = number(name, "centering", centering, c.dtype)
    losses = softplus(m - (c - r)) + product(centering, jnp.square(c + r))
    return reduced(name, losses, where, weights, reduction)
