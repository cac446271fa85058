"""Schedules: pure functions ``step -> value``, the step counted from 0, the value float32.

Exact at both ends for up to 2³¹ steps: lengths are compared as integers, and a value between ``a`` and ``b`` is
``w·a + v·b``, where w runs from exactly 1 to exactly 0 and v = 1 − w is computed on its own. Like
transformations they are values: they print as their call, compare, hash and pickle, so that
``adamw(warmup_cosine(...))`` does too. Values may be arrays; lengths are Python integers.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_lite import checks
from jaxopt_lite.call import Call, bind, rebuild

LAST = 2**31 - 1  # the last step an int32 can count


class Schedule:
    """A function of the step that prints as its call and compares by it."""

    def __init__(self, value: Callable[[jax.Array], Any], call: Call):
        self.value, self.call = value, call

    def __call__(self, step: Any) -> jax.Array:
        """The value at ``step`` (an integer, or an array of any shape)."""
        step = jnp.asarray(step)
        if jnp.issubdtype(step.dtype, jnp.integer):
            step = step.astype(jnp.promote_types(step.dtype, jnp.int32))  # room for every length
        return jnp.asarray(self.value(step), jnp.float32)

    def __repr__(self) -> str:
        return repr(self.call)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and self.call == other.call

    def __hash__(self) -> int:
        return hash(self.call)

    def __reduce__(self):
        return rebuild, (self.call.make, self.call.args, self.call.kwargs)


def schedule(factory: Callable) -> Callable[..., Schedule]:
    """Decorator for a factory that returns a function ``step -> value``, to make that function a value itself.

    >>> @schedule
    ... def halving(init_value):
    ...     return lambda step: init_value * 0.5**step
    >>> halving(8.0), halving(8.0)(2).item(), halving(8.0) == halving(init_value=8.0)
    (halving(init_value=8.0), 2.0, True)
    """

    @functools.wraps(factory)
    def make(*args, **kwargs):
        call = bind(make, args, kwargs)
        return Schedule(factory(*args, **kwargs), call)

    return make


def _length(name: str, argument: str, value: Any, least: int = 0) -> int:
    """A length in steps as a Python int (at most ``LAST``, since none counts further), else an error."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: {argument} is {value!r}, expected an integer number of steps")
    checks.between(name, argument, value, least, math.inf)
    return min(int(value), LAST)


def _way(step: jax.Array, steps: int) -> tuple[jax.Array, jax.Array]:
    """What is left and what is done of ``steps``, as fractions; both from integers, so that neither loses digits."""
    done = jnp.clip(step, 0, steps)
    left = (steps - done).astype(jnp.float32) / max(steps, 1)
    return left, jnp.where(done >= steps, 1.0, done.astype(jnp.float32) / max(steps, 1))


def _wave(left: jax.Array, done: jax.Array) -> tuple[jax.Array, jax.Array]:
    """½(1 + cos πx) and ½(1 − cos πx) at x = ``done``, as squared sines: no digit is lost where they vanish."""
    return jnp.sin(jnp.pi / 2 * left) ** 2, jnp.sin(jnp.pi / 2 * done) ** 2


def _between(weights: tuple[jax.Array, jax.Array], start: Any, end: Any) -> jax.Array:
    """w·start + v·end; a side of weight 0 does not count, whatever it is."""
    w, v, start, end = (jnp.asarray(x, jnp.float32) for x in (*weights, start, end))
    return jnp.where(v == 0, start, jnp.where(w == 0, end, w * start + v * end))


@schedule
def constant(value):
    """``value`` at every step."""
    return lambda step: jnp.broadcast_to(jnp.asarray(value, jnp.float32), step.shape)


@schedule
def linear(init_value, end_value, steps: int):
    """From ``init_value`` at step 0 to ``end_value`` at ``steps`` in equal steps, then constant.

    >>> s = linear(1.0, 0.0, 4)
    >>> [s(i).item() for i in (0, 1, 4, 9)]
    [1.0, 0.75, 0.0, 0.0]
    """
    steps = _length("linear", "steps", steps)
    return lambda step: _between(_way(step, steps), init_value, end_value)


@schedule
def polynomial(init_value, end_value, power, steps: int):
    """``end + (init − end)·(1 − x)ᵖ`` with x = step/steps, then constant; p = ``power`` > 0."""
    steps = _length("polynomial", "steps", steps)
    checks.between("polynomial", "power", power, 0, math.inf, open_low=True)

    def value(step):
        w = _way(step, steps)[0] ** power
        return _between((w, 1 - w), init_value, end_value)

    return value


@schedule
def exponential(init_value, decay_rate, steps: int):
    """``init_value · decay_rate^(step/steps)``: multiplied by ``decay_rate`` every ``steps`` steps, for ever."""
    steps = _length("exponential", "steps", steps, least=1)

    def value(step):
        step = jnp.maximum(step, 0)
        whole, part = step // steps, step % steps  # integers: exact at every multiple
        rate = jnp.asarray(decay_rate, jnp.float32)
        return init_value * rate ** whole.astype(jnp.float32) * rate ** (part.astype(jnp.float32) / steps)

    return value


@schedule
def cosine(init_value, steps: int, *, end_value=0.0):
    """Half a cosine wave from ``init_value`` down to ``end_value`` at ``steps``, then constant.

    ``end + (init − end)·½(1 + cos(π·step/steps))``. Source: Loshchilov, Hutter, "SGDR", ICLR 2017,
    arXiv:1608.03983, without restarts.
    """
    steps = _length("cosine", "steps", steps)
    return lambda step: _between(_wave(*_way(step, steps)), init_value, end_value)


@schedule
def inverse_sqrt(peak_value, warmup_steps: int):
    """Linear to ``peak_value`` at w = ``warmup_steps``, then ``peak_value · √(w/step)``.

    With w = 0 there is no warm-up: ``peak_value / √max(step, 1)``. Source: Vaswani et al., "Attention Is All You
    Need", NeurIPS 2017, arXiv:1706.03762, section 5.3.
    """
    warmup_steps = _length("inverse_sqrt", "warmup_steps", warmup_steps)
    least = max(warmup_steps, 1)

    def value(step):
        decayed = jnp.sqrt(least / jnp.maximum(step, least).astype(jnp.float32))
        return peak_value * _way(step, warmup_steps)[1] * decayed

    return value


@schedule
def piecewise_constant(init_value, boundaries_and_values: Mapping[int, Any]):
    """``init_value``, and from step b on ``boundaries_and_values[b]``.

    The values are the values themselves (optax's function of a similar name takes factors).

    >>> s = piecewise_constant(1.0, {10: 0.5, 20: 0.1})
    >>> [round(s(i).item(), 6) for i in (9, 10, 20)]
    [1.0, 0.5, 0.1]
    """
    for boundary in boundaries_and_values:
        _length("piecewise_constant", "boundary", boundary)

    def value(step):
        result = jnp.broadcast_to(jnp.asarray(init_value, jnp.float32), step.shape)
        for boundary in sorted(b for b in boundaries_and_values if b <= LAST):
            result = jnp.where(step >= boundary, boundaries_and_values[boundary], result)
        return result

    return value


@schedule
def one_cycle(peak_value, steps: int, *, pct_start=0.3, div_factor=25.0, final_div_factor=1e4):
    """Up along a cosine from ``peak/div_factor`` to the peak at ``pct_start·steps``, then down for the rest.

    The last value is ``peak/(div_factor·final_div_factor)``. Source: Smith, Topin, "Super-Convergence",
    arXiv:1708.07120; factors as in optax and PyTorch.
    """
    steps = _length("one_cycle", "steps", steps)
    checks.between("one_cycle", "pct_start", pct_start, 0, 1)
    first = int(pct_start * steps)
    low, end = peak_value / div_factor, peak_value / div_factor / final_div_factor

    def value(step):
        rising = _between(_wave(*_way(step, first)), low, peak_value)
        falling = _between(_wave(*_way(step - first, steps - first)), peak_value, end)
        return jnp.where(step < first, rising, falling)

    return value


@schedule
def warmup_cosine(peak_value, *, warmup_steps: int, decay_steps: int, init_value=0.0, end_value=0.0):
    """Linear from ``init_value`` to the peak at ``warmup_steps``, cosine to ``end_value`` at ``decay_steps``.

    ``decay_steps`` counts the warm-up in, as in optax.

    >>> s = warmup_cosine(1.0, warmup_steps=2, decay_steps=6)
    >>> [round(s(i).item(), 3) for i in range(8)]
    [0.0, 0.5, 1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """
    warmup_steps = _length("warmup_cosine", "warmup_steps", warmup_steps)
    decay_steps = _length("warmup_cosine", "decay_steps", decay_steps, least=warmup_steps + 1)

    def value(step):
        rising = _between(_way(step, warmup_steps), init_value, peak_value)
        falling = _wave(*_way(step - warmup_steps, decay_steps - warmup_steps))
        return jnp.where(step < warmup_steps, rising, _between(falling, peak_value, end_value))

    return value


@schedule
def warmup_stable_decay(
    peak_value, *, warmup_steps: int, stable_steps: int, decay_steps: int, init_value=0.0, end_value=0.0
):
    """Linear up for ``warmup_steps``, flat for ``stable_steps``, linear down for ``decay_steps``, then constant.

    Source: Hu et al., "MiniCPM", arXiv:2404.06395, with the linear decay of Hägele et al., arXiv:2405.18392.
    """
    name = "warmup_stable_decay"
    warmup_steps = _length(name, "warmup_steps", warmup_steps)
    start = min(warmup_steps + _length(name, "stable_steps", stable_steps), LAST)
    decay_steps = _length(name, "decay_steps", decay_steps)

    def value(step):
        rising = _between(_way(step, warmup_steps), init_value, peak_value)
        falling = _between(_way(step - start, decay_steps), peak_value, end_value)
        flat = jnp.asarray(peak_value, jnp.float32)
        return jnp.where(step < warmup_steps, rising, jnp.where(step < start, flat, falling))

    return value


@schedule
def join(schedules: Sequence[Callable[[jax.Array], Any]], boundaries: Sequence[int]):
    """``schedules[0]`` before ``boundaries[0]``, then ``schedules[1]``, …; each counts from its own start.

    >>> join([constant(2.0), linear(1.0, 0.0, 2)], [3])(jnp.arange(6)).tolist()
    [2.0, 2.0, 2.0, 1.0, 0.5, 0.0]
    """
    if len(boundaries) != len(schedules) - 1:
        raise ValueError(
            f"join: {len(schedules)} schedules and {len(boundaries)} boundaries, expected one boundary fewer"
        )
    for boundary in boundaries:
        _length("join", "boundary", boundary)
    if list(boundaries) != sorted(boundaries):
        raise ValueError(f"join: boundaries are {list(boundaries)}, expected increasing steps")

    def value(step):
        result = jnp.asarray(schedules[0](step), jnp.float32)
        for start, following in zip(boundaries, schedules[1:], strict=True):
            if start <= LAST:
                result = jnp.where(step >= start, following(step - start), result)
        return result

    return value


__all__ = [
    "Schedule",
    "constant",
    "cosine",
    "exponential",
    "inverse_sqrt",
    "join",
    "linear",
    "one_cycle",
    "piecewise_constant",
    "polynomial",
    "schedule",
    "warmup_cosine",
    "warmup_stable_decay",
]
