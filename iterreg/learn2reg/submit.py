"""All cases of a task, one after the other or side by side; then the zip."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from iterreg.devices import pick_device
from iterreg.errors import DeviceError, IterregError, OutputError
from iterreg.formats.learn2reg_files import check_format
from iterreg.learn2reg.archive import write_zip
from iterreg.learn2reg.register import (
    Outcome,
    Report,
    Settings,
    config_of,
    field_path,
    register_case,
)
from iterreg.learn2reg.task import Pair, Task, read_task


def submit(
    task: Task, settings: Settings, out: Path, *, jobs: int = 1, report: Report
) -> tuple[tuple[Outcome, ...], bool]:
    """Register every case of a task and zip the fields.

    A case that fails is told of, and the others go on. Finished cases are verified and kept, so
    that the same call after an interruption goes on where it was.

    Args:
        task: its cases; where only some were asked for, the zip waits for the others' fields.
        settings: how.
        out: the zip.
        jobs: cases at a time, each in a process of its own.
        report: called with words and a fraction of the whole.

    Returns:
        An outcome a case, in the task's order, and whether the zip was written.

    Raises:
        ConfigError, DeviceError, OutputError: what would let every case fail, before any begins.
    """
    check_format(settings.extension, settings.dtype)
    pick_device(settings.device)
    config_of(task, settings)
    if jobs < 1:
        raise DeviceError(f"jobs: expected at least 1, got {jobs}")
    if not out.parent.is_dir():
        raise OutputError(f"{out}: cannot be written: the folder {out.parent} does not exist")
    _make_folder(settings.fields)
    jobs = min(jobs, len(task.pairs))
    if settings.threads is None and jobs > 1:
        settings = replace(settings, threads=max(1, (os.cpu_count() or 1) // jobs))
    outcomes = (
        _in_turn(task, settings, report) if jobs == 1 else _abreast(task, settings, jobs, report)
    )
    failed = any(not outcome.ok for outcome in outcomes)
    every = read_task(task.folder, task.split).pairs if task.is_part else task.pairs
    paths = [field_path(settings, pair) for pair in every]
    if failed or not all(path.is_file() for path in paths):
        return tuple(outcomes), False
    report("zipping", 0.99)
    write_zip(paths, out)
    return tuple(outcomes), True


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _in_turn(task: Task, settings: Settings, report: Report) -> list[Outcome]:
    clock = _Clock(len(task.pairs))
    outcomes = []
    for number, pair in enumerate(task.pairs):

        def inner(message: str, fraction: float, case: str = pair.case, at: int = number) -> None:
            report(f"{case}: {message}", 0.99 * (at + fraction) / len(task.pairs))

        outcomes.append(_attempt(task, pair, settings, inner))
        report(clock.told(outcomes), 0.99 * (number + 1) / len(task.pairs))
    return outcomes


def _abreast(task: Task, settings: Settings, jobs: int, report: Report) -> list[Outcome]:
    clock = _Clock(len(task.pairs))
    done: dict[str, Outcome] = {}
    with _workers(jobs) as pool:
        running: dict[Future[Outcome], Pair] = {
            pool.submit(_attempt, task, pair, settings, _silent): pair for pair in task.pairs
        }
        for future in as_completed(running):
            pair = running[future]
            try:
                outcome = future.result()
            except Exception as error:  # the process is gone: killed, most often for its memory
                told = f"its process ended ({error}); out of memory? try fewer --jobs"
                outcome = Outcome(pair.case, False, told, float("nan"), float("nan"))
            done[pair.case] = outcome
            report(clock.told(list(done.values())), 0.99 * len(done) / len(task.pairs))
    return [done[pair.case] for pair in task.pairs]


@contextmanager
def _workers(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that start clean (torch's threads do not survive a fork) and end with us."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_tidy_up_when_ended)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    pool.shutdown()


def _tidy_up_when_ended() -> None:
    """Let a worker that is told to end remove what it has begun to write."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _silent(message: str, fraction: float) -> None:
    """A worker reports when it is done."""


def _attempt(task: Task, pair: Pair, settings: Settings, report: Report) -> Outcome:
    """Register a case; a failure becomes its outcome, Ctrl-C does not."""
    begun = time.perf_counter()
    try:
        return register_case(task, pair, settings, report)
    except IterregError as error:
        told = " ".join(str(error).split())
    except Exception as error:  # one bad case must not end a night's work
        told = f"this is a bug in iterreg: {type(error).__name__}: {error}"[:300]
    seconds = time.perf_counter() - begun
    return Outcome(pair.case, False, " ".join(told.split()), seconds, float("nan"))


class _Clock:
    """Time left, from the cases that were registered in this call."""

    def __init__(self, cases: int) -> None:
        self._cases = cases
        self._begun = time.perf_counter()

    def told(self, outcomes: list[Outcome]) -> str:
        """A line about the case that ended last."""
        last, left = outcomes[-1], self._cases - len(outcomes)
        how = "kept" if last.kept else f"done in {last.seconds:.1f} s" if last.ok else "failed"
        worked = sum(not outcome.kept for outcome in outcomes)
        line = f"{last.case}: {how}; {left} to go"
        if left == 0 or worked == 0:
            return line
        seconds = (time.perf_counter() - self._begun) / worked * left
        return f"{line}, about {_minutes(seconds)}"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
