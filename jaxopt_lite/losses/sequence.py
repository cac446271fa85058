"""Losses of label sequences without an alignment: connectionist temporal classification.

[1] Graves et al., "Connectionist Temporal Classification: Labelling Unsegmented Sequence Data with Recurrent
    Neural Networks", ICML 2006.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from jaxopt_lite import checks
from jaxopt_lite.axes import chosen_by_compiler, leading
from jaxopt_lite.losses.classes import log_probabilities
from jaxopt_lite.losses.reduce import counted, entries, reduced


@jax.custom_jvp
def sigmoid(x: jax.Array) -> jax.Array:
    """σ(x), with the derivative σ(x)·σ(−x): σ(x)·(1 − σ(x)) has no digits left where σ(x) is nearly 1.

    >>> bool(jax.grad(sigmoid)(30.0) > 0)
    True
    """
    return jax.nn.sigmoid(x)


sigmoid.defjvps(lambda dx, y, x: dx * y * sigmoid(-x))


@jax.custom_jvp
def log_add(a: jax.Array, b: jax.Array) -> jax.Array:
    """log(eᵃ + eᵇ); of two −∞ it is −∞ with the derivative 0, where the plain formula has NaN.

    >>> jax.grad(log_add)(-jnp.inf, -jnp.inf).item()
    0.0
    """
    return jnp.logaddexp(a, b)


@log_add.defjvp
def _log_add_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (a, b), (da, db) = primals, tangents
    nothing = (a == -jnp.inf) & (b == -jnp.inf)
    gap = jnp.where(nothing, 0, a - b)
    share_a, share_b = (jnp.where(nothing, 0, sigmoid(g)) for g in (gap, -gap))
    return log_add(a, b), share_a * da + share_b * db


def _checked(
    name: str, logits: Any, logit_paddings: Any, labels: Any, label_paddings: Any, blank_id: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Check everything; frames padded? ``[B, T]``, labels ``[B, N]`` (0 where padded), labels padded? ``[B, N]``."""
    if jnp.ndim(logits) != 3:
        raise ValueError(f"{name}: logits has shape {jnp.shape(logits)}, expected [B, T, K]")
    if jnp.ndim(labels) != 2:
        raise ValueError(f"{name}: labels has shape {jnp.shape(labels)}, expected [B, N]")
    batch, frames, classes = jnp.shape(logits)
    checks.floating(name, logits=logits)
    checks.integer(name, labels=labels)
    checks.shape(name, "logit_paddings", logit_paddings, (batch, frames))
    checks.shape(name, "labels", labels, (batch, jnp.shape(labels)[1]))
    checks.shape(name, "label_paddings", label_paddings, jnp.shape(labels))
    checks.between(name, "blank_id", blank_id, 0, classes - 1)
    padded = jnp.asarray(label_paddings) != 0
    return jnp.asarray(logit_paddings) != 0, jnp.where(padded, 0, jnp.asarray(labels)), padded


def _forward(
    log_blank: jax.Array, log_label: jax.Array, padded: jax.Array, repeats: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The forward recursion over frames: final log α_blank, and log α_blank, log α_label of every frame.

    With p the probabilities of frame t, and n labels emitted::

        α_blank(t, n) = p(blank)·(α_blank(t−1, n) + α_label(t−1, n))
        α_label(t, n) = p(yₙ)·(α_label(t−1, n) + α_blank(t−1, n−1) + [yₙ ≠ yₙ₋₁]·α_label(t−1, n−1))
    """

    def frame(alphas: Any, inputs: Any) -> Any:
        (blank, label), (log_p_blank, log_p_label, pad) = alphas, inputs
        ended = log_add(blank[:, 1:], label)
        before = jnp.concatenate([blank[:, :1], jnp.where(repeats, blank[:, 1:], ended)[:, :-1]], axis=1)
        new_blank = log_p_blank + jnp.concatenate([blank[:, :1], ended], axis=1)
        new_label = log_p_label + log_add(label, before[:, : label.shape[1]])
        pad = pad[:, None]
        alphas = jnp.where(pad, blank, new_blank), jnp.where(pad, label, new_label)
        return alphas, alphas

    _, batch, length = log_label.shape
    none = jnp.full((batch, length), -jnp.inf, log_label.dtype)
    start = jnp.concatenate([jnp.zeros((batch, 1), none.dtype), none], axis=1), none
    (blank, label), (blanks, labels) = lax.scan(frame, start, (log_blank, log_label, padded.T))
    final = jnp.concatenate([blank[:, :1], log_add(blank[:, 1:], label)], axis=1)
    return final, blanks.at[-1:].set(final[None]), labels


def _ctc(
    name: str,
    logits: Any,
    logit_paddings: Any,
    labels: Any,
    label_paddings: Any,
    blank_id: int,
    where: Any,
    weights: Any,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Losses ``[B]``, and both log α."""
    padded, y, no_label = _checked(name, logits, logit_paddings, labels, label_paddings, blank_id)
    (z,) = entries(name, where, weights, axis=(1, 2), logits=logits)
    outside = (y < 0) | (y >= z.shape[2])

    def over_paths(z, padded, y, no_label, outside):
        log_p = log_probabilities(jnp.where(padded[..., None], 0, z))
        log_label = jnp.take_along_axis(log_p, jnp.where(outside, 0, y)[:, None, :], axis=2)
        log_blank = log_p[..., blank_id, None]
        repeats = jnp.pad(y[:, 1:] == y[:, :-1], ((0, 0), (0, min(1, y.shape[1]))))
        final, blanks, emits = _forward(log_blank.swapaxes(0, 1), log_label.swapaxes(0, 1), padded, repeats)
        length = jnp.sum(~no_label, axis=1, keepdims=True)
        return -jnp.take_along_axis(final, length, axis=1)[:, 0], blanks, emits

    rows = leading(z, 1)
    times = PartitionSpec(None, *rows)
    losses, blanks, emits = chosen_by_compiler(
        over_paths, (rows, times, times), z, padded, y, no_label, outside
    )
    # Rounding may carry a probability past 1; the gradient is kept, so a plain maximum will not do.
    losses = losses + lax.stop_gradient(jnp.maximum(-losses, 0))
    wrong, keep = jnp.any(outside, axis=1), counted(where, weights)
    wrong = wrong if keep is None else wrong & keep
    return losses * jnp.where(wrong, jnp.nan, 1).astype(losses.dtype), blanks, emits


def ctc_loss_with_forward_probs(
    logits: jax.typing.ArrayLike,
    logit_paddings: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    label_paddings: jax.typing.ArrayLike,
    *,
    blank_id: int = 0,
    log_epsilon: jax.typing.ArrayLike = -1e5,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """:func:`ctc_loss` and the forward probabilities that it is made of.

    Returns ``(loss, log α_blank [T, B, N + 1], log α_label [T, B, N])``: entry (t, b, n) of the first is the
    log-probability that the frames 0 … t have emitted n labels and end in a blank, of the second that they end in
    label n (counted from 0). As in optax, the last frame of log α_blank also takes in the paths that end in a
    label. ``log_epsilon`` stands for log 0 in these two arrays; the loss is exact and knows no epsilon.
    """
    name = "ctc_loss_with_forward_probs"
    losses, *alphas = _ctc(name, logits, logit_paddings, labels, label_paddings, blank_id, where, weights)
    blanks, emits = (jnp.where(a == -jnp.inf, jnp.asarray(log_epsilon, a.dtype), a) for a in alphas)
    return reduced(name, losses, where, weights, reduction), blanks, emits


def ctc_loss(
    logits: jax.typing.ArrayLike,
    logit_paddings: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    label_paddings: jax.typing.ArrayLike,
    *,
    blank_id: int = 0,
    log_epsilon: jax.typing.ArrayLike = -1e5,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduction: str = "none",
) -> jax.Array:
    """Connectionist temporal classification: a label sequence against unaligned frames [1].

    ::

        ℓ = −log Σ_π Π_t softmax(z_t)[π_t]        over the paths π that read y once repetitions, then blanks, go

    ``logits`` z are ``[B, T, K]``, ``labels`` y integers ``[B, N]`` in 0 … K − 1 without ``blank_id``, ℓ ``[B]``.
    ``logit_paddings [B, T]`` and ``label_paddings [B, N]`` are 0 for real and 1 for padded entries; labels are
    padded on the right, and nothing that is padded is looked at. In nats, never negative.

    A sequence that no path can read (longer than its frames allow, or through logits of −∞) costs +∞ with
    gradient 0; optax returns about ``-log_epsilon`` there, an argument that only
    :func:`ctc_loss_with_forward_probs` heeds. An empty label sequence costs −Σ log p(blank), and with no frames
    either 0. A real label that is no class gives NaN for its row. Wrong shapes raise ``ValueError``.

    >>> z = jnp.log(jnp.array([[[0.6, 0.4], [0.5, 0.5]]]))      # two frames, classes blank and 1
    >>> loss = ctc_loss(z, jnp.zeros((1, 2)), jnp.array([[1]]), jnp.zeros((1, 1)))
    >>> print(f"{jnp.exp(-loss[0]):.4f}")       # 0.6·0.5 + 0.4·0.5 + 0.4·0.5: blank-1, 1-blank, 1-1
    0.7000
    """
    name = "ctc_loss"
    losses, _, _ = _ctc(name, logits, logit_paddings, labels, label_paddings, blank_id, where, weights)
    return reduced(name, losses, where, weights, reduction)
