"""Losses: ``loss(predictions, targets, *, <options>, where=None, weights=None, reduction="none")``.

Shapes must agree exactly. ``where`` (boolean) and ``weights`` have the shape of the unreduced result; a masked
entry is exactly 0 in value and gradient, even over NaN. ``reduction="mean"`` is Σ w·ℓ / Σ w. Arithmetic is
float32 or better, results are float32 for 16-bit inputs. All results are in nats, to be minimised.

Which loss for which task (x, z logits; p, q probabilities; t, y targets or labels; e = p − t; s scores)::

    regression:
    squared_error                              e²                                         the mean of the targets
    l2_loss                                    ½·e²                                       the same; gradient e
    absolute_error                             |e|                                        the median; outliers
    huber_loss                                 ½·e² near 0, δ·(|e| − δ/2) beyond δ        mean; outliers
    log_cosh                                   log cosh e                                 the same, infinitely smooth
    quantile_loss                              q·max(−e, 0) + (1 − q)·max(e, 0)           quantiles, intervals
    gaussian_nll                               ½·(log v + e²/v)                           mean and variance together
    poisson_nll                                exp(x) − t·x                               counts
    cosine_similarity                          Σ p·t / (‖p‖·‖t‖)                          direction of vectors
    cosine_distance                            1 − Σ p·t / (‖p‖·‖t‖)                      direction, to be minimised
    classification:
    cross_entropy                              −Σ y·log p                                 classes, from probabilities
    softmax_cross_entropy                      −Σ y·log softmax(z)                        classes; rows as targets
    softmax_cross_entropy_with_integer_labels  log Σ exp(z) − z_y                         classes, next tokens
    safe_softmax_cross_entropy                 softmax_cross_entropy                      optax's other name for it
    sigmoid_binary_cross_entropy               −y·log σ(x) − (1 − y)·log σ(−x)            yes/no, several tags at once
    sigmoid_focal_loss                         (1 − p_t)ᵞ·(−log p_t)                      detection; rare positives
    softmax_focal_loss                         (1 − p_y)ᵞ·(−log p_y)                      classes, many easy examples
    poly_loss_cross_entropy                    −Σ y·log p + ε·Σ y·(1 − p)                 classes, tunable first order
    hinge_loss                                 max(0, 1 − t·x)                            binary, maximum margin
    squared_hinge_loss                         max(0, 1 − t·x)²                           the same, smooth
    perceptron_loss                            max(0, −t·x)                               binary, sign only
    multiclass_hinge_loss                      maxⱼ (sⱼ − s_y + [j ≠ y])                  classes, maximum margin
    multiclass_perceptron_loss                 maxⱼ sⱼ − s_y                              classes, structured scores
    sparsemax_loss                             0, (u + 1)²/4, u; u = ∓x                   binary, exact zeros
    multiclass_sparsemax_loss                  Ω*(s) − s_y, Ω = ½·(‖p‖² − 1)              classes, sparse probabilities
    make_fenchel_young_loss                    max_fun(s) − Σ y·s                         a loss from a max function
    smooth_labels                              (1 − α)·y + α/C                            targets for the above
    divergence:
    kl_divergence                              Σ t·(log t − log q)                        match a distribution
    kl_divergence_with_log_targets             the same from log t                        match a log-distribution
    generalized_kl_divergence                  Σ t·(log t − log q) + q − t                unnormalised measures, NMF
    js_divergence                              β·KL(T‖M) + (1 − β)·KL(P‖M)                on-policy distillation
    distillation_loss                          α·τ²·KL(T‖S) + (1 − α)·cross-entropy       student and teacher logits
    contrastive:
    info_nce                                   log Σⱼ exp(cos/τ) − cosᵢᵢ/τ                two towers (CLIP), retrieval
    siglip_loss                                −Σⱼ log σ(±(t·cos + b))                    two towers, no batch softmax
    ntxent                                     Σ log(1 + Σ exp(neg) / exp(pos))           self-supervision (SimCLR)
    triplet_margin_loss                        max(0, d(a, p) − d(a, n) + margin)         metric learning
    ranking:
    ranking_softmax_loss                       −Σ y·log softmax(s)                        lists with graded relevance
    pairwise_logistic_loss                     Σ log(1 + exp(sⱼ − sᵢ)), yᵢ > yⱼ           lists, order of pairs
    list_mle                                   −log P(order by y | s)                     lists, order as a whole
    segmentation:
    dice_loss                                  1 − (Σ p·y + s) / (½·Σ p + ½·Σ y + s)      masks, unbalanced areas
    binary_dice_loss                           the same for one class                     one mask
    multiclass_generalized_dice_loss           1 − 2·Σ w·p·y / Σ w·(p + y)                many classes, rare ones
    tversky_loss                               1 − TP / (TP + α·FP + β·FN)                recall against precision
    sequence:
    ctc_loss                                   −log Σ P(alignments of y)                  speech, handwriting
    ctc_loss_with_forward_probs                the same, with its forward table           alignments
    language:
    linear_softmax_cross_entropy               cross-entropy of h·W, logits never stored  large vocabularies
    linear_log_probs                           log p of given tokens, the same way        preference and policy losses
    linear_distillation_loss                   js divergence of two heads, the same way   distillation
    preference:
    dpo_loss                                   −log σ(β·Δ), Δ against the reference       pairs and a reference model
    ipo_loss                                   (Δ − 1/2β)²                                pairs, noisy or few
    simpo_loss                                 −log σ(β·Δ − γ) of token means             pairs, no reference
    cpo_loss                                   −log σ(β·Δ) + α·NLL                        pairs, no reference
    orpo_loss                                  NLL − β·log σ(log odds ratio)              fine-tune and align in one
    kto_loss                                   1 − σ(±β·(r − z₀))                         single ratings, no pairs
    bradley_terry_loss                         −log σ(r_w − r_l − m)                      reward models
    policy:
    clipped_surrogate_loss                     −min(ρ·A, clip(ρ)·A)                       PPO
    grpo_loss                                  the same over tokens, by variant           GRPO and its variants
    value_clip_loss                            ½·max((v − R)², (clip(v) − R)²)            PPO critic
    k3_kl                                      exp(d) − d − 1, d = log r − log p          KL penalty, per token
    group_advantages                           (R − mean) / (std + ε)                     rewards of GRPO groups
    policy_entropy                             −Σ p·log p                                 exploration bonus
"""

from jaxopt_lite.losses.classification import (
    cross_entropy,
    safe_softmax_cross_entropy,
    sigmoid_binary_cross_entropy,
    smooth_labels,
    softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
)
from jaxopt_lite.losses.contrastive import info_nce, ntxent, siglip_loss, triplet_margin_loss
from jaxopt_lite.losses.distill import linear_distillation_loss
from jaxopt_lite.losses.divergence import (
    distillation_loss,
    generalized_kl_divergence,
    js_divergence,
    kl_divergence,
    kl_divergence_with_log_targets,
)
from jaxopt_lite.losses.fenchel_young import (
    make_fenchel_young_loss,
    multiclass_sparsemax_loss,
    sparsemax_loss,
)
from jaxopt_lite.losses.focal import poly_loss_cross_entropy, sigmoid_focal_loss, softmax_focal_loss
from jaxopt_lite.losses.language import linear_log_probs, linear_softmax_cross_entropy
from jaxopt_lite.losses.margin import (
    hinge_loss,
    multiclass_hinge_loss,
    multiclass_perceptron_loss,
    perceptron_loss,
    squared_hinge_loss,
)
from jaxopt_lite.losses.policy import (
    clipped_surrogate_loss,
    group_advantages,
    grpo_loss,
    k3_kl,
    policy_entropy,
    value_clip_loss,
)
from jaxopt_lite.losses.preference import (
    bradley_terry_loss,
    cpo_loss,
    dpo_loss,
    ipo_loss,
    kto_loss,
    orpo_loss,
    simpo_loss,
)
from jaxopt_lite.losses.ranking import list_mle, pairwise_logistic_loss, ranking_softmax_loss
from jaxopt_lite.losses.regression import (
    absolute_error,
    cosine_distance,
    cosine_similarity,
    gaussian_nll,
    huber_loss,
    l2_loss,
    log_cosh,
    poisson_nll,
    quantile_loss,
    squared_error,
)
from jaxopt_lite.losses.segmentation import (
    binary_dice_loss,
    dice_loss,
    multiclass_generalized_dice_loss,
    tversky_loss,
)
from jaxopt_lite.losses.sequence import ctc_loss, ctc_loss_with_forward_probs

__all__ = [
    "absolute_error",
    "binary_dice_loss",
    "bradley_terry_loss",
    "clipped_surrogate_loss",
    "cosine_distance",
    "cosine_similarity",
    "cpo_loss",
    "cross_entropy",
    "ctc_loss",
    "ctc_loss_with_forward_probs",
    "dice_loss",
    "distillation_loss",
    "dpo_loss",
    "gaussian_nll",
    "generalized_kl_divergence",
    "group_advantages",
    "grpo_loss",
    "hinge_loss",
    "huber_loss",
    "info_nce",
    "ipo_loss",
    "js_divergence",
    "k3_kl",
    "kl_divergence",
    "kl_divergence_with_log_targets",
    "kto_loss",
    "l2_loss",
    "linear_distillation_loss",
    "linear_log_probs",
    "linear_softmax_cross_entropy",
    "list_mle",
    "log_cosh",
    "make_fenchel_young_loss",
    "multiclass_generalized_dice_loss",
    "multiclass_hinge_loss",
    "multiclass_perceptron_loss",
    "multiclass_sparsemax_loss",
    "ntxent",
    "orpo_loss",
    "pairwise_logistic_loss",
    "perceptron_loss",
    "poisson_nll",
    "policy_entropy",
    "poly_loss_cross_entropy",
    "quantile_loss",
    "ranking_softmax_loss",
    "safe_softmax_cross_entropy",
    "siglip_loss",
    "sigmoid_binary_cross_entropy",
    "sigmoid_focal_loss",
    "simpo_loss",
    "smooth_labels",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
    "softmax_focal_loss",
    "sparsemax_loss",
    "squared_error",
    "squared_hinge_loss",
    "triplet_margin_loss",
    "tversky_loss",
    "value_clip_loss",
]
