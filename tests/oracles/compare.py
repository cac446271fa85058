"""Hold a loss against its oracle: value, gradient, and forward mode, in every dtype, in units in the last place."""

import contextlib
import json
import pathlib
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_lite import losses
from tests.oracles import losses as oracles

DTYPES = ("float16", "bfloat16", "float32", "float64")

# Zeros, tiny numbers, ones, large ones, and some of no special form; float16 and bfloat16 round them first.
HOSTILE = (0.0, 1e-30, -1e-30, 1.0, -1.0, 1e4, -1e4, 0.37, -2.6, 13.0)


def pairs(values=HOSTILE):
    """Every combination of two hostile numbers, as two columns."""
    grid = np.array(np.meshgrid(values, values)).reshape(2, -1)
    return grid[0][:, None], grid[1][:, None]


def triples(values=(0.0, 1e-30, 1.0, -1.0, 1e4, -1e4, 0.37), every=3):
    """Every third combination of three hostile numbers, as rows."""
    return np.array(np.meshgrid(values, values, values)).reshape(3, -1).T[::every]


class Case(NamedTuple):
    """A loss, inputs (float64 arrays of examples, or integers), and how much its formula may cancel.

    ``noise`` bounds the terms that the formula subtracts from one another: rounding them costs as much in any
    way of computing it. ``slope_noise`` is the same for the gradient. Both are numbers, or functions of the inputs
    that give one number per example.
    """

    name: str
    inputs: tuple[Any, ...]
    options: Mapping[str, Any] = types.MappingProxyType({})
    noise: float | Callable[..., Any] = 0.0
    slope_noise: float | Callable[..., Any] = 0.0
    differentiate: tuple[int, ...] = (0,)
    batch: bool = False

    def __str__(self):
        options = ",".join(f"{k}={v if np.ndim(v) == 0 else '…'}" for k, v in self.options.items())
        return f"{self.name}({options})"


def check(case: Case, dtype: str) -> None:
    """Assert that values and gradients are within 4 units in the last place, and 4 roundings of the noise."""
    with jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext():
        inputs = [a if np.issubdtype(a.dtype, np.integer) else jnp.asarray(a, dtype) for a in case.inputs]
        rounded = [
            np.asarray(a).astype(np.float64) if a is not b else b
            for a, b in zip(inputs, case.inputs, strict=True)
        ]
        value, gradients, tangent = jax.device_get(_run(case, inputs))
    expected, slopes = oracles.evaluate(
        getattr(oracles, case.name),
        *rounded,
        differentiate=case.differentiate,
        batch=case.batch,
        **case.options,
    )
    wide = np.float64 if dtype == "float64" else np.float32
    assert value.dtype == wide, (case.name, value.dtype)
    _close(f"{case} value", value, expected, wide, _noise(case.noise, rounded), rounded)
    noise = _noise(case.slope_noise, rounded)
    for gradient, slope in zip(gradients, slopes, strict=True):
        assert gradient.dtype == jnp.dtype(dtype), (case.name, gradient.dtype)
        gradient = gradient.astype(np.float64).reshape(slope.shape)
        spread = noise.reshape(-1, *[1] * (slope.ndim - 1))
        _close(f"{case} gradient", gradient, slope, wide, spread, rounded, jnp.finfo(dtype))
    _forward_is_reverse(case, tangent, gradients, noise, jnp.finfo(dtype))


def _forward_is_reverse(case, tangent, gradients, noise, storage):
    """Along a tangent of ones the derivative is the sum of the gradient, row by row (or over the batch)."""
    rows = 1 if case.batch else len(tangent)
    parts = np.concatenate([g.astype(np.float64).reshape(rows, -1) for g in gradients], axis=1)
    forward = tangent.astype(np.float64).reshape(rows, -1).sum(axis=1)
    allowed = 8 * float(storage.eps) * (np.abs(parts).sum(axis=1) + noise) + float(storage.tiny)
    with np.errstate(invalid="ignore"):
        same = (np.abs(forward - parts.sum(axis=1)) <= allowed) | ~np.isfinite(parts).all(axis=1)
    assert same.all(), f"{case}: jvp {forward[~same][0]} is not vjp {parts[~same][0]}"
    assert not np.isnan(forward).any(), f"{case}: NaN in forward mode"


def _run(case, inputs):
    arrays = [a[:, 0] if a.ndim == 2 and a.shape[1] == 1 else a for a in map(jnp.asarray, inputs)]

    @jax.jit
    def run(*arrays):
        chosen = tuple(arrays[i] for i in case.differentiate)
        loss = lambda *chosen: getattr(losses, case.name)(
            *_put(arrays, case.differentiate, chosen), **case.options
        )
        value, pull = jax.vjp(loss, *chosen)
        _, tangent = jax.jvp(loss, chosen, tuple(map(jnp.ones_like, chosen)))
        return value, pull(jnp.ones_like(value)), tangent

    return run(*arrays)


def _put(arrays, places, values):
    arrays = list(arrays)
    for place, value in zip(places, values, strict=True):
        arrays[place] = value
    return arrays


def _noise(noise, rounded):
    return np.atleast_1d(np.asarray(noise(*rounded) if callable(noise) else noise, np.float64))


def _close(what, actual, expected, wide, noise, inputs, storage=None):
    info = np.finfo(wide)
    allowed = 4 * info.eps * (np.abs(expected) + noise) + info.tiny
    if storage is not None and storage.bits < 32:
        allowed = allowed + 0.51 * float(storage.eps) * np.abs(expected) + float(storage.smallest_subnormal)
        expected = np.where(np.abs(expected) > float(storage.max), np.copysign(np.inf, expected), expected)
    with np.errstate(invalid="ignore"):
        wrong = ~((np.abs(actual - expected) <= allowed) | (actual == expected) | np.isnan(expected))
    if wrong.any():
        i = tuple(np.argwhere(wrong)[0])
        shown = [a if len(a) != len(expected) else a[i[0]] for a in inputs]
        within = np.broadcast_to(allowed, wrong.shape)[i]
        raise AssertionError(
            f"{what} at {shown}: got {actual[i]!r}, expected {expected[i]!r} ± {within:.2g}; "
            f"{wrong.sum()} of {wrong.size} wrong"
        )


def value_and_slope(loss, x):
    """A loss and the gradient of its sum, in one compilation."""
    value, slope = jax.jit(lambda x: (loss(x), jax.grad(lambda x: jnp.sum(loss(x)))(x)))(x)
    return np.asarray(value), np.asarray(slope)


def golden(*names):
    """The records of PyTorch's results for these losses."""
    path = pathlib.Path(__file__).parent.parent / "golden" / "losses_torch.json"
    return [r for r in json.loads(path.read_text())["records"] if r["loss"].partition(":")[0] in names]


def check_golden(record):
    """Assert that value and gradient are PyTorch's to 14 digits, in float64."""
    name, _, order = record["loss"].partition(":")
    with jax.enable_x64(True):
        first, *others = map(jnp.asarray, record["inputs"])
        options = {k: jnp.asarray(v) if isinstance(v, list) else v for k, v in record["options"].items()}
        if order == "variance":
            loss = lambda v: losses.gaussian_nll(*others, v)
        else:
            loss = lambda x: getattr(losses, name)(x, *others, **options)
        value, slope = value_and_slope(loss, first)
    np.testing.assert_allclose(value, record["value"], rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(slope, record["gradient"], rtol=1e-12, atol=1e-13)
