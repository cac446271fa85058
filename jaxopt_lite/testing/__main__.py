"""``python -m jaxopt_lite.testing optax.adam my_module:my_tx``: the matrix item × law; exit status 1 if one fails."""

import argparse
import sys
from collections.abc import Sequence

import jax

from jaxopt_lite.testing import matrix
from jaxopt_lite.testing.find import all_factories, named_case
from jaxopt_lite.testing.pytest_support import Case, laws_of
from jaxopt_lite.testing.report import ConformanceError, Report, choose_laws, run_laws

DEVICES = 8


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m jaxopt_lite.testing", description=__doc__)
    p.add_argument("items", nargs="*", metavar="ITEM", help="optax.adam, my_module:my_tx, a loss, a case")
    p.add_argument(
        "--all", action="append", default=[], metavar="MODULE", help="all its factories that build"
    )
    p.add_argument("--claims", default="", help="comma-separated claims that every item makes")
    p.add_argument("--laws", default="", help="comma-separated laws to run; all by default")
    p.add_argument("--json", action="store_true", help="print JSON")
    p.add_argument("--html", action="store_true", help="print an HTML page")
    p.add_argument("--details", action="store_true", help="print input, got and expected of every failure")
    return p


def use_eight_devices() -> None:
    """Split the CPU into eight devices for the mesh laws, unless JAX has started already."""
    try:
        jax.config.update("jax_num_cpu_devices", DEVICES)
    except RuntimeError:
        print("JAX has started: the mesh laws need its eight devices and may not run", file=sys.stderr)


def check(case: Case, laws: list[str] | None) -> Report:
    """A report that does not raise; laws of another kind of item are left out."""
    every = laws_of(case)
    chosen = None if laws is None else [law for law in laws if law in every]
    return run_laws(case, choose_laws(chosen, every, case.expected_failures))


def show(reports: Sequence[Report], details: bool) -> None:
    """Print the matrix, in colour where `rich` is installed, then the failures."""
    try:
        from rich.console import Console
    except ImportError:
        print(matrix.as_text(reports))
    else:
        console = Console()
        console.print(*matrix.as_tables(reports), sep="\n")
        console.print("\n".join(r.summary() for r in reports), highlight=False, markup=False)
    if details:
        print("\n\n".join(str(ConformanceError(r)) for r in reports if r.failures))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the laws on the items named; 1 if an item breaks one."""
    options = parser().parse_args(arguments)
    use_eight_devices()
    names = [*options.items, *(name for module in options.all for name in all_factories(module))]
    if not names:
        parser().error("name an item or give --all MODULE")
    claims, laws = ([x for x in text.split(",") if x] for text in (options.claims, options.laws))
    reports = []
    for name in names:
        print(f"checking {name}", file=sys.stderr)
        reports.append(check(named_case(name, claims), laws or None))
    if options.json or options.html:
        print(matrix.as_json(reports) if options.json else matrix.as_html(reports))
    else:
        show(reports, options.details)
    return int(any(r.failures for r in reports))


if __name__ == "__main__":
    sys.exit(main())
