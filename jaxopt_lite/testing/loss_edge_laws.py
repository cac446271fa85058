"""Laws about a loss at the edges of its domain: where float32 and naive formulas break."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_lite.testing.compare import expect, expect_close, expect_equal, expect_finite, plain, show
from jaxopt_lite.testing.loss_case import LossCase as Case
from jaxopt_lite.testing.loss_case import is_float
from jaxopt_lite.testing.report import NotRun

LARGEST = float(np.finfo(np.float32).max)


def hostile_predictions(case: Case) -> None:
    """±1e4, 0 and 1e-30 give the float64 value, infinite only where that is, and a gradient without NaN."""
    inputs = case.hostile()
    got, want = plain(case.value(*inputs)), case.reference(inputs)
    expect(not np.isnan(got).any(), "the loss is NaN", input=show(inputs[0]), got=got, expected=want)
    fits = np.abs(want) < LARGEST
    scale = 1e-6 * float(np.abs(plain(inputs[0])).max())
    expect_close(got[fits], want[fits], "the loss", rtol=1e-4, atol=scale, input=show(inputs[0]))
    slope = plain(case.gradient(inputs)[0])
    expect(
        not np.isnan(slope).any(), "the gradient is NaN", input=show(inputs[0]), got=slope, expected="numbers"
    )


def small_predictions_are_accurate(case: Case) -> None:
    """Predictions of 1e-4 against targets 0 keep their digits: cosh(1e-4) − 1 cancels to 0 in float32."""
    first, second, *rest = case.same_shaped()
    if case.result.shape != first.shape or case.domain != "real":
        raise NotRun("needs a loss of single entries over real predictions")
    inputs = (jnp.full_like(first, 1e-4), jnp.zeros_like(second), *rest)
    got, want = plain(case.value(*inputs)), case.reference(inputs)
    close = np.abs(got - want) <= 1e-3 * np.abs(want)
    evidence = {"input": "predictions 1e-4, targets 0", "got": got.flat[0], "expected": want.flat[0]}
    expect(close.all(), "digits are lost", **evidence)


def differentiable_at_the_target(case: Case) -> None:
    """Value and gradient are finite where predictions equal targets: the derivative of √ there is not."""
    inputs = case.at_target()
    expect_finite(case.value(*inputs), "the loss", input="predictions = targets")
    expect_finite(case.gradient(inputs), "the gradient", input="predictions = targets")


def zero_predictions(case: Case) -> None:
    """An all-zero first argument has a finite value and gradient: a zero vector has no direction, yet a cosine."""
    inputs = (case.in_domain(jnp.zeros_like(case.inputs[0])), *case.inputs[1:])
    expect_finite(case.value(*inputs), "the loss", input="predictions all 0")
    expect_finite(case.gradient(inputs), "the gradient", input="predictions all 0")


def one_hot_targets(case: Case) -> None:
    """Targets that are exactly 0 and 1 give finite values and gradients: 0·log 0 is 0."""
    inputs = case.one_hot()
    expect_finite(case.value(*inputs), "the loss", input="one-hot targets")
    expect_finite(case.gradient(inputs), "the gradient", input="one-hot targets")
    along = case.compiled(lambda x: jax.jvp(lambda x: case.total(x, *inputs[1:]), (x,), (x,))[1])
    expect_finite(along(inputs[0]), "the forward derivative", input="one-hot targets")


def absent_class(case: Case) -> None:
    """[claim: logits] A logit of −∞ is a class that is not there, in value and gradient: masks are made so."""
    case.needs("logits")
    first, second, *rest = case.inputs
    ids = not is_float(second)
    wide = jnp.concatenate([first, jnp.full_like(first[..., :1], -jnp.inf)], -1)
    targets = second if ids else jnp.concatenate([second, jnp.zeros_like(second[..., :1])], -1)
    expect_close(case.value(wide, targets, *rest), case.result, "the loss", input="one more logit of −∞")
    slope = case.gradient([wide, targets, *rest])[0]
    expect_finite(slope, "the gradient", input="one more logit of −∞")
    expect_equal(slope[..., -1], 0 * first[..., 0], "its gradient", input="one more logit of −∞")


def labels_out_of_range(case: Case) -> None:
    """A label of −1 or C raises or gives NaN, value and gradient: else it silently trains another class."""
    first, labels, *rest = case.class_ids()
    for bad in (-1, first.shape[-1]):
        inputs = (first, labels.at[(0,) * labels.ndim].set(bad), *rest)
        try:
            value, slope = plain(case.value(*inputs)), plain(case.gradient(inputs)[0])
        except Exception:
            continue
        for got, what in ((value.reshape(-1)[:1], "loss"), (slope[0], "gradient")):
            evidence = {"input": f"label {bad}", "got": got, "expected": "NaN"}
            expect(np.isnan(got).any(), f"the {what} of a label out of range is a number", **evidence)


def shape_mismatch_raises(case: Case) -> None:
    """Targets [1, C] or [B, 1] against [B, C] are an error: broadcast, they train on pairs never meant."""
    if len(case.inputs) < 2 or case.inputs[1].ndim == 0:
        raise NotRun("needs two arrays")
    first, second, *rest = case.inputs
    for wrong in (second[:1], second[..., :1] if second.ndim > 1 else second[:, None]):
        try:
            got = case.value(first, wrong, *rest)
        except Exception:
            continue
        evidence = {"input": f"{first.shape} with {wrong.shape}", "got": got.shape, "expected": "an error"}
        expect(False, "shapes are broadcast", **evidence)
