"""Laws about what does not change a loss, and about its shape as a function."""

import jax.numpy as jnp
import numpy as np

from jaxopt_lite.testing.compare import expect, expect_close, plain, show
from jaxopt_lite.testing.loss_case import LossCase as Case
from jaxopt_lite.testing.report import NotRun


def permutation_equivariant(case: Case) -> None:
    """Examples in another order give the same values in that order; a scalar does not change."""
    order = np.random.default_rng(3).permutation(case.inputs[0].shape[0] if case.inputs[0].ndim else 1)
    got = case.value(*case.pick(case.inputs, order))
    same = got.ndim and got.shape[0] == len(order)
    expect_close(got, case.result[order] if same else case.result, "the loss of permuted examples", rtol=1e-5)


def examples_are_independent(case: Case) -> None:
    """An example's loss does not depend on the others (unless the claim couples_examples is made)."""
    if "couples_examples" in case.claims:
        raise NotRun("couples examples, as claimed")
    want = case.per_example()
    first = case.pick(case.inputs, np.array([0, *reversed(range(1, case.inputs[0].shape[0] - 1))]))
    expect_close(case.value(*first)[0], want[0], "the first example's loss among fewer others", rtol=1e-6)


def shift_invariant(case: Case) -> None:
    """[claim: shift_invariant] A constant added to all logits of a row changes nothing."""
    case.needs("shift_invariant")
    for shift in (1.0, -50.0):
        got = case.value(case.inputs[0] + shift, *case.inputs[1:])
        expect_close(got, case.result, "the shifted loss", rtol=1e-4, atol=1e-5, input=f"logits + {shift}")


def non_negative(case: Case) -> None:
    """[claim: non_negative] Never below zero, at ordinary and hostile inputs."""
    case.needs("non_negative")
    for inputs in (case.inputs, case.hostile()):
        low = float(np.nanmin(plain(case.value(*inputs))))
        expect(low >= 0, "the loss is negative", input=show(inputs[0]), got=low, expected="≥ 0")


def zero_at_target(case: Case) -> None:
    """[claim: zero_at_target] Predictions equal to the targets cost nothing and pull nowhere."""
    case.needs("zero_at_target")
    best = case.at_target()
    expect_close(case.value(*best), jnp.zeros_like(case.result), "the loss", atol=1e-6)
    if "log_probabilities" not in case.claims:
        slope = case.gradient(best)[0]
        expect_close(slope, jnp.zeros_like(slope), "the gradient", atol=1e-5)


def convex(case: Case) -> None:
    """[claim: convex] The loss at the middle of two predictions is at most the mean of theirs."""
    case.needs("convex")
    rng, first = np.random.default_rng(4), plain(case.inputs[0])
    value = lambda x: case.reference((x, *case.inputs[1:]))
    for _ in range(5):
        a, b = (plain(case.in_domain(first + rng.normal(0.0, 2.0, first.shape))) for _ in range(2))
        gap = float(np.max(value((a + b) / 2) - (value(a) + value(b)) / 2))
        expect(gap <= 1e-6, "not convex", input="the middle of two predictions", got=gap, expected="≤ 0")
