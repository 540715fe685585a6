"""Mutation test: break one line at a time, and see whether a test notices.

    pip install coverage
    python benchmarks/mutation.py [--only MODULE] [--count N] [--seed S] [--jobs 2]
    python benchmarks/mutation.py --replay ROWS.json

Mutants of ``_mutants.py`` are drawn at random, the same ones for the same seed and source, one of a
line before any second one. For each, the tests that execute its line run until one fails. A
mutant that takes much longer than its tests did is caught. The first run measures which test
executes which line and keeps that in ``--coverage FILE``; only files that changed are measured
again. The working tree is never changed: an import hook puts the mutant in place.

Prints a table by module and the survivors; ``--json`` writes a row for each mutant, and
``--replay`` runs the survivors of such a file again. ``mutation_equivalent.txt`` lists mutants that
cannot change any result; they are counted apart. Tests that start a process of their own run
the unbroken package there, so what only they notice counts as survived. Compiled loops
(``numba``) are not mutated, and neither are numbers that a module names in capitals.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from _mutants import Mutant, mutants, sample  # noqa: E402
from _mutation_coverage import Coverage, coverage_tables  # noqa: E402
from _mutation_runs import import_heavy, outcome, start  # noqa: E402

DEFAULT = (
    *("pair", "inputs", "partition", "optimize", "energy", "transform", "formats"),
    *("metrics", "outputs", "evaluation"),
)
"""Modules and packages of iterreg; those that a layout lacks are passed over."""

EQUIVALENT = Path(__file__).parent / "mutation_equivalent.txt"


def main() -> None:
    """Draw mutants, run their tests, print what survived."""
    options = _options()
    import_heavy(options.jobs)
    every = [m for name, file in _modules(options.only or DEFAULT) for m in mutants(name, file)]
    if options.replay:
        rows = json.loads(options.replay.read_text())
        drawn = list(_again(every, [row for row in rows if row["status"] == "survived"]))
    else:
        drawn = sample(every, options.count, options.seed)
    # An end from outside leaves through SystemExit, so that no child stays behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    coverage = Coverage(coverage_tables(options.coverage, options.tests))
    for test in coverage.failed:
        print(f"left out, does not pass without a mutant: {test}", file=sys.stderr)
    print(f"{len(drawn)} of {len(every)} mutants, {options.jobs} at a time", file=sys.stderr)
    rows = _run(drawn, coverage, options.jobs)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    _print(rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", action="append", metavar="MODULE", help="such as optimize.solver")
    parser.add_argument("--count", type=int, default=100, help="mutants to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="mutants that run at a time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a row for each mutant")
    parser.add_argument("--replay", type=Path, metavar="ROWS", help="run these survivors again")
    parser.add_argument("--tests", default="test_*.py", metavar="GLOB", help="files of tests/")
    cache = Path(tempfile.gettempdir()) / "iterreg-mutation-coverage.json"
    parser.add_argument("--coverage", type=Path, metavar="FILE", default=cache)
    return parser.parse_args()


def _modules(names: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Dotted name and file of every module of some packages, compiled loops left out."""
    for file in sorted((ROOT / "iterreg").rglob("*.py")):
        dotted = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        inner = dotted.removeprefix("iterreg.")
        wanted = any(inner == n or inner.startswith(n + ".") for n in map(_inner, names))
        if wanted and "njit" not in file.read_text("utf-8"):
            yield dotted, file


def _inner(name: str) -> str:
    return name.removeprefix("iterreg.")


def _again(every: Sequence[Mutant], rows: Sequence[dict[str, Any]]) -> Iterator[Mutant]:
    """The mutants of some rows, though their lines may have moved."""
    for row in rows:
        key = (row["where"], row["kind"], row["before"], row["after"])
        same = [m for m in every if (m.where, m.kind, m.before, m.after) == key]
        if same:
            yield min(same, key=lambda m: abs(m.line - row["line"]))
        else:
            print(f"no longer there: {row['where']}: {row['before']}", file=sys.stderr)


def _run(drawn: Sequence[Mutant], coverage: Coverage, jobs: int) -> list[dict[str, Any]]:
    """A row for each mutant, in the order drawn."""
    known = _equivalent()
    waiting = [(k, m, coverage.tests(m)) for k, m in enumerate(drawn)]
    rows: dict[int, dict[str, Any]] = {}
    running: list[tuple[int, Mutant, list[str], Any]] = []
    while waiting or running:
        while waiting and len(running) < jobs:
            k, mutant, tests = waiting.pop(0)
            key = (mutant.where, mutant.before, mutant.after)
            if key in known:
                rows[k] = _row(mutant, "equivalent", known[key])
            elif not tests:
                rows[k] = _row(mutant, "survived", "no test runs it")
            else:
                running.append((k, mutant, tests, start(mutant, tests)))
        time.sleep(0.05)
        for one in list(running):
            k, mutant, tests, child = one
            code = child.ended(coverage.limit_s(tests))
            if code is None:
                continue
            running.remove(one)
            rows[k] = _row(mutant, *outcome(child, code)) | {
                "tests": len(tests),
                "seconds": round(child.seconds, 1),
            }
            child.close()
            print(f"{len(rows)}/{len(drawn)} {_line(rows[k])}", file=sys.stderr)
    return [rows[k] for k in sorted(rows)]


def _row(mutant: Mutant, status: str, by: str) -> dict[str, Any]:
    row = dataclasses.asdict(mutant) | {"where": mutant.where, "status": status, "by": by}
    return row | {"file": str(Path(mutant.file).relative_to(ROOT))}


def _equivalent() -> dict[tuple[str, str, str], str]:
    """Where, before and after of the mutants that change nothing, with the reason."""
    known = {}
    lines = EQUIVALENT.read_text("utf-8").splitlines() if EQUIVALENT.exists() else []
    for line in lines:
        if line.strip() and not line.startswith("#"):
            fault, _, reason = line.rpartition("  # ")
            where, _, change = fault.partition(": ")
            before, _, after = change.partition(" => ")
            known[where, before.strip(), after.strip()] = reason.strip()
    return known


def _line(row: dict[str, Any]) -> str:
    change = " => ".join(" ".join(row[side].split())[:100] for side in ("before", "after"))
    by = f" [{row['by']}]" if row["by"] else ""
    return f"{row['status']:<10} {row['file']}:{row['line']}  {row['kind']}: {change}{by}"


def _print(rows: Sequence[dict[str, Any]]) -> None:
    """The table by module, and the survivors."""
    counts = Counter((row["module"], row["status"]) for row in rows)
    modules = sorted({row["module"] for row in rows})
    width = max((len(m) for m in modules), default=6)
    titles = ("mutants", "caught", "survived", "equivalent", "share survived")
    print(f"{'module':<{width}}  " + "  ".join(titles))
    totals = Counter(row["status"] for row in rows)
    lines = [(m, Counter({s: n for (k, s), n in counts.items() if k == m})) for m in modules]
    for name, own in [*lines, ("all", totals)]:
        judged = own["caught"] + own["survived"]
        share = f"{100 * own['survived'] / judged:.1f} %" if judged else "-"
        cells = (judged + own["equivalent"], own["caught"], own["survived"], own["equivalent"])
        line = (f"{cell:>{len(t)}}" for cell, t in zip((*cells, share), titles, strict=True))
        print(f"{name:<{width}}  " + "  ".join(line))
    for row in rows:
        if row["status"] == "survived":
            print(f"{_line(row)}\n    {row['where']}: {row['before']} => {row['after']}")


if __name__ == "__main__":
    main()
