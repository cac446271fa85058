"""Cases of losses guess inputs, know hostile ones, and compile once."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_lite.testing import LossCase, NotRun
from jaxopt_lite.testing.loss_case import DOMAINS
from tests.testing.right_losses import cross_entropy_ids, kl, squares


def test_inputs_are_guessed_as_values_or_as_labels():
    assert LossCase(squares).inputs[1].dtype == jnp.float32
    assert LossCase(cross_entropy_ids).inputs[1].dtype == jnp.int32
    with pytest.raises(TypeError, match="give inputs="):
        _ = LossCase(lambda a, b, c: a).inputs


@pytest.mark.parametrize("domain", DOMAINS)
def test_ordinary_and_hostile_inputs_lie_where_claimed(domain):
    claims = set() if domain == "real" else {domain}
    case = LossCase(lambda p, t: p - t, claims=claims, name="difference")
    for first in (case.inputs[0], case.hostile()[0]):
        x = np.asarray(first, np.float64)
        if domain == "probabilities":
            np.testing.assert_allclose(x.sum(-1), 1.0, rtol=1e-6)
        assert domain not in ("probabilities", "positive") or x.min() >= 0
        assert domain != "log_probabilities" or x.max() <= 0
    assert np.abs(np.asarray(case.hostile()[0])).max() > 1.0 or domain == "probabilities"


def test_values_are_compiled_once_for_each_shape_and_word():
    calls = []

    def loss(predictions, targets, reduction="none"):
        calls.append(reduction)
        return jnp.mean(predictions - targets) if reduction == "mean" else predictions - targets

    case = LossCase(loss, name="counted")
    case.inputs, case.traceable  # noqa: B018
    calls.clear()
    for _ in range(3):
        case.value(*case.inputs)
        case.value(*case.inputs, reduction="mean")
    assert calls == ["none", "mean"]


def test_what_a_law_needs_is_said():
    case = LossCase(optax.huber_loss)
    with pytest.raises(NotRun, match="integer labels"):
        case.class_ids()
    with pytest.raises(NotRun, match="needs the argument where"):
        case.needs_arguments("where")
    with pytest.raises(NotRun, match="needs the claim convex or non_negative"):
        case.needs("convex", "non_negative")
    with pytest.raises(NotRun, match="one value an example"):
        LossCase(lambda p, t: jnp.sum(p - t), name="sum").per_example()


def test_the_reference_is_the_loss_in_float64():
    case = LossCase(kl, claims={"log_probabilities"})
    got = case.reference(case.inputs)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, case.result, rtol=1e-5)
