"""The laws run on every exported transformation: the exports are the registry, `exports.py` says what each claims."""

import pytest

from jaxopt_lite.testing import check_transformation
from tests.testing import exports


@pytest.mark.parametrize("name", exports.checked())
def test_transformation(name):
    check_transformation(exports.transformation(name), laws=exports.laws_for(name))


def test_what_is_not_checked_says_why():
    assert all(len(reason) > 20 for reason in exports.NOT_CHECKED.values())
    assert not set(exports.NOT_CHECKED) & set(exports.ROWS)


def test_every_row_belongs_to_an_export():
    late = {"quantize_state", "kahan", "stochastic_rounding", "master_weights"}
    assert set(exports.ROWS) - late <= set(exports.factories())


def test_the_registry_sees_every_optimizer():
    found = exports.checked()
    assert {"adamw", "lion", "scale_by_adam", "schedule_free", "clip_by_global_norm", "chain"} <= set(found)
    assert len(found) >= 70
