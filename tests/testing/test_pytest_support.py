"""`parametrize_with_laws` makes one test per item and law."""

import optax
import pytest

from jaxopt_lite.testing import LossCase, TransformationCase, parametrize_with_laws
from jaxopt_lite.testing.pytest_support import as_case
from tests.testing.right import descend, stateless
from tests.testing.right_losses import squares

CASES = [
    TransformationCase(stateless(descend), claims={"linear", "elementwise"}, name="sgd"),
    LossCase(squares, claims={"convex"}),
]


@parametrize_with_laws(CASES)
def test_laws(item, law):
    law(item)


def marks(items):
    return {p.id: p.values for p in parametrize_with_laws(items).args[1]}


def test_ids_are_readable_and_laws_fail_skip_and_xfail():
    wrong = TransformationCase(stateless(lambda g, p: g), name="uphill")
    item, law = marks([wrong])["uphill-descends"]
    with pytest.raises(AssertionError, match="the loss does not fall"):
        law(item)
    with pytest.raises(pytest.skip.Exception, match="needs the claim odd"):
        marks([wrong])["uphill-odd"][1](item)
    known = TransformationCase(stateless(lambda g, p: g), name="known", expected_failures={"descends": "why"})
    with pytest.raises(pytest.xfail.Exception, match="why"):
        marks([known])["known-descends"][1](item)


def test_the_kind_of_an_item_is_found():
    assert as_case(optax.adam).kind == as_case(optax.sgd(0.1)).kind == "transformation"
    assert as_case(optax.huber_loss).kind == "loss"
