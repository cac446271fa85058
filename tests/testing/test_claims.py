"""Claims are checked for spelling, and budgets are split off."""

import pytest

from jaxopt_lite.testing.claims import LOSS_CLAIMS, TRANSFORMATION_CLAIMS, parse_claims


def test_spaces_hyphens_and_capitals_do_not_matter():
    for spelling in ("scale_invariant", "Scale-Invariant", "scale invariant"):
        assert "scale_invariant" in parse_claims({spelling}, TRANSFORMATION_CLAIMS)


def test_budgets_are_numbers_by_name():
    claims = parse_claims(["temporaries <= 2.5", "collectives<=0", "odd"], TRANSFORMATION_CLAIMS)
    assert claims.budgets == {"temporaries": 2.5, "collectives": 0.0}
    assert claims.names == {"odd"}


@pytest.mark.parametrize("claim", ["element", "convex", "time<=3", "collectives=2"])
def test_an_unknown_claim_is_named(claim):
    with pytest.raises(ValueError, match="unknown claim"):
        parse_claims({claim}, TRANSFORMATION_CLAIMS)


def test_a_bare_string_is_refused_and_a_word_without_number_too():
    with pytest.raises(TypeError, match="expected a set of names"):
        parse_claims("odd", TRANSFORMATION_CLAIMS)
    with pytest.raises(ValueError, match="few"):
        parse_claims({"collectives<=few"}, TRANSFORMATION_CLAIMS)


def test_every_claim_is_explained_and_asked_for_by_a_law():
    import inspect

    from jaxopt_lite.testing import loss_case, loss_laws, transformation_case, transformation_laws

    for table, laws, case in (
        (TRANSFORMATION_CLAIMS, transformation_laws, transformation_case),
        (LOSS_CLAIMS, loss_laws, loss_case),
    ):
        text = inspect.getsource(case) + "".join(map(inspect.getsource, laws.values()))
        text += inspect.getsource(inspect.getmodule(laws["matches_oracle"]))
        assert [c for c in table if f'"{c}"' not in text] == []
