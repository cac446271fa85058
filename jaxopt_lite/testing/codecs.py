"""`check_codec`: laws about how a state array is stored between steps."""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_lite.testing.compare import expect, expect_equal, expect_finite, expect_like, plain
from jaxopt_lite.testing.report import NotRun, Report, choose_laws, run_laws

SHAPES = ((), (0,), (1,), (7,), (5, 3), (8, 128), (3, 5, 7), (300,), (16, 384))


@dataclass
class CodecCase:
    """A codec; ``non_negative`` says that it stores second moments and never sees a negative number."""

    codec: Any
    non_negative: bool = False
    tolerance: float = 0.15
    expected_failures: Mapping[str, str] = field(default_factory=dict)
    name: str = "codec"

    def sample(self, shape: tuple[int, ...] = (16, 384), seed: int = 0) -> jax.Array:
        """Normal numbers, without sign where the codec wants none."""
        x = np.random.default_rng(seed).normal(size=shape)
        return jnp.asarray(np.abs(x) if self.non_negative else x, jnp.float32)

    def eagerly(self, x: jax.Array) -> jax.Array:
        """Encoded and decoded, operation by operation."""
        return self.codec.decode(self.codec.encode(x))

    @functools.cached_property
    def through(self) -> Callable[[jax.Array], jax.Array]:
        """Encoded and decoded, compiled once for each shape."""
        return jax.jit(self.eagerly)


def shape_and_dtype(case: CodecCase) -> None:
    """Every shape comes back as it went, in float32: odd lengths are padded inside, never outside."""
    for shape in SHAPES:
        x = case.sample(shape)
        expect_like(case.through(x), x, "the decoded array", input=shape)
        expect_finite(case.through(x), "the decoded array", input=shape)


def zero_decodes_to_zero(case: CodecCase) -> None:
    """Zero is stored exactly, alone and among others: a coordinate without gradient must not drift."""
    for shape in ((7,), (16, 384)):
        x = case.sample(shape).at[..., 0].set(0.0)
        expect_equal(case.through(jnp.zeros_like(x)), jnp.zeros_like(x), "the decoded zeros", input=shape)
        got = case.through(x)[..., 0]
        expect_equal(got, jnp.zeros_like(got), "a zero among others", input=shape)


def error_is_bounded(case: CodecCase) -> None:
    """The error of normal numbers is below a fraction (0.15) of their size, in the mean square."""
    x = case.sample()
    error = float(jnp.sqrt(jnp.mean((case.through(x) - x) ** 2) / jnp.mean(x**2)))
    expect(
        error <= case.tolerance,
        "too coarse",
        input="normal numbers",
        got=error,
        expected=f"≤ {case.tolerance}",
    )


def any_magnitude(case: CodecCase) -> None:
    """Numbers of 1e-30 and 1e30 keep their relative error: a float16 scale is 0 or infinite there."""
    for size in (1e-30, 1e-12, 1e12, 1e30):
        x = case.sample() * jnp.float32(size)
        ratio = plain(case.through(x)) / size - plain(x) / size
        error = float(np.sqrt(np.mean(ratio**2) / np.mean((plain(x) / size) ** 2)))
        expect(
            error <= case.tolerance,
            "the error grows",
            input=f"numbers of {size:g}",
            got=error,
            expected=case.tolerance,
        )


def signs_are_kept(case: CodecCase) -> None:
    """No number comes back with the other sign: a second moment below zero is NaN under the root."""
    x, got = plain(case.sample()), plain(case.through(case.sample()))
    wrong = got * x < 0
    expect(not wrong.any(), "a sign flips", input=x[wrong][:3], got=got[wrong][:3], expected="the same sign")


def second_trip_changes_nothing(case: CodecCase) -> None:
    """What was decoded is stored exactly: steps that leave the state alone do not wear it down."""
    once = case.through(case.sample())
    got, want = plain(case.through(once)), plain(once)
    close = np.abs(got - want) <= 1e-5 * np.abs(want)
    expect(close.all(), "the second trip changes numbers", got=got[~close][:3], expected=want[~close][:3])


def stored_is_a_fixed_point(case: CodecCase) -> None:
    """What is stored keeps its tree, shapes and dtypes from step to step, and is arrays: a carry of ``scan``."""
    for shape in ((7,), (16, 384)):
        stored = case.codec.encode(case.sample(shape))
        again = case.codec.encode(case.codec.decode(stored))
        expect_like(again, stored, "what is stored", weak=True, input=shape)
        arrays = all(isinstance(x, jax.Array) for x in jax.tree.leaves(stored))
        expect(arrays, "a stored leaf is no array", got=[type(x) for x in jax.tree.leaves(stored)])


def jit_equals_eager(case: CodecCase) -> None:
    """Compiled and plain agree to a rounding, and shapes alone suffice (``eval_shape``)."""
    x = case.sample((5, 300))
    got, want = plain(case.through(x)), plain(case.eagerly(x))
    expect(
        np.mean(np.abs(got - want) > 1e-5) < 0.01, "compiled differs", got=got[:1, :5], expected=want[:1, :5]
    )
    expect_like(jax.eval_shape(case.through, x), x, "eval_shape")


def nan_is_not_hidden(case: CodecCase) -> None:
    """A NaN does not come back as a number: a broken state must be seen, not trained on."""
    x = case.sample((7,)).at[2].set(jnp.nan)
    got = plain(case.through(x))
    expect(
        np.isnan(got).any(), "a NaN becomes a number", input=plain(x), got=got, expected="NaN in its place"
    )


def smaller_than_float32(case: CodecCase) -> None:
    """What is stored takes no more room than float32: that is what a codec is for."""
    x = case.sample()
    stored = sum(leaf.nbytes for leaf in jax.tree.leaves(case.codec.encode(x)))
    expect(
        stored <= x.nbytes, "larger than float32", input=x.shape, got=stored, expected=f"≤ {x.nbytes} bytes"
    )


def rounds_without_bias(case: CodecCase) -> None:
    """With a key, rounding is right on average: the mean over 256 keys is nearer than one rounding."""
    x, encode = case.sample((4, 128)), case.codec.encode
    keys = jax.random.split(jax.random.key(0), 256)
    many = plain(jax.jit(jax.vmap(lambda k: case.codec.decode(encode(x, k))))(keys))
    if (many == many[0]).all():
        raise NotRun("the codec does not use its key")
    error = np.abs(many.mean(0) - plain(x))
    excess = error > 6.0 * many.std(0).max() / 16.0
    expect(not excess.any(), "biased", input=plain(x)[excess][:3], got=many.mean(0)[excess][:3])


_LAWS = (shape_and_dtype, zero_decodes_to_zero, error_is_bounded, any_magnitude, signs_are_kept)
_MORE = (second_trip_changes_nothing, stored_is_a_fixed_point, jit_equals_eager, nan_is_not_hidden)
codec_laws: dict[str, Callable[[Any], None]] = {
    law.__name__: law for law in (*_LAWS, *_MORE, smaller_than_float32, rounds_without_bias)
}


def check_codec(
    codec: Any,
    *,
    non_negative: bool = False,
    tolerance: float = 0.15,
    laws: Iterable[Any] | Mapping[str, Callable[[Any], None]] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    name: str = "codec",
) -> Report:
    """Hold every law against a codec, anything with ``encode(x, key=None)`` and ``decode(stored)``.

    ``non_negative`` gives it second moments only; ``tolerance`` is the relative root mean square error allowed on
    normal numbers. Returns a `Report`; raises a `ConformanceError` with all failures.
    """
    case = CodecCase(codec, non_negative, tolerance, dict(expected_failures or {}), name)
    return run_laws(case, choose_laws(laws, codec_laws, case.expected_failures)).raise_for_failures()
