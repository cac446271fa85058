"""Items are found by name, and all factories of a module that build with defaults."""

import sys

import optax
import pytest

from jaxopt_lite.testing.__main__ import main
from jaxopt_lite.testing.find import all_factories, builds, named_case, resolve


def test_all_takes_every_factory_that_builds(module):
    assert all_factories("my_module") == ["my_module.wrong"]
    found = all_factories("optax")
    assert {"optax.adam", "optax.clip", "optax.lion"} - set(found) == {"optax.clip"}
    assert "optax.losses.huber_loss" in all_factories("optax.losses")


def test_what_builds_with_defaults():
    assert builds(optax.lamb)
    assert not builds(optax.clip_by_global_norm)
    assert not builds(len)


def test_names_that_lead_nowhere_are_errors(module):
    assert resolve("my_module.mine") is resolve("my_module:mine")
    with pytest.raises(ModuleNotFoundError):
        resolve("no_such_module.thing")
    with pytest.raises(AttributeError):
        resolve("my_module:nothing")
    with pytest.raises(TypeError, match="my_module:value is a int"):
        named_case("my_module:value")
    with pytest.raises(SystemExit):
        main([])


def test_a_broken_import_inside_a_module_is_not_taken_for_a_missing_name(module):
    (module / "broken_module.py").write_text("import no_such_dependency")
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        resolve("broken_module.tx")
    sys.modules.pop("broken_module", None)
