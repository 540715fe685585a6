"""Runs of the tests in forked processes, with a mutant in the package or without one.

The parent has imported the heavy packages and used none of them, so that no thread runs yet and a
child starts in no time. iterreg itself is imported by each child, with the mutant in it.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import importlib.abc
import importlib.util
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from _mutants import Mutant, mutated

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "numba", "scipy.ndimage", "SimpleITK", "nibabel", "click", "pytest", "cv2")


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
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            self._work(work)
        atexit.register(self.close)

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
            self.code = os.waitstatus_to_exitcode(status)
        elif self.seconds >= limit_s:
            os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.code = -1
        return self.code

    def close(self) -> None:
        """End it where it still runs, and remove its folder."""
        atexit.unregister(self.close)
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)


def run_pytest(folder: Path, paths: Sequence[str], plugin: object, *more: str) -> int:
    """Run test files; pytest's exit code."""
    import pytest

    given = ["-q", "-p", "no:cacheprovider", "--basetemp", str(folder / "tmp"), *more]
    return int(pytest.main([*given, *paths], plugins=[plugin]))


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
        return run_pytest(folder, files, Watch(tests, folder / "by"), "-x")

    return Child(work)


def outcome(child: Child, code: int) -> tuple[str, str]:
    """Whether a mutant was caught, and by what."""
    note = child.folder / "by"
    if code in (0, 5):
        return "survived", ""
    by = note.read_text() if note.exists() else "time limit" if code == -1 else "import"
    return "caught", by
