"""Real processes over loopback: equal to one process, and back on their feet after one was killed."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

pytestmark = pytest.mark.slow
SCRIPT = pathlib.Path(__file__).with_name("train.py")
PATIENCE = 240  # seconds, for a busy machine; a run takes ten


def launch(world, **settings):
    """One process per rank, all on this machine; returns them as they run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The same code on one process and on many, compiled in half the time.
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    command = lambda rank: json.dumps(
        {"rank": rank, "world": world, "port": port, "devices": 1, "steps": 6} | settings
    )
    return [
        subprocess.Popen(
            [sys.executable, "-W", "error", str(SCRIPT), command(rank)],
            env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for rank in range(world)
    ]  # fmt: skip


def finish(processes):
    """What each printed, after all ended well; if one does not, none is left behind."""
    try:
        printed = [p.communicate(timeout=PATIENCE)[0] for p in processes]
    finally:
        for p in processes:
            p.kill()
    assert [p.returncode for p in processes] == [0] * len(processes), "\n".join(printed)
    return printed


def parameters(folder, mode, device):
    with np.load(folder / f"{mode}{device}.npz") as arrays:
        return [arrays[name] for name in arrays]


def equal(one, other, mode, devices):
    """Bitwise: the same sums in the same order, whoever computes them."""
    for device in range(devices):
        for a, b in zip(parameters(one, mode, device), parameters(other, mode, device), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The undisturbed run: one process with two devices."""
    folder = tmp_path_factory.mktemp("alone")
    finish(launch(1, devices=2, modes=["data", "zero"], out=str(folder)))
    return folder


def test_two_processes_share_the_batch_and_the_state(alone, tmp_path):
    finish(launch(2, modes=["data", "zero"], out=str(tmp_path)))
    equal(alone, tmp_path, "data", 2)
    equal(alone, tmp_path, "zero", 2)
    for a, b in zip(parameters(alone, "data", 0), parameters(alone, "zero", 1), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_four_workers_exchange_now_and_then(tmp_path):
    whole, apart = tmp_path / "whole", tmp_path / "apart"
    whole.mkdir()
    apart.mkdir()
    finish(launch(1, devices=4, modes=["diloco"], out=str(whole)))
    finish(launch(4, modes=["diloco"], out=str(apart)))
    for worker in range(4):  # four numbers are summed in another order
        pair = parameters(whole, "diloco", worker), parameters(apart, "diloco", worker)
        for a, b in zip(*pair, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_a_killed_process_ends_the_run_and_a_restart_repeats_it(alone, tmp_path):
    run = {"modes": ["data"], "out": str(tmp_path), "checkpoints": str(tmp_path / "checkpoints")}
    survivor, killed = launch(2, die_at=5, die_rank=1, **run)
    killed.communicate(timeout=PATIENCE)
    died = time.monotonic()
    said = survivor.communicate(timeout=PATIENCE)[0]
    assert killed.returncode == -signal.SIGKILL
    assert time.monotonic() - died < 60
    assert survivor.returncode != 0
    assert re.search(r"JaxRuntimeError: .*(Connection closed by peer|Connection reset|heartbeat)", said), said
    assert not list(tmp_path.glob("*.npz"))

    printed = finish(launch(2, **run))
    assert all("from step 4" in text for text in printed)
    equal(alone, tmp_path, "data", 2)
