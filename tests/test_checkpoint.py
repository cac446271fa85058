"""Checkpoints: whatever happens to the process or the files, a run goes on from the last good one, to the bit."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_lite import checkpoint, training
from jaxopt_lite.training import fit

RUN = {"batch_size": 8, "evaluate_every": 5}

# When one of orbax's reads fails, the others still in flight complain that the event loop is closed.
damaged_reads = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

# ---------------------------------------------------------------- one training run, whole or killed and resumed

rng = np.random.default_rng(0)
INPUTS = rng.normal(size=(37, 4)).astype(np.float32)
DATA = {"x": INPUTS, "y": np.sin(INPUTS).sum(axis=1)}
VALIDATION = {"x": INPUTS[:9] + 0.1, "y": DATA["y"][:9]}


def loss_fn(params, batch):
    hidden = jnp.tanh(batch["x"] @ params["kernel"].astype(jnp.float32))
    return jnp.mean((hidden @ params["head"] - batch["y"]) ** 2)


def train(checkpoint_dir=None, **options):
    """25 steps of 5 an epoch, whose last batch is smaller; the state holds a random key, the params a bfloat16."""
    kernel = jax.random.normal(jax.random.key(1), (4, 16), jnp.bfloat16)
    params = {"kernel": kernel, "head": np.zeros(16, np.float32), "empty": np.zeros((0, 2), np.float32)}
    tx = optax.chain(optax.adam(0.03), optax.add_noise(1e-6, 0.5, key=jax.random.key(2)))
    defaults = {"key": jax.random.key(3), "batch_size": 8, "epochs": 5, "checkpoint_every": 3}
    defaults |= {"validation_data": VALIDATION, "evaluate_every": 4, "patience": 6}
    return fit(loss_fn, params, tx, DATA, checkpoint_dir=checkpoint_dir, **defaults | options)


def assert_same_bits(got, expected):
    assert (got.step, got.stopped_early) == (expected.step, expected.stopped_early)
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    as_array = lambda x: np.asarray(checkpoint._plain(x))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        a, b = as_array(a), as_array(b)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def child(directory, how, when):
    """Train in this process and kill it on the way: in the given step, or in the middle of the given save."""
    batches, rename, saves = training.stream, os.rename, [0]

    def deadly_stream(key, data, batch_size, start, total):
        for i, item in enumerate(batches(key, data, batch_size, start, total)):
            if start + i == when:
                die()
            yield item

    def deadly_rename(source, target, **kwargs):
        if pathlib.Path(target).name.isdigit():  # all is written, but under the temporary name
            saves[0] += 1
            if saves[0] == when:
                die()
        return rename(source, target, **kwargs)

    if how == "step":
        training.stream = deadly_stream
    else:
        os.rename = deadly_rename
    train(directory)


@pytest.fixture(scope="module")
def whole():
    return train()


def test_sigkill_and_resume_gives_the_same_bits(tmp_path, whole):
    """Killed between two checkpoints, in the middle of a save, and in the very first step after a resume."""
    assert whole.step == 25
    assert 1 <= np.nanargmin(whole.history["validation_loss"]) + 1 < 25  # so the best is not simply the last
    root = pathlib.Path(__file__).parent.parent
    names = lambda: sorted(path.name for path in (tmp_path / "run").iterdir())
    for how, when, left in (
        ("step", 8, ["3", "6"]),
        ("save", 3, ["12", "15.orbax-checkpoint-tmp", "6", "9"]),
        ("step", 12, ["12", "6", "9"]),
    ):
        code = f"from tests.test_checkpoint import child; child({str(tmp_path / 'run')!r}, {how!r}, {when})"
        done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert names() == left
        assert ("half-written" in done.stderr) == ((how, when) == ("step", 12))
    assert_same_bits(train(tmp_path / "run"), whole)
    assert names() == ["21", "24", "25"]


def test_a_finished_run_returns_at_once(tmp_path, whole, monkeypatch):
    assert_same_bits(train(tmp_path), whole)
    monkeypatch.setattr(training, "_step", lambda *_: pytest.fail)  # a step that fails when traced
    assert_same_bits(train(tmp_path), whole)


def test_more_epochs_or_patience_go_on(tmp_path, whole):
    first = train(tmp_path, epochs=4)  # 20 steps, evaluated last at a multiple of evaluate_every
    assert first.step == 20
    assert_same_bits(train(tmp_path), whole)
    with pytest.raises(ValueError, match="a run of 25 steps, expected at most 20"):
        train(tmp_path, epochs=4)


def test_stopping_early_is_remembered(tmp_path):
    stops = {"evaluate_every": 1, "patience": 1, "epochs": 9}
    first = train(tmp_path, **stops)
    assert first.stopped_early
    assert first.step < 45
    assert_same_bits(train(tmp_path, **stops), first)
    assert train(tmp_path, **stops | {"patience": 2}).step > first.step


def test_other_arguments_are_an_error(tmp_path):
    train(tmp_path, epochs=1)
    for options, message in (
        ({"batch_size": 9}, "holds a run with batch_size = 8, expected 9"),
        ({"evaluate_every": 2}, "holds a run with evaluate_every = 4, expected 2"),
        ({"key": jax.random.key(4)}, r"holds a run with key = threefry2x32\[0, 3\], expected .*\[0, 4\]"),
        (
            {"validation_data": None, "evaluate_every": None, "patience": None},
            "evaluate_every = 4, expected None",
        ),
        ({"validation_data": DATA}, r"validation_data\['x'\] = float32\[9, 4\], expected float32\[37, 4\]"),
    ):
        with pytest.raises(ValueError, match=message):
            train(tmp_path, **options)
    params = {"kernel": np.zeros((4, 3), np.float32), "head": np.zeros(3, np.float32)}
    options = {"key": jax.random.key(3), "batch_size": 8, "epochs": 1, "checkpoint_dir": tmp_path}
    options |= {"validation_data": VALIDATION, "evaluate_every": 4}
    with pytest.raises(ValueError, match=r"params\['head'\] = float32\[16\], expected float32\[3\]"):
        fit(loss_fn, params, optax.sgd(0.1), DATA, **options)


def test_old_keys_resume_too(tmp_path, whole):
    for _ in range(2):
        assert_same_bits(train(tmp_path, key=jax.random.PRNGKey(3)), whole)


# ----------------------------------------------------------------------------------------- save and restore

TREE = {
    "float": jnp.array([1.0, jnp.nan, -jnp.inf]),
    "half": jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3),
    "tiny": jnp.array([1.0, -2.0], jnp.float8_e4m3fn),
    "nibbles": jnp.array([3, 7], jnp.uint4),
    "complex": jnp.array([1 + 2j]),
    "flag": jnp.array(True),
    "key": jax.random.key(5),
    "empty": jnp.zeros((3, 0)),
    "host": np.array([1.0, 2.0, 1e-300]),
    "nothing": None,
}


def grown(step):
    return {**TREE, "host": np.arange(float(step))}


def found(directory):
    """What ``restore`` gives, and whether it warned."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got = checkpoint.restore(directory, TREE, RUN)
    return got, [str(w.message) for w in caught]


def assert_same_tree(got, expected):
    for name, value in expected.items():
        if value is None:
            assert got[name] is None
            continue
        assert isinstance(got[name], type(value))
        a, b = np.asarray(checkpoint._plain(got[name])), np.asarray(checkpoint._plain(value))
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def test_round_trip_of_every_dtype_and_the_last_three_kept(tmp_path):
    assert checkpoint.restore(tmp_path / "none", TREE, RUN) is None
    for step in (1, 2, 9, 10):
        checkpoint.save(tmp_path, step, grown(step), RUN)
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [2, 9, 10]
    (step, tree), messages = found(tmp_path)
    assert (step, messages) == (10, [])
    assert_same_tree(tree, grown(10))


def damages(path):
    """Every kind of damage to one file, each undone afterwards."""
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2 if content else 0 : len(content) // 2 + 1] = b"\x5a"
    for damaged in (content[: len(content) // 2], b"", bytes(flipped), None):
        if damaged is None:
            path.unlink()
        else:
            path.write_bytes(damaged)
        yield damaged
        path.write_bytes(content)


@damaged_reads
def test_any_damaged_file_is_passed_over(tmp_path):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, grown(step), RUN)
    files = [path for path in (tmp_path / "2").rglob("*") if path.is_file()]
    passed = 0
    for path in files:
        for _ in damages(path):
            (step, tree), messages = found(tmp_path)
            assert_same_tree(tree, grown(step))  # never wrong numbers
            assert len(messages) == (step == 1)
            assert all("passed over the damaged checkpoint" in m and "/2" in m for m in messages)
            passed += step == 1
    assert len(files) <= passed <= 4 * len(files)
    assert found(tmp_path)[0][0] == 2  # all is whole again


@damaged_reads
def test_a_missing_part_a_stray_file_and_nothing_left(tmp_path):
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, grown(step), RUN)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "4").mkdir()  # an empty directory that looks like a checkpoint
    shutil.rmtree(tmp_path / "3" / "leaves")
    (tmp_path / "5.orbax-checkpoint-tmp").mkdir()
    (step, _), messages = found(tmp_path)
    assert step == 2
    assert [word in m for word, m in zip(("half-written", "/4", "/3"), messages, strict=True)] == [True] * 3
    assert not (tmp_path / "5.orbax-checkpoint-tmp").exists()
    checkpoint.save(tmp_path, 3, grown(3), RUN)  # over the damaged one
    assert found(tmp_path)[0][0] == 3
    for name in ("1", "2", "3"):
        shutil.rmtree(tmp_path / name / "record")
    assert found(tmp_path)[0] is None
    assert (tmp_path / "notes.txt").read_text() == "mine"


@damaged_reads
def test_fit_goes_on_past_a_damaged_checkpoint(tmp_path, whole):
    train(tmp_path)
    for name in ("25", "24"):
        shutil.rmtree(tmp_path / name / "leaves" / "d")
    with pytest.warns(UserWarning, match="passed over the damaged checkpoint") as caught:
        assert_same_bits(train(tmp_path), whole)
    assert len(caught) == 2
    assert {warning.filename for warning in caught} == {__file__}
    assert_same_bits(train(tmp_path), whole)


def test_without_orbax(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ImportError, match=r"pip install jaxopt_lite\[checkpoint\]"):
        train(tmp_path)


def test_placed_where_the_template_lies():
    device = jax.devices()[0]
    committed = jax.device_put(jnp.ones(2), device)
    assert checkpoint._placed(np.ones(2, np.float32), committed).committed
    assert not checkpoint._placed(np.ones(2, np.float32), jnp.ones(2)).committed
