"""``python -m jaxopt_lite.testing``: names, matrix, JSON, HTML, exit status."""

import json
import os
import subprocess
import sys

from jaxopt_lite.testing.__main__ import main


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
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert [r["status"] for r in json.loads(done.stdout)[0]["results"]] == ["passed"] * 3
