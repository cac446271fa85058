"""Run laws on a case, collect what breaks, and show it: `Report`, `ConformanceError`."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

PASSED, FAILED, NOT_RUN = "passed", "failed", "not run"
DECLARED, NOT_BROKEN = "failed as declared", "passed, declared to fail"
MARKS = {PASSED: "ok", FAILED: "FAIL", NOT_RUN: "-", DECLARED: "declared", NOT_BROKEN: "FAIL"}


class LawBroken(AssertionError):
    """What a law raises: the input that broke it, what came out, and what should have."""

    def __init__(self, message: str, *, input: Any = None, got: Any = None, expected: Any = None):
        parts = [message] + [
            f"{label}: {value}"
            for label, value in (("input", input), ("got", got), ("expected", expected))
            if value is not None
        ]
        super().__init__("\n".join(parts))


class NotRun(Exception):
    """What a law raises when it cannot speak about this case here; the text says what it would need."""


@dataclass(frozen=True)
class Result:
    """One law's verdict on one item."""

    law: str
    status: str
    detail: str = ""
    about: str = field(default="", repr=False)


@dataclass(frozen=True)
class Report:
    """All verdicts on one item; ``print(report)`` shows them as a table (`rich` renders it in colour)."""

    item: str
    results: tuple[Result, ...]

    @property
    def passed(self) -> tuple[Result, ...]:
        """The laws that hold."""
        return self._with(PASSED)

    @property
    def failures(self) -> tuple[Result, ...]:
        """The laws broken without being declared, and those declared to break that hold."""
        return self._with(FAILED, NOT_BROKEN)

    @property
    def declared(self) -> tuple[Result, ...]:
        """The laws broken as ``expected_failures`` says."""
        return self._with(DECLARED)

    @property
    def not_run(self) -> tuple[Result, ...]:
        """The laws that could not speak about this item here, each with the reason."""
        return self._with(NOT_RUN)

    def _with(self, *statuses: str) -> tuple[Result, ...]:
        return tuple(r for r in self.results if r.status in statuses)

    def summary(self) -> str:
        """One line of counts."""
        counts = f"{len(self.passed)} passed, {len(self.failures)} failed, {len(self.declared)} declared"
        return f"{self.item}: {counts}, {len(self.not_run)} not run"

    def raise_for_failures(self) -> "Report":
        """Return the report, or raise `ConformanceError` when it has failures."""
        if self.failures:
            raise ConformanceError(self)
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"item": self.item, "results": [asdict(r) for r in self.results]}

    def __str__(self) -> str:
        width = max((len(r.law) for r in self.results), default=0)
        lines = [self.summary()]
        for r in self.results:
            first = r.detail.splitlines()[0] if r.detail else ""
            lines.append(f"  {r.law:<{width}}  {MARKS[r.status]:<8}  {first}".rstrip())
        return "\n".join(lines)

    def __rich__(self) -> Any:
        from rich.table import Table

        table = Table("law", "verdict", "detail", title=self.summary())
        colours = {PASSED: "green", NOT_RUN: "dim", DECLARED: "yellow"}
        for r in self.results:
            table.add_row(r.law, MARKS[r.status], r.detail, style=colours.get(r.status, "red"))
        return table


class ConformanceError(AssertionError):
    """All failures of one item together; ``.report`` holds every verdict."""

    def __init__(self, report: Report):
        self.report = report
        blocks = [f"{report.item} breaks {len(report.failures)} of {len(report.results)} laws"]
        for r in report.failures:
            about = f" ({r.about})" if r.about else ""
            blocks.append(f"{r.law}{about}\n" + _indent(r.detail))
        super().__init__("\n\n".join(blocks))


def run_laws(case: Any, laws: Mapping[str, Callable[[Any], None]]) -> Report:
    """Hold every law against the case; whatever a law or the item raises becomes that law's failure."""
    return Report(case.name, tuple(_verdict(case, name, law) for name, law in laws.items()))


def _verdict(case: Any, name: str, law: Callable[[Any], None]) -> Result:
    about = (law.__doc__ or "").strip().split("\n")[0]
    reason = case.expected_failures.get(name)
    try:
        law(case)
    except NotRun as skipped:
        return Result(name, NOT_RUN, str(skipped), about)
    except Exception as error:
        if reason is not None:
            return Result(name, DECLARED, f"{reason}\n{_describe(error)}", about)
        return Result(name, FAILED, _describe(error), about)
    if reason is not None:
        return Result(name, NOT_BROKEN, f"declared to fail ({reason}), but the law holds", about)
    return Result(name, PASSED, "", about)


def _describe(error: Exception) -> str:
    if isinstance(error, LawBroken):
        return str(error)
    text = str(error).strip() or "no message"
    return f"raised {type(error).__name__}: " + text[:600]


def _indent(text: str) -> str:
    return "\n".join("    " + line for line in text.splitlines())


def choose_laws(
    laws: Iterable[Any] | Mapping[str, Callable[[Any], None]] | None,
    every: Mapping[str, Callable[[Any], None]],
    expected_failures: Mapping[str, str],
) -> dict[str, Callable[[Any], None]]:
    """All laws, or those named; a mapping or a function adds laws of one's own."""
    if laws is None:
        chosen = dict(every)
    elif isinstance(laws, Mapping):
        chosen = dict(laws)
    else:
        names = [laws] if isinstance(laws, str) else list(laws)
        _known("laws", [n for n in names if isinstance(n, str)], every)
        chosen = {n: every[n] if isinstance(n, str) else n for n in names if isinstance(n, str)}
        chosen.update({law.__name__: law for law in names if callable(law)})
    _known("expected_failures", expected_failures, {**every, **chosen})
    return chosen


def _known(argument: str, names: Iterable[str], every: Mapping[str, Any]) -> None:
    unknown = sorted(set(names) - set(every))
    if unknown:
        raise ValueError(f"{argument} names {', '.join(unknown)}; the laws are {', '.join(every)}")
