"""The conformance kit on everything we export and on all of optax, with every accusation confirmed by a script.

    python benchmarks/conformance.py                        # all: a quarter of an hour; writes conformance.md, .json
    python benchmarks/conformance.py --parts optax --only adam lion huber_loss --output /tmp/some

A law that an item of optax breaks is reported only where a script of a few lines of plain jax and optax, run here in
an empty namespace, shows the fault again. conformance_verdicts.py says which laws show a fault and which a difference
of convention, as judged by reading scripts; only faults are counted. All scripts stand in conformance.json, one of
each kind in conformance.md.
"""

import argparse
import json
import pathlib
import sys
import time
import warnings
from collections import Counter, defaultdict

import jax

jax.config.update("jax_num_cpu_devices", 8)
ROOT = pathlib.Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(pathlib.Path(__file__).parent)]

from conformance_scripts import claims_of, inputs_of, scripts  # noqa: E402
from conformance_verdicts import CONVENTION, EXEMPT, FAULT, UNJUDGED, verdict  # noqa: E402

from jaxopt_lite.testing import (  # noqa: E402
    LossCase,
    TransformationCase,
    loss_laws,
    transformation_laws,
    trees,
)
from jaxopt_lite.testing.find import all_factories, resolve  # noqa: E402
from jaxopt_lite.testing.report import run_laws  # noqa: E402
from tests.testing import exports, mutation  # noqa: E402


def laws_of(case):
    every = transformation_laws if isinstance(case, TransformationCase) else loss_laws
    if "." in case.name:  # not ours
        return every
    return {law: every[law] for law in exports.laws_for(case.name)}


def ours():
    """Everything we export, with the claims that tests make too."""
    yield from (exports.transformation(name) for name in exports.checked())
    yield from (exports.loss(name) for name in exports.checked_losses())


def theirs():
    """Every public factory of optax and optax.contrib that builds with defaults, and every loss."""
    seen = set()
    for module in ("optax", "optax.contrib", "optax.losses"):
        for name in all_factories(module):
            item, short = resolve(name), name.split(".")[-1]
            if id(item) in seen or short == "smooth_labels":
                continue
            seen.add(id(item))
            claims = claims_of(name, item)
            if module == "optax.losses":
                yield LossCase(item, name=name, claims=claims, inputs=inputs_of(name))
            else:
                yield TransformationCase(item, name=name, claims=claims, params=params_of(short))


def params_of(short):
    """Parameters of what takes matrices only, as documented; else the kit's own."""
    return trees.from_shapes({"a": (4, 3), "b": (3, 4)}) if short == "scale_by_muon" else None


def confirmed(law, case):
    """The first script that shows the fault again, or None."""
    for script in scripts(law, case):
        try:
            exec(compile(script, "<confirmation>", "exec"), {"__name__": "confirmation"})
        except Exception:  # the assertion did not hold, or the script does not fit this item
            continue
        return script
    return None


def check(case, confirm):
    """Verdicts on one item as plain data."""
    report = run_laws(case, laws_of(case))
    row = {"item": case.name, "kind": case.kind, "passed": len(report.passed), "broken": {}}
    failures = report.failures
    if failures and failures[0].law == "structure_kept" and failures[0].detail.startswith("raised"):
        failures = failures[:1]  # no step can be taken at all: one fault, not one for each law
    for r in failures:
        if r.law in EXEMPT.get(case.name.split(".")[-1], {}):
            continue
        script = confirmed(r.law, case) if confirm else None
        row["broken"][r.law] = {"detail": r.detail, "script": script}
    return row


def measure(cases, only, confirm, rows, save):
    """One row after the other, saved as it comes; those that are there already are kept."""
    done = {row["item"] for row in rows}
    for case in cases:
        if case.name in done or (only and case.name.split(".")[-1] not in only):
            continue
        rows.append(check(case, confirm))
        broken = ", ".join(rows[-1]["broken"]) or "none"
        print(f"{case.name}: {rows[-1]['passed']} passed, broken: {broken}", flush=True)
        save()


def reported(rows):
    """grade -> law -> [(item, script, reason)], confirmed accusations only, the most frequent law first."""
    found = {grade: defaultdict(list) for grade in HEADS}
    for row in rows:
        for law, evidence in row["broken"].items():
            if evidence["script"]:
                grade, reason = verdict(law, resolve(row["item"]), evidence["script"])
                found[grade][law].append((row["item"], evidence["script"], reason))
    return {g: dict(sorted(laws.items(), key=lambda pair: -len(pair[1]))) for g, laws in found.items()}


def counted(part, rows):
    """How many items break a law, and how many laws are broken in all; of optax's, faults only."""
    broken = {r["item"]: len(r["broken"]) for r in rows if r["broken"]}
    if part == "optax":
        broken = Counter(item for pairs in reported(rows)[FAULT].values() for item, _, _ in pairs)
    return len(broken), sum(broken.values())


def summary(results):
    """The short table, which README shows."""
    lines = ["| checked | items | items that break a law | laws broken, times |", "|---|---|---|---|"]
    for part, rows in results["rows"].items():
        items, times = counted(part, rows)
        lines.append(f"| {part} | {len(rows)} | {items} | {times} |")
    return lines


def mutation_line(mutants):
    caught, total, strays = mutants["caught"], mutants["total"], mutants["strays"]
    others = (
        f"; {len(strays)} break other laws than listed" if strays else " and break no law but those listed"
    )
    rate = f"{caught} of {total} wrong items ({caught / total:.0%})"
    return f"Mutation: {rate} are caught by the law that names their fault{others}."


def as_markdown(results):
    versions = results["versions"]
    lines = [
        "# Conformance", "",
        f"Written by `python benchmarks/conformance.py` (jax {versions['jax']}, optax {versions['optax']}, CPU): "
        f"{len(transformation_laws)} laws for transformations, {len(loss_laws)} for losses.", "",
        *summary(results), "",
    ]  # fmt: skip
    lines += [mutation_line(results["mutants"]), ""] if results["mutants"] else []
    for row in results["rows"].get("ours", ()):
        lines += [f"- ours: `{row['item']}` breaks {', '.join(row['broken'])}"] if row["broken"] else []
    if "optax" in results["rows"]:
        lines += accusations(results["rows"]["optax"])
    return "\n".join(lines) + "\n"


HEADS = {
    FAULT: "## Faults of optax's items, each confirmed by a script",
    CONVENTION: "## Differences of convention: confirmed, judged to be no fault, not counted",
    UNJUDGED: "## Confirmed, not judged yet, not counted",
}


def accusations(rows):
    lines = []
    for grade, laws in reported(rows).items():
        lines += ["", HEADS[grade], ""] if laws else []
        for law, found in laws.items():
            lines += accusation(law, found, rows, grade)
    lines += ["", "## Not held against an item", ""]
    lines += [f"- `{item}`, {law}: {reason}" for item, laws in EXEMPT.items() for law, reason in laws.items()]
    unconfirmed = [(r["item"], law) for r in rows for law, e in r["broken"].items() if not e["script"]]
    lines += ["", "## Broken here, but no short script shows it: not reported", ""]
    return lines + [f"- `{item}`, {law}" for item, law in unconfirmed]


def accusation(law, found, rows, grade):
    """The law, what was judged of it, who breaks it, and a script for each judgement, at most two."""
    item, script, _ = found[0]
    kind = next(r["kind"] for r in rows if r["item"] == item)
    about = (transformation_laws if kind == "transformation" else loss_laws)[law].__doc__.strip()
    reasons = " or ".join(dict.fromkeys(reason for _, _, reason in found))
    lines = [f"### {law} ({len(found)})", "", about, f"Judged: {grade}: {reasons}.", ""]
    lines += [", ".join(f"`{item}`" for item, _, _ in found), "", "```python", script.rstrip(), "```", ""]
    return [*lines, f"`python -m jaxopt_lite.testing {item} --laws {law} --details`", ""]


OUTPUT = pathlib.Path(__file__).with_suffix("")
PARTS = ("mutants", "ours", "optax")


def main(parts=PARTS, only=(), output=OUTPUT, resume=False):
    """Run, print the summary, and write ``output``.md and .json."""
    warnings.simplefilter("ignore")
    path = pathlib.Path(f"{output}.json")
    versions = {m: __import__(m).__version__ for m in ("jax", "optax")}
    results = json.loads(path.read_text()) if resume else {"versions": versions, "mutants": None, "rows": {}}
    save = lambda: path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    if "mutants" in parts and not results["mutants"]:
        caught, total, strays = mutation.kill_rate()
        results["mutants"] = {"caught": caught, "total": total, "strays": strays}
        print(mutation_line(results["mutants"]), strays or "", flush=True)
    for part, cases in (("ours", ours), ("optax", theirs)):
        if part in parts:
            rows = results["rows"].setdefault(part, [])
            measure(cases(), only, part == "optax", rows, save)
    save()
    pathlib.Path(f"{output}.md").write_text(as_markdown(results))
    print("\n".join(summary(results)))
    print(f"{time.process_time() / 60:.0f} minutes of CPU time")
    return results


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    p.add_argument("--only", nargs="*", default=[])
    p.add_argument("--output", type=pathlib.Path, default=OUTPUT)
    p.add_argument("--resume", action="store_true", help="keep the rows that the output holds already")
    options = p.parse_args()
    main(options.parts, options.only, options.output, options.resume)
