"""The conformance kit on everything we export and on all of optax, with every accusation confirmed by a script.

    python benchmarks/conformance.py                        # all: about ten minutes; writes conformance.md and .json
    python benchmarks/conformance.py --parts optax --only adam lion huber_loss --output /tmp/some

A law that an item of optax breaks is reported only where a script of five lines of plain jax and optax, run here in
an empty namespace, shows the fault again. The scripts stand in conformance.json, one of each kind in conformance.md.
"""

import argparse
import json
import pathlib
import sys
import time
import warnings
from collections import defaultdict

import jax

jax.config.update("jax_num_cpu_devices", 8)
ROOT = pathlib.Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(pathlib.Path(__file__).parent)]

from conformance_scripts import EXEMPT, NEED_MORE, NOTES, claims_of, inputs_of, scripts  # noqa: E402

from jaxopt_lite.testing import LossCase, TransformationCase, loss_laws, transformation_laws  # noqa: E402
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
            if id(item) in seen or short in NEED_MORE or short == "smooth_labels":
                continue
            seen.add(id(item))
            claims = claims_of(name, item)
            if module == "optax.losses":
                yield LossCase(item, name=name, claims=claims, inputs=inputs_of(name))
            else:
                yield TransformationCase(item, name=name, claims=claims)


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
    began = time.perf_counter()
    report = run_laws(case, laws_of(case))
    row = {"item": case.name, "kind": case.kind, "passed": len(report.passed), "seconds": 0.0, "broken": {}}
    for r in report.failures:
        if r.law in EXEMPT.get(case.name.split(".")[-1], {}):
            continue
        script = confirmed(r.law, case) if confirm else None
        row["broken"][r.law] = {"detail": r.detail, "script": script}
    row["seconds"] = round(time.perf_counter() - began, 1)
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
    """law -> [(item, script)], confirmed ones only."""
    found = defaultdict(list)
    for row in rows:
        for law, evidence in row["broken"].items():
            if evidence["script"]:
                found[law].append((row["item"], evidence["script"]))
    return dict(sorted(found.items(), key=lambda pair: -len(pair[1])))


def counts(rows):
    reports = reported(rows)
    guilty = {item for pairs in reports.values() for item, _ in pairs}
    return len(rows), len(guilty), sum(map(len, reports.values())), len(reports)


def summary(results):
    """The short table, which README shows."""
    lines = ["| checked | items | items that break a law | laws broken, times |", "|---|---|---|---|"]
    for part, rows in results["rows"].items():
        broken = sum(bool(r["broken"]) for r in rows), sum(len(r["broken"]) for r in rows)
        if part == "optax":
            broken = counts(rows)[1:3]
        lines.append(f"| {part} | {len(rows)} | {broken[0]} | {broken[1]} |")
    return lines


def as_markdown(results):
    versions = results["versions"]
    lines = [
        "# Conformance", "",
        f"Written by `python benchmarks/conformance.py` (jax {versions['jax']}, optax {versions['optax']}, CPU): "
        f"{len(transformation_laws)} laws for transformations, {len(loss_laws)} for losses.", "",
        *summary(results), "",
    ]  # fmt: skip
    if results["mutants"]:
        caught, total = results["mutants"]["caught"], results["mutants"]["total"]
        lines += [f"Mutation: {caught} of {total} wrong items ({caught / total:.0%}) are caught by the law "
                  f"that names their fault; {len(results['mutants']['strays'])} break others too.", ""]  # fmt: skip
    for part, rows in results["rows"].items():
        if part == "ours":
            lines += [f"- ours: `{r['item']}` breaks {', '.join(r['broken'])}" for r in rows if r["broken"]]
    if "optax" in results["rows"]:
        lines += accusations(results["rows"]["optax"])
    return "\n".join(lines) + "\n"


def accusations(rows):
    lines = ["", "## What items of optax break, each confirmed by a script", ""]
    for law, pairs in reported(rows).items():
        kind = next(r["kind"] for r in rows if law in r["broken"] and r["item"] == pairs[0][0])
        about = (transformation_laws if kind == "transformation" else loss_laws)[law].__doc__.strip()
        items = ", ".join(f"`{item}`" for item, _ in pairs)
        lines += [
            f"### {law} ({len(pairs)})",
            "",
            about,
            *([f"Note: {NOTES[law]}"] if law in NOTES else []),
            "",
            items,
            "",
        ]
        lines += ["```python", pairs[0][1].rstrip(), "```", ""]
        lines += [f"`python -m jaxopt_lite.testing {pairs[0][0]} --laws {law} --details`", ""]
    return lines


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
        print(f"kill rate: {caught} of {total}, {caught / total:.0%}; strays: {strays or 'none'}", flush=True)
    for part, cases in (("ours", ours), ("optax", theirs)):
        if part in parts:
            rows = results["rows"].setdefault(part, [])
            measure(cases(), only, part == "optax", rows, save)
    save()
    pathlib.Path(f"{output}.md").write_text(as_markdown(results))
    print("\n".join(summary(results)))
    return results


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    p.add_argument("--only", nargs="*", default=[])
    p.add_argument("--output", type=pathlib.Path, default=OUTPUT)
    p.add_argument("--resume", action="store_true", help="keep the rows that the output holds already")
    options = p.parse_args()
    main(options.parts, options.only, options.output, options.resume)
