"""Real text without a download: the running Python's own standard library, as bytes, split by files."""

import functools
import os
import sysconfig
import zlib
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Installed packages are no part of the standard library, and its tests hold odd text on purpose.
SKIPPED = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"}


class Text(NamedTuple):
    """Two parts that share no file, each the bytes of its files in the order of their paths."""

    train: np.ndarray  # uint8 [bytes]
    validation: np.ndarray  # uint8 [bytes]


def source_files(root):
    """The Python files under ``root`` as paths with forward slashes, sorted: one order on every machine."""
    root, found = Path(root), []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in SKIPPED]
        found += [Path(folder, name).relative_to(root).as_posix() for name in names if name.endswith(".py")]
    return sorted(found)


def held_out(path, every=20):
    """Whether a file is for validation: a hash of its path decides, so that a new file moves no other."""
    return zlib.crc32(path.encode()) % every == 0


def read_text(root=None):
    """All source under ``root`` (the standard library), about one file in twenty of it for validation."""
    root = root or sysconfig.get_paths()["stdlib"]
    parts = {True: [], False: []}
    for path in source_files(root):
        parts[held_out(path)].append(Path(root, path).read_bytes())
    if not (parts[True] and parts[False]):
        raise FileNotFoundError(f"read_text: {root} has no Python source files to train and validate on")
    return Text(*(np.frombuffer(b"".join(parts[part]), np.uint8) for part in (False, True)))


def windows(data, count, length):
    """``[count, length]`` bytes as int32, the windows evenly spaced from the first byte to the last."""
    starts = np.linspace(0, len(data) - length, count).astype(int)
    return data[starts[:, None] + np.arange(length)[None]].astype(np.int32)


def sampler(data, count, length, key, sharding=None):
    """``step -> [count, length]`` random windows; the step alone decides, so that a resumed run sees the same."""

    @functools.partial(jax.jit, out_shardings=sharding)
    def sample(data, step):
        starts = jax.random.randint(jax.random.fold_in(key, step), (count, 1), 0, len(data) - length + 1)
        return data[starts + jnp.arange(length)[None]].astype(jnp.int32)

    return functools.partial(sample, data)


def unigram_entropy(data):
    """-Σ p(b)·log₂ p(b) over the bytes b of ``data``, in bits: the best loss of a model without context."""
    counts = np.bincount(data, minlength=256)
    p = counts[counts > 0] / len(data)
    return float(-np.sum(p * np.log2(p)))
