"""Mutants whose fault a law of `tree_laws` names: each breaks that law, and only laws that it truly breaks."""

import pytest

from jaxopt_lite.testing import tree_laws as laws
from tests.testing.mutation import breaks_exactly, named_in, unbroken


def test_every_law_is_broken_by_a_mutant():
    assert unbroken(laws) == set()


@pytest.mark.parametrize("name", named_in(laws))
def test_mutant(name):
    breaks_exactly(name)
