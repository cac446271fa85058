"""`check_schedule`: laws about functions ``step -> value``."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_lite.testing.compare import expect, expect_close, expect_equal
from jaxopt_lite.testing.report import NotRun, Report, choose_laws, run_laws

LAST = 2**31 - 1


@dataclass
class ScheduleCase:
    """A schedule with its length and, where given, its first and last value."""

    schedule: Callable[[Any], Any]
    steps: int
    start: float | None = None
    end: float | None = None
    holds: bool = False
    expected_failures: Mapping[str, str] = field(default_factory=dict)
    name: str = "schedule"

    def moments(self) -> np.ndarray:
        """Steps before, at and after every interesting place."""
        near = np.unique(np.linspace(0, self.steps, 9).astype(np.int64))
        late = [self.steps + 1, 2 * self.steps + 1, 2**24 + 1, LAST]
        return np.unique([s for s in (*near, *late) if s <= LAST]).astype(np.int32)


def scalar_float32(case: ScheduleCase) -> None:
    """One float32 number a step: an integer or another shape changes the updates that it multiplies."""
    kind = jax.typeof(case.schedule(jnp.int32(1)))
    ok = kind.shape == () and kind.dtype == jnp.float32
    expect(ok, "wrong kind of value", input="step 1", got=kind, expected="float32[]")


def finite_at_every_step(case: ScheduleCase) -> None:
    """Finite at 0, between, and long after the end, up to step 2³¹ − 1."""
    for step in case.moments():
        value = float(case.schedule(jnp.int32(step)))
        expect(np.isfinite(value), "not finite", input=f"step {step}", got=value, expected="a number")


def jit_equals_eager(case: ScheduleCase) -> None:
    """The compiled schedule is the plain one, and one compilation serves all steps."""
    compiled = jax.jit(case.schedule)
    for step in case.moments():
        got, want = compiled(jnp.int32(step)), case.schedule(jnp.int32(step))
        expect_close(got, want, "the compiled value", rtol=1e-6, input=f"step {step}")


def vmap_equals_loop(case: ScheduleCase) -> None:
    """``vmap`` over steps is a loop over them: curves are drawn so."""
    steps = jnp.asarray(case.moments())
    want = np.array([float(case.schedule(s)) for s in steps])
    expect_close(jax.vmap(case.schedule)(steps), want, "the value under vmap", rtol=1e-6)


def any_kind_of_integer(case: ScheduleCase) -> None:
    """Python ints, NumPy ints and int32 arrays of the same step give the same value."""
    step = max(case.steps // 3, 1)
    want = case.schedule(jnp.int32(step))
    for kind in (step, np.int64(step), np.int32(step), jnp.uint32(step)):
        expect_close(case.schedule(kind), want, "the value", rtol=1e-6, input=type(kind).__name__)


def exact_at_the_ends(case: ScheduleCase) -> None:
    """[start or end given] The first and last values are the ones asked for, to the last bit."""
    if case.start is None and case.end is None:
        raise NotRun("needs start= or end=")
    for step, value in ((0, case.start), (case.steps, case.end)):
        if value is not None:
            got = float(case.schedule(jnp.int32(step)))
            expect_equal(got, float(np.float32(value)), f"the value at step {step}")


def holds_after_the_end(case: ScheduleCase) -> None:
    """[holds=True] After the last step the value stays: a run that is continued must not jump."""
    if not case.holds:
        raise NotRun("needs holds=True")
    want = case.schedule(jnp.int32(case.steps))
    for step in (case.steps + 1, 2 * case.steps + 1, LAST):
        expect_equal(case.schedule(jnp.int32(step)), want, f"the value at step {step}")


LAWS = (scalar_float32, finite_at_every_step, jit_equals_eager, vmap_equals_loop)
schedule_laws: dict[str, Callable[[Any], None]] = {
    law.__name__: law for law in (*LAWS, any_kind_of_integer, exact_at_the_ends, holds_after_the_end)
}


def check_schedule(
    schedule: Callable[[Any], Any],
    *,
    steps: int,
    start: float | None = None,
    end: float | None = None,
    holds: bool = False,
    laws: Iterable[Any] | Mapping[str, Callable[[Any], None]] | None = None,
    expected_failures: Mapping[str, str] | None = None,
) -> Report:
    """Hold every law against a schedule of ``steps`` steps.

    ``start`` and ``end`` are the exact values at step 0 and at ``steps``; ``holds`` says that the last value stays.
    Returns a `Report`; raises a `ConformanceError` with all failures.

    >>> report = check_schedule(lambda step: jnp.float32(0.1), steps=100, start=0.1, holds=True)
    >>> print(report.summary())
    <lambda>: 7 passed, 0 failed, 0 declared, 0 not run
    """
    name = getattr(schedule, "__name__", "schedule")
    case = ScheduleCase(schedule, steps, start, end, holds, dict(expected_failures or {}), name)
    return run_laws(case, choose_laws(laws, schedule_laws, case.expected_failures)).raise_for_failures()
