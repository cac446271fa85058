"""Losses of policy-gradient fine-tuning: clipped surrogates, group-relative advantages, values, KL and entropy.

Token losses take ``[B, T]`` log-probabilities of the sampled tokens under the policy, under the policy that sampled
them (``old_logps``) and under a reference. All are to be minimised. Gradients flow into every argument, so what the
algorithm holds constant (advantages, old and reference log-probabilities) should be data or ``stop_gradient``.

[1] Schulman et al., "Proximal Policy Optimization Algorithms", 2017, arXiv:1707.06347.
[2] Ye et al., "Mastering Complex Control in MOBA Games with Deep Reinforcement Learning", AAAI 2020,
    arXiv:1912.09729 (dual clip).
[3] Shao et al., "DeepSeekMath", 2024, arXiv:2402.03300 (GRPO).
[4] Yu et al., "DAPO", 2025, arXiv:2503.14476.
[5] Liu et al., "Understanding R1-Zero-Like Training", 2025, arXiv:2503.20783 (Dr. GRPO).
[6] Zheng et al., "Group Sequence Policy Optimization", 2025, arXiv:2507.18071.
[7] MiniMax, "MiniMax-M1", 2025, arXiv:2506.13585 (CISPO).
[8] Schulman, "Approximating KL Divergence", 2020.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxopt_lite import checks
from jaxopt_lite.axes import chosen_by_compiler, leading
from jaxopt_lite.losses.classes import log_probabilities
from jaxopt_lite.losses.preference import number
from jaxopt_lite.losses.reduce import entries, product, reduced

Array = jax.typing.ArrayLike
Number = float | jax.Array
VARIANTS = ("grpo", "dapo", "dr_grpo", "gspo", "cispo")


def _surrogate(log_ratio: Any, advantages: Any, low: Any, high: Any, dual_clip: Any = None) -> jax.Array:
    """−min(ρA, clip(ρ, 1 − low, 1 + high)·A), below −dual_clip·A where A < 0.

    The ratio is exponentiated only where it counts: an overflow on a clipped branch would make its gradient 0·∞.
    """
    ratio = jnp.exp(lax.stop_gradient(log_ratio))
    bound = jnp.clip(ratio, 1 - low, 1 + high)
    live = advantages * ratio <= advantages * bound  # False for 0·∞ = NaN
    if dual_clip is not None:
        far = (advantages < 0) & (ratio > dual_clip)
        bound, live = jnp.where(far, dual_clip, bound), live & ~far
    ratio = jnp.where(live, jnp.exp(jnp.where(live, log_ratio, 0)), bound)
    return -advantages * ratio


def _clip_range(name: str, clip_low: Any, clip_high: Any, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """Both ends, the upper one like the lower unless given."""
    clip_high = clip_low if clip_high is None else clip_high
    checks.between(name, "clip_low", clip_low, 0, 1)
    checks.between(name, "clip_high", clip_high, 0, math.inf)
    return number(name, "clip_low", clip_low, dtype), number(name, "clip_high", clip_high, dtype)


def clipped_surrogate_loss(
    logps: Array,
    old_logps: Array,
    advantages: Array,
    *,
    clip_low: Number = 0.2,
    clip_high: Number | None = None,
    dual_clip: Number | None = None,
    where: Array | None = None,
    weights: Array | None = None,
    reduction: str = "none",
) -> jax.Array:
    """PPO's clipped objective, entry by entry [1].

    ::

        ρ = exp(logps − old_logps)
        ℓ = −min(ρ·A, clip(ρ, 1 − ε_low, 1 + ε_high)·A)
        ℓ ← min(ℓ, −c·A)        where A < 0, with dual_clip c > 1 [2]

    All three arrays have one shape ``[...]``; so has ℓ. ε_high is ε_low unless given (larger in DAPO [4]). A = 0
    gives 0 whatever the ratio; a ratio that overflows unclipped gives +∞. No unit.

    >>> clipped_surrogate_loss(jnp.log(jnp.array([1.5, 1.5])), jnp.zeros(2), jnp.array([1.0, -1.0])).tolist()
    [-1.2000000476837158, 1.5]
    """
    name = "clipped_surrogate_loss"
    new, old, a = entries(name, where, weights, logps=logps, old_logps=old_logps, advantages=advantages)
    low, high = _clip_range(name, clip_low, clip_high, a.dtype)
    if dual_clip is not None:
        checks.between(name, "dual_clip", dual_clip, 1, math.inf, open_low=True)
        dual_clip = number(name, "dual_clip", dual_clip, a.dtype)
    return reduced(name, _surrogate(new - old, a, low, high, dual_clip), where, weights, reduction)


def k3_kl(
    logps: Array,
    reference_logps: Array,
    *,
    where: Array | None = None,
    weights: Array | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Estimate of KL(policy‖reference) from tokens sampled by the policy: unbiased and never negative [8].

    ::

        d = reference_logps − logps
        k₃ = exp(d) − d − 1

    Both arrays have one shape ``[...]``; so has the result. In nats. Exact to the last digits near d = 0, where the
    formula as written loses them all.

    >>> k3_kl(jnp.array([-1.0, -1.0]), jnp.array([-1.0001, -3.0])).round(9).tolist()
    [4.999999969612645e-09, 1.135335087776184]
    """
    new, reference = entries("k3_kl", where, weights, logps=logps, reference_logps=reference_logps)
    return reduced("k3_kl", _k3(reference - new), where, weights, reduction)


def _k3(d: jax.Array) -> jax.Array:
    """exp(d) − d − 1, from its series d²·Σⱼ dʲ/(j + 2)! where |d| ≤ 1 (18 terms are enough for float64)."""
    near = jnp.abs(d) <= 1
    small = jnp.where(near, d, 0)
    series = jnp.zeros_like(d)
    for j in reversed(range(18)):
        series = series * small + 1 / math.factorial(j + 2)
    large = jnp.where(near, 0, d)
    return jnp.where(near, jnp.square(small) * series, jnp.expm1(large) - jnp.where(d == jnp.inf, 0, large))


def grpo_loss(
    logps: Array,
    old_logps: Array,
    advantages: Array,
    *,
    mask: Array,
    variant: str = "grpo",
    clip_low: Number = 0.2,
    clip_high: Number | None = None,
    reference_logps: Array | None = None,
    kl_weight: Number = 0.0,
    max_length: int | None = None,
) -> jax.Array:
    """Group-relative policy optimization and its descendants: one scalar for a batch of sampled answers.

    ::

        ρ = exp(logps − old_logps)
        ℓ = −min(ρ·A, clip(ρ, 1 − ε_low, 1 + ε_high)·A) + λ·k₃        per token, λ = kl_weight
        "grpo":     Σ_b (Σ_t ℓ / n_b) / B                             [3]
        "dapo":     Σ_b Σ_t ℓ / Σ_b n_b                               [4]
        "dr_grpo":  Σ_b Σ_t ℓ / (B·max_length)                        [5]
        "gspo":     as "grpo", ρ = exp of a sequence's mean log-ratio [6]
        "cispo":    as "dapo", ℓ = −min(ρ, 1 + ε_high)·A·logps + λ·k₃ with no gradient to ρ [7]

    ``logps``, ``old_logps``, ``reference_logps`` and ``mask`` (which tokens are the answer; bool, or 0 and 1) are
    ``[B, T]``, ``advantages`` A ``[B]`` (see :func:`group_advantages`). Sums run over unmasked tokens, n_b of them
    in sequence b. B counts all sequences, wholly masked ones too, as in TRL: each of those adds 0 to the sum.
    ``"dapo"`` and ``"cispo"`` never notice them. All masked: 0, gradient 0. ``max_length`` is T unless given. ε_high
    is ε_low unless given. A ``kl_weight`` without ``reference_logps`` raises ``ValueError``, and so do wrong shapes.

    >>> logps, old = jnp.log(jnp.array([[0.5, 0.5], [0.2, 0.9]])), jnp.log(jnp.array([[0.5, 0.4], [0.2, 0.9]]))
    >>> mask = jnp.array([[True, True], [True, False]])
    >>> print(f"{grpo_loss(logps, old, jnp.array([1.0, -1.0]), mask=mask):.4f}")
    -0.0500
    """
    name = "grpo_loss"
    checks.one_of(name, "variant", variant, VARIANTS)
    if jnp.ndim(logps) != 2:
        raise ValueError(f"{name}: logps has shape {jnp.shape(logps)}, expected [B, T]")
    checks.shape(name, "advantages", advantages, jnp.shape(logps)[:1])
    checks.shape(name, "mask", mask, jnp.shape(logps))
    keep = jnp.asarray(mask) != 0
    new, old = entries(name, keep, None, logps=logps, old_logps=old_logps)
    (a,) = entries(name, jnp.any(keep, axis=1), None, advantages=advantages)
    low, high = _clip_range(name, clip_low, clip_high, new.dtype)
    tokens = _token_losses(variant, new, new - old, a[:, None], keep, low, high)
    if not (isinstance(kl_weight, (int, float)) and kl_weight == 0):
        if reference_logps is None:
            raise ValueError(
                f"{name}: reference_logps is None, expected [B, T] since kl_weight is {kl_weight!r}"
            )
        new, reference = entries(name, keep, None, logps=logps, reference_logps=reference_logps)
        kl_weight = number(name, "kl_weight", kl_weight, tokens.dtype)
        tokens = tokens + product(kl_weight, _k3(reference - new))
    return _over_tokens(variant, jnp.where(keep, tokens, 0), keep, max_length)


def _token_losses(
    variant: str, logps: jax.Array, log_ratio: jax.Array, a: jax.Array, keep: jax.Array, low: Any, high: Any
) -> jax.Array:
    """The policy's part of ℓ for each token, with ``a`` ``[B, 1]``."""
    if variant == "gspo":
        log_ratio = jnp.broadcast_to(_mean_over_tokens(log_ratio, keep)[:, None], log_ratio.shape)
    a = jnp.broadcast_to(a, log_ratio.shape)
    if variant != "cispo":
        return _surrogate(log_ratio, a, low, high)
    coefficient = jnp.minimum(jnp.exp(lax.stop_gradient(log_ratio)), 1 + high) * a
    return -product(coefficient, logps)


def _mean_over_tokens(tokens: jax.Array, keep: jax.Array) -> jax.Array:
    """[B]; 0 for a sequence without tokens."""
    return jnp.sum(tokens, axis=1) / jnp.maximum(jnp.sum(keep, axis=1), 1).astype(tokens.dtype)


def _over_tokens(variant: str, tokens: jax.Array, keep: jax.Array, max_length: int | None) -> jax.Array:
    """The scalar, of token losses that are 0 where masked."""
    batch, length = tokens.shape
    if variant in ("grpo", "gspo"):
        return jnp.sum(_mean_over_tokens(tokens, keep)) / max(batch, 1)
    if variant == "dr_grpo":
        return jnp.sum(tokens) / max(batch * (length if max_length is None else max_length), 1)
    return jnp.sum(tokens) / jnp.maximum(jnp.sum(keep), 1).astype(tokens.dtype)


def group_advantages(rewards: Array, *, scale: bool = True, eps: Number = 1e-4) -> jax.Array:
    """Advantages of K answers to one prompt, relative to their group [3].

    ::

        A = (R − mean R) / (std R + ε)        A = R − mean R with scale=False, as in Dr. GRPO [5]

    ``rewards`` R are ``[G, K]``, one group a row; so is A. The standard deviation is unbiased (K − 1). A group of
    equal rewards, and a group of one, have advantages exactly 0 with a finite gradient.

    >>> group_advantages(jnp.array([[1.0, 0.0], [0.1, 0.1]]), scale=False).tolist()
    [[0.5, -0.5], [0.0, 0.0]]
    """
    name = "group_advantages"
    if jnp.ndim(rewards) < 1:
        raise ValueError(f"{name}: rewards has shape (), expected [G, K]")
    (r,) = entries(name, None, None, rewards=rewards)
    size = r.shape[-1]
    if size < 2:
        return jnp.zeros_like(r)
    # From the first answer, not from zero: equal rewards then have a mean of exactly 0, however large they are.
    first = chosen_by_compiler(lambda r: r[..., 0], leading(r, r.ndim - 1), r)
    r = r - lax.stop_gradient(first[..., None])
    r = r - jnp.mean(r, axis=-1, keepdims=True)
    if not scale:
        return r
    largest = lax.stop_gradient(jnp.max(jnp.abs(r), axis=-1, keepdims=True))
    varies = largest > 0
    unit = jnp.where(varies, r / jnp.where(varies, largest, 1), 1)
    std = jnp.where(varies, largest * jnp.sqrt(jnp.sum(unit**2, axis=-1, keepdims=True) / (size - 1)), 0)
    total = std + number(name, "eps", eps, r.dtype)
    return jnp.where(total > 0, r / jnp.where(total > 0, total, 1), 0)


def value_clip_loss(
    values: Array,
    old_values: Array,
    returns: Array,
    *,
    clip: Number = 0.2,
    where: Array | None = None,
    weights: Array | None = None,
    reduction: str = "none",
) -> jax.Array:
    """PPO's clipped value loss: the worse of the value and the value held near its old self.

    ::

        ℓ = ½·max((v − R)², (clip(v, v_old − ε, v_old + ε) − R)²)

    All three arrays have one shape ``[...]``; so has ℓ, in the returns' unit squared. Source: the authors'
    implementation of [1].

    >>> print(f"{value_clip_loss(jnp.array([1.0]), jnp.array([0.0]), jnp.array([1.0]))[0]:.4f}")
    0.3200
    """
    name = "value_clip_loss"
    checks.between(name, "clip", clip, 0, math.inf)
    v, old, r = entries(name, where, weights, values=values, old_values=old_values, returns=returns)
    clip = number(name, "clip", clip, v.dtype)
    held = jnp.clip(v, old - clip, old + clip)
    losses = 0.5 * jnp.maximum(jnp.square(v - r), jnp.square(held - r))
    return reduced(name, losses, where, weights, reduction)


def policy_entropy(
    logits: Array,
    axis: int = -1,
    *,
    where: Array | None = None,
    weights: Array | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Entropy of the policy, the usual bonus against collapse (to be subtracted from a loss).

    ::

        H = −Σ p·log p        p = softmax(z), 0·log 0 = 0

    ``logits`` z are ``[..., V]`` over ``axis``, H is ``[...]``. In nats, between 0 and log V. Logits of −∞ are
    actions that cannot be taken.

    >>> print(f"{policy_entropy(jnp.array([0.0, 0.0, -jnp.inf])):.4f}")
    0.6931
    """
    (z,) = entries("policy_entropy", where, weights, axis=axis, logits=logits)
    log_p = log_probabilities(z, axis)
    entropy = -jnp.sum(product(jnp.exp(log_p), log_p), axis=axis)
    return reduced("policy_entropy", entropy, where, weights, reduction)
