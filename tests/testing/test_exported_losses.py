"""The laws run on every exported loss: the exports are the registry, `exports.py` says what each claims."""

import pytest

from jaxopt_lite import losses
from jaxopt_lite.testing import check_loss
from tests.testing import exports


@pytest.mark.parametrize("name", exports.checked_losses())
def test_loss(name):
    check_loss(exports.loss(name), laws=exports.laws_for(name))


def test_every_row_belongs_to_an_export_and_every_gap_says_why():
    assert set(exports.LOSS_ROWS) <= set(losses.__all__)
    assert not set(exports.NOT_LOSSES) & set(exports.LOSS_ROWS)
    gaps = [exports.NOT_LOSSES, *(row.get("without", {}) for row in exports.LOSS_ROWS.values())]
    assert all(len(reason) > 20 for gap in gaps for reason in gap.values())


def test_the_registry_sees_every_loss():
    assert len(exports.checked_losses()) >= 50
