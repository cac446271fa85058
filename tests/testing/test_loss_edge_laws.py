"""Mutants whose fault a law of `loss_edge_laws` names: each breaks that law, and only laws that it truly breaks."""

import pytest

from jaxopt_lite.testing import loss_edge_laws as laws
from tests.testing.mutation import breaks_exactly, named_in, unbroken


def test_every_law_is_broken_by_a_mutant():
    assert unbroken(laws, "loss") == set()


@pytest.mark.parametrize("name", named_in(laws, "loss"))
def test_mutant(name):
    breaks_exactly(name)
