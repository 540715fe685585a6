"""Which test executes which line: the tests run once under ``coverage``, a context for each."""

from __future__ import annotations

import functools
import hashlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _mutants import Mutant
from _mutation_runs import ROOT, Child, run_pytest

SECONDS, TIMES = 30.0, 5.0
"""A mutant may take so many seconds, and so many times what its tests took in the first run."""


class Probe:
    """Tells coverage which test runs, and notes each test's outcome, seconds and fixtures."""

    def __init__(self, coverage: Any) -> None:
        """Take the running measurement."""
        self.coverage = coverage
        self.seconds: dict[str, float] = defaultdict(float)
        self.failed: set[str] = set()
        self.fixtures: dict[str, list[str]] = {}

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """What is executed from here on belongs to the test's set-up."""
        self.coverage.switch_context(f"{nodeid}|setup")

    def pytest_runtest_setup(self, item: Any) -> None:
        """Empty the caches of the test's module: what one test leaves there, others use too."""
        for value in vars(item.module).values():
            if isinstance(value, functools._lru_cache_wrapper):
                value.cache_clear()
        found = item._fixtureinfo.name2fixturedefs
        shared = [n for n, definitions in found.items() if definitions[-1].scope != "function"]
        self.fixtures[item.nodeid] = shared

    def pytest_runtest_call(self, item: Any) -> None:
        """The test itself."""
        self.coverage.switch_context(f"{item.nodeid}|call")

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Add up."""
        self.seconds[report.nodeid] += report.duration
        if report.failed:
            self.failed.add(report.nodeid)

    def pytest_runtest_logfinish(self) -> None:
        """Between tests."""
        self.coverage.switch_context("")


def _measure(files: Sequence[str], folder: Path) -> int:
    import coverage

    measured = coverage.Coverage(data_file=str(folder / "data"), source=[str(ROOT / "iterreg")])
    probe = Probe(measured)
    measured.start()
    code = run_pytest(folder, files, probe)
    measured.stop()
    data = measured.get_data()
    tables: dict[str, Any] = {
        name: {"seconds": {}, "failed": [], "fixtures": {}, "lines": {}} for name in files
    }
    for test, seconds in probe.seconds.items():
        table = tables[test.partition("::")[0]]
        table["seconds"][test] = round(seconds, 3)
        table["fixtures"][test] = probe.fixtures.get(test, [])
        table["failed"] += [test] * (test in probe.failed)
    for source in data.measured_files():
        inside = str(Path(source).relative_to(ROOT))
        for line, contexts in data.contexts_by_lineno(source).items():
            for context in filter(None, contexts):
                table = tables[context.partition("::")[0]]
                table["lines"].setdefault(inside, {}).setdefault(line, []).append(context)
    (folder / "tables.json").write_text(json.dumps(tables))
    return code


def coverage_tables(cache: Path, chosen: str = "test_*.py") -> dict[str, Any]:
    """For each test file what its tests execute; measured again where a file has changed."""
    tests = sorted((ROOT / "tests").rglob(chosen))
    others = [p for p in (ROOT / "tests").rglob("*.py") if not p.name.startswith("test_")]
    package = _digest([*(ROOT / "iterreg").rglob("*.py"), *others])
    kept = json.loads(cache.read_text()) if cache.exists() else {}
    known = kept["files"] if kept.get("package") == package else {}
    digests = {str(p.relative_to(ROOT)): _digest([p]) for p in tests}
    stale = [
        name for name, digest in digests.items() if known.get(name, {}).get("digest") != digest
    ]
    if stale:
        print(f"measuring which lines the tests of {len(stale)} files execute", file=sys.stderr)
        child = Child(functools.partial(_measure, stale))
        while (code := child.ended(float("inf"))) is None:
            time.sleep(0.2)
        if not (child.folder / "tables.json").exists():
            output = (child.folder / "output").read_text()[-3000:]
            raise SystemExit(f"the tests ended with {code}:\n{output}")
        fresh = json.loads((child.folder / "tables.json").read_text())
        child.close()
        known |= {name: table | {"digest": digests[name]} for name, table in fresh.items()}
    files = {name: known[name] for name in digests}
    cache.write_text(json.dumps({"package": package, "files": known}))
    return files


def _digest(paths: Sequence[Path]) -> str:
    whole = hashlib.sha256()
    for path in sorted(paths):
        whole.update(path.read_bytes())
    return whole.hexdigest()


class Coverage:
    """Which tests execute a line."""

    def __init__(self, tables: dict[str, Any]) -> None:
        """Put the tables of all test files together; tests that fail anyway are left out."""
        self.seconds: dict[str, float] = {}
        self._lines: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        self.failed = [test for table in tables.values() for test in table["failed"]]
        for table in tables.values():
            self.seconds |= table["seconds"]
            users = defaultdict(set)
            for test, fixtures in table["fixtures"].items():
                for fixture in fixtures:
                    users[fixture].add(test)
            for file, lines in table["lines"].items():
                for line, contexts in lines.items():
                    for context in contexts:
                        test, _, phase = context.rpartition("|")
                        found = {test}
                        if phase == "setup":  # a shared fixture is set up for its first user alone
                            found.update(*(users[f] for f in table["fixtures"].get(test, [])))
                        self._lines[file][int(line)] |= found

    def tests(self, mutant: Mutant) -> list[str]:
        """The tests that execute a mutant, the quickest first; all of a module's at its top."""
        lines = self._lines[str(Path(mutant.file).relative_to(ROOT))]
        first, last = mutant.lines
        chosen = range(first, last + 1) if mutant.scope else list(lines)
        found: set[str] = set().union(*(lines[line] for line in chosen if line in lines))
        found -= set(self.failed)
        return sorted(found, key=lambda test: (self.seconds.get(test, 0.0), test))

    def limit_s(self, tests: Sequence[str]) -> float:
        """How long a mutant may take."""
        return SECONDS + TIMES * sum(self.seconds.get(test, 0.0) for test in tests)
