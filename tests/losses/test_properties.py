"""Laws of every exported loss, written once: one row of a table per loss, one compilation per row.

Inputs have six examples along their first axis; hypothesis draws a seed and a scale. A new export without a row
fails ``test_every_loss_has_a_row``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_lite import losses

N, C = 6, 4
STEP = 1e-6


class Row(NamedTuple):
    """``make(rng, scale)`` gives inputs; ``claims`` are words of the laws below; ``target`` gives inputs of loss 0.

    ``coupled``: examples see one another, so only masks and permutations are compared.
    """

    make: Callable[..., tuple[np.ndarray, ...]]
    claims: str = ""
    options: dict[str, Any] | None = None
    target: Callable[..., np.ndarray] | None = None
    coupled: bool = False
    loss: Callable[..., Any] | None = None


def normal(rng, scale, *shape):
    return rng.normal(size=(N, *shape)) * scale


def distributions(rng, *shape):
    return rng.dirichlet(np.ones(C), (N, *shape))


def two(rng, scale):
    return normal(rng, scale), normal(rng, scale)


def four(rng, scale):
    return tuple(normal(rng, scale) for _ in range(4))


def rows(rng, scale):
    return normal(rng, scale, C), distributions(rng)


def ids(rng, scale):
    return normal(rng, scale, C), rng.integers(0, C, N)


def chances(rng, scale):
    return normal(rng, scale), rng.random(N)


def signs(rng, scale):
    return normal(rng, scale), rng.choice([-1.0, 1.0], N)


def vectors(rng, scale):
    return normal(rng, scale, C), normal(rng, scale, C)


def log_pairs(rng, scale):
    return np.log(distributions(rng)), np.log(distributions(rng))


def log_and_plain(rng, scale):
    return np.log(distributions(rng)), distributions(rng)


def graded(rng, scale):
    return normal(rng, scale, C), rng.permuted(np.tile(np.arange(C) / 1.0, (N, 1)), axis=1)


def images(rng, scale):
    return normal(rng, scale, 5, C), np.eye(C)[rng.integers(0, C, (N, 5))]


def one_mask(rng, scale):
    return normal(rng, scale, 5), rng.integers(0, 2, (N, 5)).astype(np.float64)


def ctc(rng, scale):
    frames, labels = 5, rng.integers(1, C, (N, 2))
    return normal(rng, scale, frames, C), np.zeros((N, frames)), labels, (np.arange(2) >= 1) * np.ones((N, 1))


def nats(rng, scale):
    return -np.abs(normal(rng, scale)) - 1e-2, -np.abs(normal(rng, scale)) - 1e-2


def triplets(rng, scale):
    return tuple(normal(rng, scale, C) for _ in range(3))


def same(p, t, *rest):
    return t


SQUARES = "nonnegative convex"
TABLE = {
    "absolute_error": Row(two, SQUARES, target=same),
    "bradley_terry_loss": Row(two, SQUARES),
    "bradley_terry_loss, centred": Row(
        two, SQUARES, {"margin": 0.5, "centering": 0.25}, loss=losses.bradley_terry_loss
    ),
    "clipped_surrogate_loss": Row(lambda rng, s: (*nats(rng, 0.3), normal(rng, s))),
    "cosine_distance": Row(vectors, "nonnegative", target=same),
    "cosine_similarity": Row(vectors),
    "cpo_loss": Row(nats, "convex"),
    "cross_entropy": Row(lambda rng, s: (0.05 + 0.8 * distributions(rng), distributions(rng)), SQUARES),
    "ctc_loss": Row(ctc, "nonnegative shift"),
    "dice_loss": Row(images, "nonnegative shift"),
    "binary_dice_loss": Row(one_mask, "nonnegative"),
    "distillation_loss": Row(
        lambda rng, s: (normal(rng, s, C), normal(rng, s, C)), "nonnegative shift classes", target=same
    ),
    "dpo_loss": Row(four, SQUARES),
    "dpo_loss, smoothed": Row(four, SQUARES, {"label_smoothing": 0.25}, loss=losses.dpo_loss),
    "dpo_loss, robust": Row(
        four, "convex", {"label_smoothing": 0.25, "variant": "robust"}, loss=losses.dpo_loss
    ),
    "dpo_loss, hinge": Row(four, SQUARES, {"variant": "hinge"}, loss=losses.dpo_loss),
    "gaussian_nll": Row(lambda rng, s: (*two(rng, s), 0.1 + rng.random(N)), "convex"),
    "generalized_kl_divergence": Row(
        log_and_plain, "nonnegative classes convex", target=lambda q, t: np.log(t)
    ),
    "hinge_loss": Row(signs, SQUARES),
    "huber_loss": Row(two, SQUARES, target=same),
    "info_nce": Row(vectors, "nonnegative", coupled=True),
    "ipo_loss": Row(four, SQUARES),
    "js_divergence": Row(log_pairs, "nonnegative classes", target=same),
    "k3_kl": Row(nats, SQUARES, target=same),
    "kl_divergence": Row(log_and_plain, "nonnegative classes convex"),
    "kl_divergence_with_log_targets": Row(log_pairs, "nonnegative classes convex"),
    "kto_loss": Row(lambda rng, s: (*nats(rng, s), rng.random(N) < 0.5), "nonnegative", {"kl": 0.3}),
    "l2_loss": Row(two, SQUARES, target=same),
    "list_mle": Row(graded, "nonnegative convex shift classes"),
    "log_cosh": Row(two, SQUARES, target=same),
    "make_fenchel_young_loss": Row(
        rows, "nonnegative convex shift classes", loss=losses.make_fenchel_young_loss(jax.nn.logsumexp)
    ),
    "multiclass_generalized_dice_loss": Row(images, "nonnegative shift", coupled=True),
    "multiclass_hinge_loss": Row(ids, "nonnegative convex shift classes"),
    "multiclass_perceptron_loss": Row(ids, "nonnegative convex shift classes"),
    "multiclass_sparsemax_loss": Row(ids, "nonnegative convex shift classes"),
    "ntxent": Row(lambda rng, s: (normal(rng, s, C), rng.integers(0, 3, N)), "nonnegative", coupled=True),
    "orpo_loss": Row(nats),
    "pairwise_logistic_loss": Row(graded, "nonnegative convex shift classes"),
    "perceptron_loss": Row(signs, SQUARES),
    "poisson_nll": Row(lambda rng, s: (normal(rng, 1.0), rng.integers(0, 9, N).astype(float)), "convex"),
    "policy_entropy": Row(lambda rng, s: (normal(rng, s, C),), "nonnegative shift classes"),
    "poly_loss_cross_entropy": Row(rows, "nonnegative shift classes"),
    "quantile_loss": Row(two, SQUARES, {"quantile": 0.9}, target=same),
    "ranking_softmax_loss": Row(graded, "nonnegative convex shift classes"),
    "safe_softmax_cross_entropy": Row(rows, "nonnegative convex shift classes"),
    "sigmoid_binary_cross_entropy": Row(chances, SQUARES),
    "sigmoid_focal_loss": Row(chances, "nonnegative"),
    "siglip_loss": Row(vectors, "nonnegative", {"temperature": 10.0, "bias": -10.0}, coupled=True),
    "simpo_loss": Row(nats, SQUARES),
    "softmax_cross_entropy": Row(rows, "nonnegative convex shift classes"),
    "softmax_cross_entropy_with_integer_labels": Row(
        ids, "nonnegative convex shift classes", {"label_smoothing": 0.1}
    ),
    "softmax_focal_loss": Row(ids, "nonnegative shift classes"),
    "sparsemax_loss": Row(lambda rng, s: (normal(rng, s), rng.integers(0, 2, N)), SQUARES),
    "squared_error": Row(two, SQUARES, target=same),
    "squared_hinge_loss": Row(signs, SQUARES),
    "triplet_margin_loss": Row(triplets, "nonnegative"),
    "tversky_loss": Row(images, "nonnegative shift"),
    "value_clip_loss": Row(lambda rng, s: (normal(rng, s), normal(rng, s), normal(rng, s)), "nonnegative"),
}
# Not of the form loss(per-example arrays, where=, weights=, reduction=): held to laws of their own in their tests.
OTHERS = {
    "ctc_loss_with_forward_probs",
    "group_advantages",
    "grpo_loss",
    "linear_distillation_loss",
    "linear_log_probs",
    "linear_softmax_cross_entropy",
    "smooth_labels",
}


def test_every_loss_has_a_row():
    assert set(losses.__all__) - OTHERS <= set(TABLE)
    assert not OTHERS & set(TABLE)


def loss_of(name):
    row = TABLE[name]
    loss = row.loss or getattr(losses, name)
    return lambda *arrays, **more: loss(*arrays, **(row.options or {}), **more)


def drawn(name, seed, scale):
    """Everything random about one run, as arrays of fixed shape."""
    rng = np.random.default_rng(seed)
    row = TABLE[name]
    arrays = row.make(rng, scale)
    order = rng.permutation(N)
    repeats = np.concatenate([np.arange(2), rng.integers(0, N, 6)])
    return {
        "arrays": arrays,
        "direction": rng.normal(size=arrays[0].shape) * max(scale, 1e-3),
        "other": row.make(rng, scale)[0],
        "kept": np.sort(order[:4]),
        "order": order,
        "repeats": repeats,
        "counts": np.bincount(repeats, minlength=N).astype(np.float64),
        "classes": rng.permutation(C),
        "target": arrays[0] if row.target is None else row.target(*arrays),
    }


def measured(name):
    """One jitted function of what ``drawn`` gives that evaluates the loss in every way the laws compare."""
    loss, row = loss_of(name), TABLE[name]

    def classes_moved(a, classes):
        if jnp.issubdtype(a.dtype, jnp.integer) and a.ndim == 1:
            return jnp.argsort(classes)[a]
        return a[..., classes] if a.ndim > 1 and a.shape[-1] == C else a

    def poison(a, keep):
        if not jnp.issubdtype(a.dtype, jnp.floating):
            return a
        return jnp.where(keep.reshape(-1, *[1] * (a.ndim - 1)), a, jnp.nan)

    def run(arrays, direction, other, kept, order, repeats, counts, classes, target):
        first, *rest = arrays
        keep = jnp.zeros(N, bool).at[kept].set(True)
        total = lambda x: loss(x, *rest, reduction="sum")
        at = lambda x: loss(x, *rest)
        hidden = lambda x: loss(x, *(poison(a, keep) for a in rest), where=keep, reduction="sum")
        out = {
            "none": at(first),
            "sum": total(first),
            "mean": loss(*arrays, reduction="mean"),
            "gradient": jax.grad(total)(first),
            "forward": jax.jvp(total, (first,), (direction,))[1],
            "difference": (total(first + STEP * direction) - total(first - STEP * direction)) / (2 * STEP),
            "permuted": loss(*(a[order] for a in arrays)),
            "masked": loss(*arrays, where=keep),
            "masked mean": loss(*arrays, where=keep, reduction="mean"),
            "subset": loss(*(a[kept] for a in arrays)),
            "subset mean": loss(*(a[kept] for a in arrays), reduction="mean"),
            "poisoned": jax.value_and_grad(hidden)(poison(first, keep)),
            "masked gradient": jax.grad(lambda x: loss(x, *rest, where=keep, reduction="sum"))(first),
            "at target": (loss(target, *rest), jax.grad(total)(target)),
        }
        if not row.coupled:
            out["alone"] = jax.vmap(lambda *example: loss(*(a[None] for a in example))[0])(*arrays)
            out["repeated"] = loss(*(a[repeats] for a in arrays), reduction="mean")
            out["weighted"] = loss(*arrays, weights=counts, reduction="mean")
            out["weighted none"] = loss(*arrays, weights=counts)
        if "convex" in row.claims:
            out["chord"] = at(other), at((first + other) / 2)
        if "shift" in row.claims:
            out["shifted"] = at(first + 3.0)
        if "classes" in row.claims:
            out["moved"] = loss(*(classes_moved(a, classes) for a in arrays))
        return out

    return jax.jit(run)


def close(a, b, what, size=1.0):
    np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9 * np.max(size), err_msg=what)


def laws(name, d, out):
    row, none = TABLE[name], out["none"]
    size = 1 + np.abs(none).max() + np.abs(out["gradient"]).max()
    inner = np.sum(out["gradient"] * d["direction"])
    steep = np.sum(np.abs(out["gradient"] * d["direction"])) + size
    assert none.shape == (N,)
    close(out["sum"], none.sum(), "sum is the sum", size)
    close(out["forward"], inner, "forward mode is reverse mode", steep)
    np.testing.assert_allclose(
        out["difference"], inner, rtol=1e-5, atol=1e-6 * steep, err_msg="finite differences"
    )
    close(out["permuted"], none[d["order"]], "examples in another order", size)
    close(out["masked"][d["kept"]], out["subset"], "a mask is a subset", size)
    close(out["masked mean"], out["subset mean"], "the mean of a mask is that of the subset", size)
    gone = np.setdiff1d(np.arange(N), d["kept"])
    np.testing.assert_array_equal(out["masked"][gone], 0, err_msg="masked entries are 0")
    value, slope = out["poisoned"]
    close(value, out["masked"].sum(), "masked NaN leaves the value alone", size)
    close(slope, out["masked gradient"], "masked NaN leaves the gradient alone", size)
    np.testing.assert_array_equal(slope[gone], 0, err_msg="masked gradients are 0")
    if not row.coupled:
        close(out["mean"], none.mean(), "mean is the mean", size)
        close(out["alone"], none, "vmap is the batch", size)
        close(out["weighted"], out["repeated"], "integer weights are repetitions", size)
        close(out["weighted none"], d["counts"] * none, "weights multiply", size)
    if "nonnegative" in row.claims:
        assert none.min() >= -1e-12 * size, f"negative: {none.min()}"
    if row.target is not None:
        at_target, flat = out["at target"]
        close(at_target, 0, "0 at the target", size)
        np.testing.assert_allclose(flat, 0, atol=1e-9 * size, err_msg="stationary at the target")
    if "convex" in row.claims:
        end, middle = out["chord"]
        assert np.all(middle <= (none + end) / 2 + 1e-9 * (size + np.abs(end).max())), (
            "convex along a segment"
        )
    if "shift" in row.claims:
        close(out["shifted"], none, "a constant added to all logits changes nothing", size)
    if "classes" in row.claims:
        close(out["moved"], none, "classes in another order", size)


@pytest.mark.parametrize("name", sorted(TABLE))
def test_laws(name):
    run = measured(name)

    @hypothesis.given(st.integers(0, 2**32 - 1), st.floats(-1.5, 1.5))
    def check(seed, magnitude):
        with jax.enable_x64(True):
            d = drawn(name, seed, 10.0**magnitude)
            laws(name, d, jax.device_get(run(**d)))

    check()
