"""Laws about ``where``, ``weights`` and ``reduction``."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxopt_lite.testing.compare import expect, expect_close, expect_equal, expect_finite, plain
from jaxopt_lite.testing.loss_case import LossCase as Case
from jaxopt_lite.testing.loss_case import is_float


def reductions_agree(case: Case) -> None:
    """[arguments: reduction] "mean" and "sum" are those of "none"; an unknown name is a ValueError."""
    case.needs_arguments("reduction")
    for name, reduce in (("mean", np.mean), ("sum", np.sum)):
        got = case.value(*case.inputs, reduction=name)
        expect_close(got, reduce(plain(case.result)), f"reduction={name!r}", rtol=1e-5)
    try:
        case.value(*case.inputs, reduction="avarage")
    except ValueError:
        return
    expect(False, "a misspelt reduction passes", input="reduction='avarage'", expected="ValueError")


def masked_equals_subset(case: Case) -> None:
    """[arguments: where, reduction] Masked examples give 0; the mean over the rest is the mean without them."""
    case.needs_arguments("where", "reduction")
    mask, keep = _mask(case)
    got = plain(case.value(*case.inputs, where=mask))
    expect_equal(got[~keep], np.zeros(got[~keep].shape), "the loss of masked examples")
    subset = case.pick(case.inputs, keep)
    expect_close(got[keep], case.value(*subset), "the loss of the others", rtol=1e-5)
    means = [case.value(*x, reduction="mean", **o) for x, o in ((case.inputs, {"where": mask}), (subset, {}))]
    expect_close(means[0], means[1], "the mean over the mask", rtol=1e-5)


def nan_under_the_mask(case: Case) -> None:
    """[arguments: where, reduction] NaN and inf in masked examples reach neither the loss nor the gradient."""
    case.needs_arguments("where", "reduction")
    mask, keep = _mask(case)
    for bad in (np.nan, np.inf):
        inputs = _spoil(case, keep, bad)
        for how in ("none", "mean"):
            got, want = (case.value(*x, where=mask, reduction=how) for x in (inputs, case.inputs))
            expect_close(got, want, "the loss", input=f"{bad} under the mask")
        slopes = case.gradient(inputs, where=mask, reduction="mean")
        expect_finite(slopes, "the gradient", input=f"{bad} under the mask")


def all_masked_is_zero(case: Case) -> None:
    """[arguments: where, reduction] With everything masked, mean and gradient are 0, not 0/0: empty batches happen."""
    case.needs_arguments("where", "reduction")
    options = {"where": jnp.zeros(case.per_example().shape, bool), "reduction": "mean"}
    expect_equal(case.value(*case.inputs, **options), 0.0, "the loss", input="all masked")
    slope = case.gradient(case.inputs, **options)[0]
    expect_equal(slope, jnp.zeros_like(slope), "the gradient", input="all masked")


def weights_multiply(case: Case) -> None:
    """[arguments: weights, reduction] "none" is w·ℓ and "mean" Σ w·ℓ / Σ w: a weight of 2 is an example seen twice."""
    case.needs_arguments("weights", "reduction")
    loss = plain(case.per_example())
    zero = (
        0.25 if "couples_examples" in case.claims else 0.0
    )  # a weight of 0 hides an example from the others
    w = np.resize(np.array([1.0, 2.0, zero, 0.5]), loss.shape)
    got = case.value(*case.inputs, weights=jnp.asarray(w, jnp.float32))
    expect_close(got, w * loss, "the weighed loss")
    mean = case.value(*case.inputs, weights=jnp.asarray(w, jnp.float32), reduction="mean")
    expect_close(mean, (w * loss).sum() / w.sum(), "the weighed mean")


def _mask(case: Case) -> tuple[Any, np.ndarray]:
    """A mask of the result's shape that hides two examples, and which examples it keeps."""
    shape = case.per_example().shape
    keep = ~np.isin(np.arange(shape[0]), (1, 3))
    return jnp.asarray(np.broadcast_to(keep.reshape(-1, *[1] * (len(shape) - 1)), shape)), keep


def _spoil(case: Case, keep: np.ndarray, bad: float) -> list[Any]:
    """The inputs with ``bad`` in the floating rows of the hidden examples."""
    rows = lambda x: keep.reshape(-1, *[1] * (x.ndim - 1))
    batch = keep.shape[0]
    spoils = lambda x: is_float(x) and x.ndim and x.shape[0] == batch
    spoil = lambda x: jnp.asarray(np.where(rows(x), np.asarray(x), np.float32(bad)))
    return [spoil(x) if spoils(x) else x for x in case.inputs]
