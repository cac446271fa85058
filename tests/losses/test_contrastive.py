"""Contrastive losses: oracle, optax and PyTorch, masks as subsets, memory, several devices."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_lite as jol
from tests import users
from tests.oracles.compare import DTYPES, Case, check, check_golden, golden, triples, value_and_slope

losses = users.Jitted(jol.losses)
RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(2, 5, 3))
GROUPS = np.array([0, 0, 1, 1, 2], np.int32)
TRIPLES = triples()
SCALES = np.array([1e-3, 1.0, 30.0, 1e4, 1e-2])[:, None]


def distances(a, p, n):
    return np.abs(a - p).max(axis=1) + np.abs(a - n).max(axis=1) + 1


PLAIN = (0.0, 0.5, 1.0, -1.0, 3.0, -2.0, 0.37)
NEAR = triples(PLAIN), triples(PLAIN)[::-1], np.roll(triples(PLAIN), 5, axis=0)
CASES = [
    Case("info_nce", (A * SCALES, B), noise=20, slope_noise=1e5, differentiate=(0, 1), batch=True),
    Case("info_nce", (A, B), {"symmetric": False, "temperature": 0.5}, noise=3, slope_noise=10, batch=True),
    Case("siglip_loss", (A, B), {"temperature": 10.0, "bias": -10.0}, noise=20, slope_noise=50, batch=True),
    Case("ntxent", (A, GROUPS), noise=20, slope_noise=100, batch=True),
    Case("ntxent", (A, GROUPS), {"temperature": 0.5}, noise=3, slope_noise=10, batch=True),
    Case(
        "triplet_margin_loss",
        (TRIPLES, TRIPLES[::-1], np.roll(TRIPLES, 5, axis=0)),
        noise=distances,
        slope_noise=1,
    ),
    Case(
        "triplet_margin_loss",
        NEAR,
        {"norm_degree": 3},
        noise=distances,
        slope_noise=4,
        differentiate=(0, 1, 2),
    ),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_oracle(case, dtype):
    check(case, dtype)


@pytest.mark.parametrize("record", golden("info_nce", "siglip_loss"))
def test_equal_to_pytorch(record):
    check_golden(record)


def test_equal_to_optax():
    e = jnp.asarray(np.repeat(A, 2, axis=0) + 0.1 * RNG.normal(size=(10, 3)), jnp.float32)
    for groups in (np.repeat(np.arange(5), 2), np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 3])):
        ours = losses.ntxent(e, jnp.asarray(groups), reduction="mean")
        np.testing.assert_allclose(ours, optax.losses.ntxent(e, jnp.asarray(groups)), rtol=1e-5)
    for arguments in ((), (-1, 2, 0.3, 1e-3), (0,)):
        ours, theirs = (m.triplet_margin_loss(A, B, B[::-1], *arguments) for m in (losses, optax.losses))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


TWO_TOWERS = {
    "info_nce": lambda a, b, **o: losses.info_nce(a, b, **o),
    "siglip_loss": lambda a, b, **o: losses.siglip_loss(a, b, temperature=10.0, bias=-10.0, **o),
    "ntxent": lambda a, b, **o: losses.ntxent(a + 0 * b, jnp.array([7, 7, 7, 1, 1])[: len(a)], **o),
}


@pytest.mark.parametrize("name", TWO_TOWERS)
def test_a_masked_row_is_out_of_the_batch_even_as_a_negative(name):
    loss = TWO_TOWERS[name]
    a, b = jnp.asarray(A, jnp.float32), jnp.asarray(B, jnp.float32)
    where = jnp.array([True, True, True, True, False])
    poisoned = a.at[4].set(jnp.nan)
    value, slope = value_and_slope(
        lambda a: loss(a, b.at[4].set(jnp.inf) if name != "ntxent" else b, where=where), poisoned
    )
    np.testing.assert_allclose(value[:4], loss(a[:4], b[:4]), rtol=1e-5)
    assert value[4] == 0
    np.testing.assert_array_equal(slope[4], [0, 0, 0])
    assert np.isfinite(slope).all()
    weights = where.astype(jnp.float32)
    np.testing.assert_allclose(value, jax.jit(lambda a: loss(a, b, weights=weights))(poisoned), rtol=1e-6)


def test_degenerate_batches_are_finite():
    zero, ids = jnp.zeros((3, 4)), jnp.arange(3)
    for loss in (lambda e: losses.ntxent(e, ids), lambda e: losses.info_nce(e, e), TWO_TOWERS["ntxent"]):
        for e in (zero, jnp.eye(3, 4)):
            value, slope = value_and_slope(
                lambda e, loss=loss: loss(e, e) if loss is TWO_TOWERS["ntxent"] else loss(e), e
            )
            assert np.isfinite(value).all()
            assert np.isfinite(slope).all()
    np.testing.assert_array_equal(losses.ntxent(jnp.eye(3), ids), [0, 0, 0])
    assert losses.ntxent(jnp.eye(3), ids, reduction="mean") == 0
    np.testing.assert_allclose(losses.info_nce(zero, zero), [np.log(3)] * 3, rtol=1e-6)
    value, slope = value_and_slope(lambda a: losses.triplet_margin_loss(a, zero, zero, eps=0.0), zero)
    np.testing.assert_array_equal(value, [1, 1, 1])
    np.testing.assert_array_equal(slope, zero)


@pytest.mark.parametrize("name", TWO_TOWERS)
def test_nothing_of_size_batch_by_batch_by_features(name):
    b, d = 5, 2**22  # far more than what cuBLAS takes for its products, 32 MiB
    x = jax.ShapeDtypeStruct((b, d), jnp.float32)
    run = jax.jit(jax.value_and_grad(lambda x, y: TWO_TOWERS[name](x, y, reduction="mean"), argnums=(0, 1)))
    temporaries = users.compiled(run.lower(x, x)).memory_analysis().temp_size_in_bytes
    assert temporaries < 0.9 * b * b * d * 4, temporaries / (b * d * 4)


def test_temperature_can_be_learned():
    a, b = jnp.asarray(A, jnp.float32), jnp.asarray(B, jnp.float32)
    loss = lambda t: losses.info_nce(a, b, temperature=t, reduction="mean")
    slope, step = jax.jit(jax.grad(loss))(0.5), 1e-2
    np.testing.assert_allclose(slope, (loss(0.5 + step) - loss(0.5 - step)) / (2 * step), rtol=1e-2)


def test_errors():
    with pytest.raises(ValueError, match=r"info_nce: queries has shape \(3,\), expected \[B, D\]"):
        losses.info_nce(jnp.ones(3), jnp.ones(3))
    with pytest.raises(ValueError, match=r"info_nce: keys has shape \(4, 3\), expected \(5, 3\)"):
        losses.info_nce(jnp.ones((5, 3)), jnp.ones((4, 3)))
    with pytest.raises(ValueError, match=r"ntxent: labels has shape \(2,\), expected \(3,\)"):
        losses.ntxent(jnp.ones((3, 4)), jnp.arange(2))
    with pytest.raises(ValueError, match="triplet_margin_loss: norm_degree is 0"):
        losses.triplet_margin_loss(A, B, B, norm_degree=0)


DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import PartitionSpec as P
from jaxopt_lite import losses
mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
rows = P(("x", "y"))
q, k = jax.random.normal(jax.random.key(0), (2, 8, 3))
keep = jnp.array([True] * 6 + [False, True])
for symmetric in (True, False):
    alone = lambda q, k: losses.info_nce(q, k, where=keep, symmetric=symmetric)
    local = lambda q, k, keep: losses.info_nce(q, k, where=keep, symmetric=symmetric, axis_name=("x", "y"))
    spread = jax.shard_map(local, mesh=mesh, in_specs=(rows, rows, rows), out_specs=rows)
    both = lambda loss: jax.jit(lambda q, k: (loss(q, k), jax.grad(lambda *a: loss(*a).sum(), (0, 1))(q, k)))(q, k)
    for one, many in zip(jax.tree.leaves(both(alone)), jax.tree.leaves(both(lambda q, k: spread(q, k, keep)))):
        np.testing.assert_allclose(one, many, rtol=2e-5, atol=2e-6)
print("same")
"""


def test_negatives_of_all_devices():
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
    }
    root = pathlib.Path(losses.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", DEVICES],
        env=environment,
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "same\n", done.stderr
