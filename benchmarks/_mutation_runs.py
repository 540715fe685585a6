"""Runs of the tests in forked processes: which test executes which line, and who notices a mutant.

The parent has imported the heavy packages and used none of them, so that no thread runs yet and a
child starts in no time. iterreg itself is imported by each child, with the mutant in it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.abc
import importlib.util
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from _mutants import Mutant, mutated

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "numba", "scipy.ndimage", "SimpleITK", "nibabel", "click", "pytest", "cv2")
SECONDS, TIMES = 30.0, 5.0
"""A mutant may take so many seconds, and so many times what its tests took in the first run."""

Lines = dict[str, dict[int, list[str]]]
"""File -> line -> tests that execute it."""


def import_heavy(jobs: int) -> None:
    """Import what every test needs, with as many threads as a worker may use."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // jobs))
    for name in HEAVY:
        if importlib.util.find_spec(name.partition(".")[0]):
            importlib.import_module(name)


class Child:
    """A forked process that runs tests and leaves its answer in a folder."""

    def __init__(self, work: Callable[[Path], int]) -> None:
        """Fork."""
        self.folder = Path(tempfile.mkdtemp(prefix="mutation-"))
        self.begun = time.perf_counter()
        self.pid = os.fork()
        if self.pid == 0:
            self._work(work)

    def _work(self, work: Callable[[Path], int]) -> None:
        code = 99
        try:
            os.setsid()
            os.chdir(ROOT)
            out = os.open(self.folder / "output", os.O_WRONLY | os.O_CREAT)
            os.dup2(out, 1)
            os.dup2(out, 2)
            code = work(self.folder)
            sys.stdout.flush()
        finally:
            os._exit(code)

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.perf_counter() - self.begun

    def ended(self, limit_s: float) -> int | None:
        """Its exit code, -1 where it ran past the limit and was ended, None while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if self.seconds < limit_s:
            return None
        os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        return -1

    def close(self) -> None:
        """Remove its folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _pytest(folder: Path, paths: Sequence[str], plugin: object, *more: str) -> int:
    import pytest

    given = ["-q", "-p", "no:cacheprovider", "--basetemp", str(folder / "tmp"), *more]
    return int(pytest.main([*given, *paths], plugins=[plugin]))


# Coverage -------------------------------------------------------------------------------------


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
        if report.outcome != "passed":
            self.failed.add(report.nodeid)

    def pytest_runtest_logfinish(self) -> None:
        """Between tests."""
        self.coverage.switch_context("")


def _measure(files: Sequence[str], folder: Path) -> int:
    import coverage

    measured = coverage.Coverage(data_file=str(folder / "data"), source=[str(ROOT / "iterreg")])
    probe = Probe(measured)
    measured.start()
    code = _pytest(folder, files, probe)
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


def coverage_tables(cache: Path) -> dict[str, Any]:
    """For each test file what its tests execute; measured again where a file has changed."""
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    others = [p for p in (ROOT / "tests").rglob("*.py") if p not in tests]
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
    cache.write_text(json.dumps({"package": package, "files": files}))
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


# Mutants --------------------------------------------------------------------------------------


class Planted(importlib.abc.MetaPathFinder, SourceFileLoader):
    """Imports the package as it is, but for one module with a fault."""

    def __init__(self, mutant: Mutant) -> None:
        """Take the fault."""
        SourceFileLoader.__init__(self, mutant.module, mutant.file)
        self.mutant = mutant

    def find_spec(
        self, name: str, path: Any, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module with the fault."""
        if name != self.mutant.module:
            return None
        return importlib.util.spec_from_file_location(name, self.mutant.file, loader=self)

    def get_code(self, fullname: str) -> CodeType:
        """Its code, which no cache knows."""
        return compile(mutated(self.mutant), self.mutant.file, "exec")


class Watch:
    """Runs some tests, the quickest first, and notes the one that fails."""

    def __init__(self, tests: Sequence[str], note: Path) -> None:
        """Take the tests and where to leave a note."""
        self.rank = {test: k for k, test in enumerate(tests)}
        self.note = note

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Keep those tests, in that order."""
        items[:] = sorted((i for i in items if i.nodeid in self.rank), key=self._rank)

    def _rank(self, item: Any) -> int:
        return self.rank[item.nodeid]

    def pytest_runtest_logreport(self, report: Any) -> None:
        """The first failure."""
        if report.failed and not self.note.exists():
            self.note.write_text(report.nodeid)


def start(mutant: Mutant, tests: Sequence[str]) -> Child:
    """A child that runs tests against a mutant."""

    def work(folder: Path) -> int:
        sys.meta_path.insert(0, Planted(mutant))
        files = sorted({test.partition("::")[0] for test in tests})
        return _pytest(folder, files, Watch(tests, folder / "by"), "-x")

    return Child(work)


def outcome(child: Child, code: int) -> tuple[str, str]:
    """Whether a mutant was caught, and by what."""
    note = child.folder / "by"
    if code in (0, 5):
        return "survived", ""
    by = note.read_text() if note.exists() else "time limit" if code == -1 else "import"
    return "caught", by
