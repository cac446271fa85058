"""The mutants as one table, and what every module of laws is tested with."""

import jax

from jaxopt_lite.testing import loss_laws, mesh_laws, transformation_laws
from jaxopt_lite.testing.report import run_laws
from jaxopt_lite.testing.transformations import public_functions
from tests.testing import loss_mutants, mesh_mutants, mutants

TABLE = {name: (*entry, transformation_laws) for name, entry in mutants.MUTANTS.items()}
TABLE |= {f"loss {name}": (*entry, loss_laws) for name, entry in loss_mutants.MUTANTS.items()}


def named_in(module, kind="transformation"):
    """The mutants whose fault (the first law they are said to break) a law of this module names."""
    laws = loss_laws if kind == "loss" else transformation_laws
    own = public_functions(module)
    return [name for name, (_, broken, every) in TABLE.items() if every is laws and broken[0] in own]


def unbroken(module, kind="transformation"):
    """The laws of this module that no mutant breaks."""
    laws = loss_laws if kind == "loss" else transformation_laws
    broken = {law for _, names, every in TABLE.values() if every is laws for law in names}
    return set(public_functions(module)) - broken


def verdict(name):
    """The laws that a mutant is said to break, those that it breaks on one device, and the report."""
    make, broken, laws = TABLE[name]
    report = run_laws(make(), {law: laws[law] for law in laws if law not in mutants.MESH})
    return set(broken), {r.law for r in report.failures}, report


def breaks_exactly(name):
    """The mutant breaks the laws it is said to break and no other."""
    expected, got, report = verdict(name)
    assert got == expected, report


def kill_rate():
    """How many mutants are caught by the law that names their fault, of how many, and what else fires.

    Those that are wrong on eight devices only are counted too where there are eight.
    """
    found = {name: (TABLE[name][1][0], *verdict(name)[:2]) for name in TABLE}
    if len(jax.devices()) >= mesh_laws.DEVICES:
        found |= {n: (want[0], set(want), set(got)) for n, got, want, _ in mesh_mutants.verdicts() if want}
    strays = {name: sorted(got ^ want) for name, (_, want, got) in found.items() if got != want}
    return sum(first in got for first, _, got in found.values()), len(found), strays
