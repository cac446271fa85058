"""Wrong losses: each wrong in one way seen in the wild, with the laws it breaks, no more and no less."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_lite.testing import LossCase as Case
from tests.testing.right_losses import (
    check_shapes,
    cross_entropy,
    cross_entropy_ids,
    kl,
    reduced,
    squares,
    squares_oracle,
    wide,
)

MUTANTS = {}


def breaks(*laws, **facts):
    """Register a wrong loss with all the laws it breaks (the first names it)."""

    def register(loss):
        MUTANTS[loss.__name__] = (lambda: Case(loss, **facts), laws)
        return loss

    return register


def pair(predictions, targets):
    check_shapes(predictions, targets)
    return wide(predictions), wide(targets)


@breaks("finite_float32", "hostile_predictions", "small_predictions_are_accurate")
def answers_float32_in_bfloat16(predictions, targets):
    p, t = pair(predictions, targets)
    return (0.5 * (p - t) ** 2).astype(jnp.bfloat16 if p.dtype == jnp.float32 else p.dtype)


@breaks(
    "jit_equals_eager",
    "finite_float32",
    "jitted_inside_a_gradient",
    "vmap_equals_loop",
    "temporaries_within_budget",
)
def branches_on_a_value(predictions, targets):
    p, t = pair(predictions, targets)
    return (p - t) ** 2 if jnp.sum(t) > -1e9 else p


@breaks(
    "vmap_equals_loop", "gradient_matches_differences", "forward_equals_reverse", "second_derivative_is_finite",
    "jitted_inside_a_gradient", "gradient_has_the_arguments_dtype", "temporaries_within_budget",
    "hostile_predictions", "zero_predictions", "differentiable_at_the_target", "one_hot_targets",
)  # fmt: skip
def calls_back_to_numpy(predictions, targets):
    p, t = pair(predictions, targets)
    return jax.pure_callback(lambda a, b: (a - b) ** 2, p, p, t) if p.ndim else p


def _wrong_rule(derivative, rule=jax.custom_jvp):
    @rule
    def loss(p, t):
        return 0.5 * (p - t) ** 2

    if rule is jax.custom_jvp:
        loss.defjvp(lambda xs, ds: (loss(*xs), derivative(xs[0] - xs[1]) * (ds[0] - ds[1])))
    else:
        loss.defvjp(lambda p, t: (loss(p, t), p - t), lambda d, g: (g * derivative(d), -g * derivative(d)))
    return loss


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _squares_of(p, t):
    return 0.5 * (p - t) ** 2


_squares_of.defjvp(lambda t, ps, ds: (_squares_of(*ps, t), (ps[0] - t) * ds[0]))


@breaks("jitted_inside_a_gradient", argnums=(0,))
def takes_targets_for_static(predictions, targets):
    return _squares_of(*pair(predictions, targets))


@breaks("gradient_matches_differences")
def derivative_misses_a_factor(predictions, targets):
    return _wrong_rule(lambda d: 2 * d)(*pair(predictions, targets))


@breaks("forward_equals_reverse", "one_hot_targets")
def has_a_reverse_rule_only(predictions, targets):
    return _wrong_rule(lambda d: d, jax.custom_vjp)(*pair(predictions, targets))


@breaks("second_derivative_is_finite")
def derivative_is_not_differentiable(predictions, targets):
    d = jnp.subtract(*pair(predictions, targets))
    return _wrong_rule(lambda d: d * (1 + 0 * jnp.sqrt(jnp.abs(d - d))))(d, jnp.zeros_like(d))


@breaks("sixteen_bit_is_accurate")
def sums_in_sixteen_bits(predictions, targets):
    check_shapes(predictions, targets)
    terms = (predictions - targets) ** 2
    add = lambda total, i: (total + terms[..., i % terms.shape[-1]], None)
    return jax.lax.scan(add, jnp.zeros(terms.shape[:-1], terms.dtype), jnp.arange(200))[0]


@breaks("float32_result", claims={"float32_result"})
def answers_in_bfloat16(predictions, targets):
    return cross_entropy(predictions, targets).astype(predictions.dtype)


@breaks("temporaries_within_budget")
def compares_all_with_all(predictions, targets):
    p, t = pair(predictions, targets)
    every = jnp.sum((p[:, None, :] - t[None, :, :]) ** 2, -1)
    return jnp.diagonal(jnp.sort(every, axis=1)) * 0 + jnp.sum((p - t) ** 2, -1)


@breaks("matches_oracle", oracle=squares_oracle)
def forgets_the_half(predictions, targets):
    return 2 * squares(predictions, targets)


@breaks("reductions_agree", "weights_multiply")
def mean_is_a_sum(predictions, targets, *, where=None, weights=None, reduction="none"):
    return squares(
        predictions, targets, where=where, weights=weights, reduction=reduction.replace("mean", "sum")
    )


@breaks("reductions_agree")
def takes_any_reduction(predictions, targets, *, where=None, weights=None, reduction="none"):
    known = reduction if reduction in ("none", "sum", "mean") else "mean"
    return squares(predictions, targets, where=where, weights=weights, reduction=known)


@breaks("hostile_predictions", "absent_class", claims={"logits"})
def exponentiates_logits(predictions, targets):
    p, t = pair(predictions, targets)
    e = jnp.exp(p)
    return -jnp.sum(t * jnp.log(e / jnp.sum(e, -1, keepdims=True)), -1)


@breaks("hostile_predictions")
def softplus_overflows(predictions, targets):
    p, t = pair(predictions, targets)
    return jnp.log(1 + jnp.exp(p)) - p * t


@breaks("small_predictions_are_accurate")
def log_cosh_cancels(predictions, targets):
    d = jnp.subtract(*pair(predictions, targets))
    return jnp.logaddexp(d, -d) - np.log(2).astype(d.dtype)


@breaks("differentiable_at_the_target")
def distance_has_a_corner(predictions, targets):
    p, t = pair(predictions, targets)
    return jnp.sqrt(jnp.sum((p - t) ** 2, -1))


@breaks("zero_predictions")
def cosine_of_a_zero_vector(predictions, targets):
    p, t = pair(predictions, targets)
    top = jnp.max(jnp.abs(p), -1, keepdims=True)
    unit = p / top
    return 1 - jnp.sum(unit * t, -1) / jnp.sqrt(jnp.sum(unit**2, -1) * jnp.sum(t**2, -1))


@breaks("one_hot_targets", claims={"log_probabilities"})
def zero_times_log_zero(predictions, targets):
    p, t = pair(predictions, targets)
    return jnp.sum(t * (jnp.log(t) - p), -1)


@breaks("absent_class", claims={"logits"})
def zero_times_minus_infinity(logits, targets):
    p, t = pair(logits, targets)
    return -jnp.sum(t * jax.nn.log_softmax(p), -1)


@breaks("labels_out_of_range")
def negative_labels_count_from_the_end(logits, labels):
    check_shapes(logits[..., 0], labels)
    labels = jnp.where(labels < 0, labels + logits.shape[-1], labels)
    return cross_entropy_ids(logits, labels)


@breaks("labels_out_of_range")
def labels_are_clipped(logits, labels):
    return cross_entropy_ids(logits, jnp.clip(labels, 0, logits.shape[-1] - 1))


@breaks("shape_mismatch_raises")
def broadcasts_in_silence(predictions, targets):
    p, t = wide(predictions), wide(targets)
    return (p - jnp.broadcast_to(t, p.shape)) ** 2


@breaks("masked_equals_subset")
def mean_counts_masked_entries(predictions, targets, *, where=None, weights=None, reduction="none"):
    if reduction == "mean" and where is not None:
        return squares(predictions, targets, where=where, weights=weights, reduction="sum") / predictions.size
    return squares(predictions, targets, where=where, weights=weights, reduction=reduction)


@breaks("nan_under_the_mask")
def masks_by_multiplying(predictions, targets, *, where=None, weights=None, reduction="none"):
    p, t = pair(predictions, targets)
    keep = 1.0 if where is None else where.astype(p.dtype)
    return reduced(0.5 * keep * (p - t) ** 2, None if where is None else where, weights, reduction) + jnp.sum(
        0 * keep * (p - t)
    )


@breaks("nan_under_the_mask")
def masks_the_value_only(predictions, targets, *, where=None, weights=None, reduction="none"):
    p, t = pair(predictions, targets)
    return reduced(jnp.exp(0.5 * jnp.log1p((p - t) ** 2)), where, weights, reduction)


@breaks("all_masked_is_zero")
def divides_by_an_empty_mask(predictions, targets, *, where=None, weights=None, reduction="none"):
    total = squares(predictions, targets, where=where, weights=weights, reduction="sum")
    keep = jnp.ones(predictions.shape, bool) if where is None else where
    size = jnp.sum(jnp.where(keep, 1.0 if weights is None else weights, 0))
    if reduction != "mean":
        return squares(predictions, targets, where=where, weights=weights, reduction=reduction)
    return total / size


@breaks("weights_multiply")
def mean_forgets_the_weights(predictions, targets, *, where=None, weights=None, reduction="none"):
    if reduction == "mean" and weights is not None:
        return jnp.mean(squares(predictions, targets, where=where, weights=weights))
    return squares(predictions, targets, where=where, weights=weights, reduction=reduction)


@breaks("permutation_equivariant", "examples_are_independent")
def later_examples_count_more(predictions, targets):
    return squares(predictions, targets) * (
        1 + jnp.cumsum(jnp.ones(predictions.shape), 0) / predictions.shape[0]
    )


@breaks("permutation_equivariant")
def alternates_by_position(predictions, targets):
    p, t = pair(predictions, targets)
    odd = (jnp.arange(p.shape[0]) % 2).astype(p.dtype).reshape(-1, *[1] * (p.ndim - 1))
    return (p - t) ** 2 * jnp.broadcast_to(1 + odd, p.shape)


@breaks("examples_are_independent")
def divides_by_the_batch(predictions, targets):
    p, t = pair(predictions, targets)
    return (p - t) ** 2 / p.shape[0]


@breaks("shift_invariant", claims={"shift_invariant"})
def penalises_large_logits(logits, targets):
    return cross_entropy(logits, targets) + 1e-2 * jnp.sum(wide(logits) ** 2, -1)


@breaks("non_negative", claims={"non_negative"})
def drops_the_entropy_of_the_targets(predictions, targets):
    return kl(jax.nn.log_softmax(wide(predictions)), targets) - 1.0


@breaks("zero_at_target", claims={"zero_at_target", "log_probabilities"})
def cross_entropy_for_divergence(log_predictions, targets):
    p, t = pair(log_predictions, targets)
    return -jnp.sum(jnp.where(t > 0, t * p, 0), -1)


@breaks("convex", claims={"convex"})
def saturates(predictions, targets):
    d = jnp.subtract(*pair(predictions, targets))
    return jnp.tanh(jnp.clip(d, -20, 20)) ** 2
