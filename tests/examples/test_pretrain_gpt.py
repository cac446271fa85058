"""The main job in small: it learns, it resumes to the same bits, and any number of devices computes the same."""

import importlib
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
SMALL = {"width": 48, "depth": 1, "heads": 2, "length": 32, "batch": 16, "steps": 160, "evaluate_every": 40}
SMALL |= {"checkpoint_every": 40, "learning_rate": 1e-2}


@pytest.fixture
def example(monkeypatch, tmp_path):
    """Import a script, or a module beside it, by name; what it writes goes to a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module


def leaves(run):
    return jax.tree.leaves((run["params"], run["state"]))


@pytest.mark.slow
def test_it_learns_and_resumes_to_the_same_bits(example, capsys, monkeypatch, tmp_path):
    pretrain_gpt, text = example("pretrain_gpt"), example("text")
    whole = pretrain_gpt.main(**SMALL)  # asserts 0.8 × the unigram entropy
    run, printed = whole["run"], capsys.readouterr().out
    assert f"{whole['bits_per_byte']:.4f} bits per byte" in printed.splitlines()[-1]
    assert "device: " in printed
    assert "sampled: def " in printed
    assert run["train"].shape == (160,)
    assert run["evaluated"].tolist() == [40, 80, 120, 160]
    assert run["validation"][-1] < run["validation"][0] < 8
    picture = (tmp_path / "out" / "pretrain_gpt.png").read_bytes()
    assert picture.startswith(b"\x89PNG")

    windows = text.sampler

    def dying(*args):
        sample = windows(*args)

        def until_step_90(step):
            if step == 90:
                raise KeyboardInterrupt
            return sample(step)

        return until_step_90

    with monkeypatch.context() as patch:
        patch.setattr(text, "sampler", dying)
        with pytest.raises(KeyboardInterrupt):
            pretrain_gpt.main(**SMALL)
    resumed = pretrain_gpt.main(**SMALL, resume=True)
    assert "from step 80 to 160" in capsys.readouterr().out
    assert resumed["bits_per_byte"] == whole["bits_per_byte"]
    jax.tree.map(np.testing.assert_array_equal, leaves(resumed["run"]), leaves(run))
    np.testing.assert_array_equal(resumed["run"]["train"], run["train"])


@pytest.mark.slow
@pytest.mark.parametrize("where", ["--mesh data=2,fsdp=2", "--mesh fsdp=4 --processes 2"])
def test_a_mesh_computes_what_one_device_does(example, where, tmp_path):
    """One process with four devices, and two with two each, in which parameters and state lie in parts."""
    few = SMALL | {"steps": 6, "evaluate_every": 6, "checkpoint_every": 6}
    alone = example("pretrain_gpt").main(**few, check=False)
    options = [word for name, value in few.items() for word in ("--" + name.replace("_", "-"), str(value))]
    command = [sys.executable, EXAMPLES / "pretrain_gpt.py", "--no-check", "--out", tmp_path / "mesh"]
    done = subprocess.run(
        [*command, *options, *where.split()],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("4 in all") == 1  # one process prints
    bits = float(done.stdout.split("validation loss: ")[1].split()[0])
    assert bits == pytest.approx(alone["bits_per_byte"], abs=2e-4)


def test_a_mesh_that_is_none_is_refused(example):
    devices = example("devices")
    assert devices.sizes("fsdp=4") == {"data": 1, "fsdp": 4}
    with pytest.raises(ValueError, match=r"got .*model.*, expected sizes of some of"):
        devices.sizes("data=2,model=2")
    with pytest.raises(ValueError, match="no mesh of the 1 devices"):
        devices.mesh_of("data=2", 16)


def test_matrices_are_split_along_their_longest_axis(example):
    devices, mesh = example("devices"), jax.sharding.AbstractMesh((2, 4), ("data", "fsdp"))
    found = [devices.fsdp(shape, mesh) for shape in [(8, 16), (16, 8), (3, 8), (3, 5), (16,), ()]]
    P = jax.sharding.PartitionSpec
    assert found == [P(None, "fsdp"), P("fsdp", None), P(None, "fsdp"), P(), P(), P()]


def test_presets_have_the_same_settings(example):
    presets = example("pretrain_gpt").PRESETS
    assert {"cpu", "gpu"} <= set(presets)
    assert len({frozenset(preset) for preset in presets.values()}) == 1


def test_decay_is_masked_off_vectors_and_gradients_are_clipped(example):
    gpt, pretrain_gpt = example("gpt"), example("pretrain_gpt")
    params = gpt.init(jax.random.key(0), gpt.Config(width=8, depth=1, heads=2))
    mask = gpt.matrices(params)
    assert not mask["norm"]
    assert not mask["layers"][0]["mlp_norm"]
    assert mask["embedding"]
    assert mask["layers"][0]["qkv"]
    tx = pretrain_gpt.optimizer(1e-3, 100)
    assert "clip_by_global_norm" in repr(tx)
    still = jax.tree.map(jnp.zeros_like, params)
    state = tx.init(params)
    for _ in range(2):  # the first step's learning rate is 0
        updates, state = jax.jit(tx.update)(still, state, params)
    assert np.any(updates["embedding"])
    assert not np.any(updates["norm"])


def test_a_byte_sees_only_those_before_it(example):
    gpt = example("gpt")
    config = gpt.Config(width=16, depth=2, heads=2, length=8)
    params = gpt.init(jax.random.key(0), config)
    for layer in params["layers"]:
        layer["out"], layer["down"] = layer["out"] + 0.1, layer["down"] + 0.1
    tokens = jnp.arange(8)[None]
    run = jax.jit(gpt.apply, static_argnums=2)
    before, after = run(params, tokens, config), run(params, tokens.at[0, 5].set(77), config)
    np.testing.assert_array_equal(before[0, :5], after[0, :5])
    assert np.any(before[0, 5:] != after[0, 5:], axis=-1).all()


def test_text_is_split_by_files_and_windows_are_within(example, tmp_path):
    text = example("text")
    for i in range(60):
        (tmp_path / f"m{i}.py").write_bytes(bytes([i]) * 4)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "left_out.py").write_bytes(b"x")
    data = text.read_text(tmp_path)
    assert len(data.train) + len(data.validation) == 240
    assert not set(data.train.tolist()) & set(data.validation.tolist())
    windows = text.windows(np.arange(10), 4, 3)
    assert windows[0].tolist() == [0, 1, 2]
    assert windows[-1].tolist() == [7, 8, 9]
    sample = text.sampler(np.arange(10, dtype=np.uint8), 50, 4, jax.random.key(0))
    first = np.asarray(sample(1))
    assert (np.diff(first, axis=1) == 1).all()
    assert {0, 6} <= set(first[:, 0].tolist()) <= set(range(7))
    np.testing.assert_array_equal(first, sample(1))
    assert np.any(first != np.asarray(sample(2)))
    assert text.unigram_entropy(np.arange(256, dtype=np.uint8)) == 8
    with pytest.raises(FileNotFoundError, match="no Python source"):
        text.read_text(tmp_path / "test")
