"""A module on disk with items in it, as a user of the command line has one."""

import sys

import pytest

MODULE = """
import optax
from jaxopt_lite.testing import TransformationCase
mine = optax.scale(-0.1)
case = TransformationCase(optax.sgd(0.1), claims={"linear"}, name="a case")
def wrong(learning_rate=0.1):
    return optax.scale(learning_rate)
def needs_more(inner):
    return inner
value = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("my_module", None)
