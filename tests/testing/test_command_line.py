"""``python -m jaxopt_lite.testing``: names, matrix, JSON, HTML, exit status."""

import json
import subprocess
import sys

import pytest

from jaxopt_lite.testing import matrix
from jaxopt_lite.testing.__main__ import main
from jaxopt_lite.testing.find import all_factories, named_case, resolve

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


def run(*arguments):
    return main([*arguments, "--laws", "descends,linear,jit_equals_eager"])


def test_matrix_of_good_items_and_status_0(module, capsys):
    assert run("my_module:mine", "my_module:case", "optax.huber_loss") == 0
    out = capsys.readouterr().out
    assert "my_module:mine" in out
    assert "a case: 3 passed" in out
    assert "optax.huber_loss: 1 passed" in out


def test_status_1_and_details_for_a_wrong_item(module, capsys):
    assert run("my_module:wrong", "--details") == 1
    out = capsys.readouterr().out
    assert "FAIL" in out
    assert "the loss does not fall" in out


def test_json_and_html(module, capsys):
    assert run("my_module:mine", "--json") == 0
    (item,) = json.loads(capsys.readouterr().out)
    assert {r["law"]: r["status"] for r in item["results"]}["descends"] == "passed"
    assert run("my_module:wrong", "--html") == 1
    assert 'class="FAIL" title="the loss does not fall' in capsys.readouterr().out


def test_plain_text_is_a_matrix(module):
    from jaxopt_lite.testing.__main__ import check

    reports = [check(named_case(f"my_module:{n}"), ["descends"]) for n in ("mine", "wrong")]
    assert "descends  ok" in matrix.as_text(reports)
    assert "FAIL" in matrix.as_text(reports)


def test_all_takes_every_factory_that_builds(module):
    assert all_factories("my_module") == ["my_module.wrong"]
    found = all_factories("optax")
    assert {"optax.adam", "optax.clip", "optax.lion"} - set(found) == {"optax.clip"}
    assert "optax.losses.huber_loss" in all_factories("optax.losses")


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


def test_the_command_runs_the_mesh_laws():
    laws = "sharded_equals_unsharded,sharding_kept,collectives_within_budget"
    command = [
        sys.executable,
        "-m",
        "jaxopt_lite.testing",
        "optax.sgd",
        "--laws",
        laws,
        "--claims",
        "elementwise",
    ]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [r["status"] for r in json.loads(done.stdout)[0]["results"]] == ["passed"] * 3
