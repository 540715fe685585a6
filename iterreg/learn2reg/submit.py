"""Register all cases of a task, in turn or in parallel, and zip the fields."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from iterreg.devices import pick_device
from iterreg.errors import (
    DeviceError,
    ExitCode,
    IterregError,
    OutOfMemoryError,
    OutputError,
    is_out_of_memory,
)
from iterreg.formats.learn2reg_files import check_format
from iterreg.io.choices import ReadingChoices, read_with, reading_choices
from iterreg.learn2reg.archive import write_zip
from iterreg.learn2reg.register import Outcome, Settings, config_of, field_path, register_case
from iterreg.learn2reg.task import Pair, Task, read_task
from iterreg.memory import limit_memory
from iterreg.processes import die_with_parent
from iterreg.progress import Progress, ProgressCallback, ignore_progress

ZIPPING = 0.99
"""Fraction of the work that is done when only the zip is left."""


def submit(
    task: Task, settings: Settings, out: Path, *, jobs: int = 1, progress: ProgressCallback
) -> tuple[tuple[Outcome, ...], bool]:
    """Register every case of a task and zip the fields.

    If a case fails, the others continue. Finished cases are verified and kept, so that the same
    call continues after an interruption.

    Args:
        task: the cases. If it has only some of the split's, the zip is written once the fields of
            all others exist.
        settings: how to register them.
        out: the zip.
        jobs: cases at a time, each in its own process with its share of the threads and memory.
        progress: called with the progress of all cases together.

    Returns:
        An outcome per case, in the task's order, and whether the zip was written.

    Raises:
        ConfigError, DeviceError, OutputError: every case would fail; raised before any begins.
    """
    check_format(settings.extension, settings.dtype)
    pick_device(settings.device)
    config_of(task, settings)
    if jobs < 1:
        raise DeviceError(f"jobs: expected at least 1, got {jobs}")
    if not os.path.isdir(out.parent):
        raise OutputError(f"{out}: cannot be written: the folder {out.parent} does not exist")
    _make_folder(settings.fields)
    jobs = min(jobs, len(task.pairs))
    if settings.threads is None and jobs > 1:
        settings = replace(settings, threads=max(1, (os.cpu_count() or 1) // jobs))
    if settings.memory_gb is not None:
        settings = replace(settings, memory_gb=settings.memory_gb / jobs)
    outcomes = (
        _in_turn(task, settings, progress)
        if jobs == 1
        else _in_parallel(task, settings, jobs, progress)
    )
    failed = any(not outcome.ok for outcome in outcomes)
    every = read_task(task.folder, task.split).pairs if task.is_part else task.pairs
    paths = [field_path(settings, pair) for pair in every]
    if failed or not all(os.path.isfile(path) for path in paths):
        return tuple(outcomes), False
    progress(Progress("zip", ZIPPING, "zipping"))
    write_zip(paths, out)
    return tuple(outcomes), True


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _kept_within(memory_gb: float) -> None:
    """Let the system keep a limit; one below what the libraries take is refused case by case."""
    with suppress(OutOfMemoryError):
        limit_memory(memory_gb)


def _in_turn(task: Task, settings: Settings, progress: ProgressCallback) -> list[Outcome]:
    if settings.memory_gb is not None:
        limit_memory(settings.memory_gb)
    remaining = _RemainingTime(len(task.pairs))
    outcomes = []
    for number, pair in enumerate(task.pairs):

        def of_case(event: Progress, case: str = pair.case, done: int = number) -> None:
            fraction = ZIPPING * (done + event.fraction) / len(task.pairs)
            progress(Progress(event.stage, fraction, f"{case}: {event.message}"))

        outcomes.append(_attempt(task, pair, settings, of_case))
        progress(remaining.event(outcomes))
    return outcomes


def _in_parallel(
    task: Task, settings: Settings, jobs: int, progress: ProgressCallback
) -> list[Outcome]:
    remaining = _RemainingTime(len(task.pairs))
    done: dict[str, Outcome] = {}
    with _workers(jobs, settings.memory_gb) as pool:
        running: dict[Future[Outcome], Pair] = {
            pool.submit(_attempt, task, pair, settings, ignore_progress): pair
            for pair in task.pairs
        }
        for future in as_completed(running):
            pair = running[future]
            try:
                outcome = future.result()
            except Exception as error:  # the process was killed, most often for its memory
                reason = f"its process ended ({error}); out of memory? try fewer --jobs"
                nan, code = float("nan"), ExitCode.OUT_OF_MEMORY
                outcome = Outcome(pair.case, False, reason, nan, nan, exit_code=code)
            done[pair.case] = outcome
            progress(remaining.event(list(done.values())))
    return [done[pair.case] for pair in task.pairs]


@contextmanager
def _workers(jobs: int, memory_gb: float | None) -> Iterator[ProcessPoolExecutor]:
    """Start worker processes by spawning (torch's threads do not survive a fork), and end them."""
    context = multiprocessing.get_context("spawn")
    how = reading_choices(), memory_gb
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin_worker, initargs=how)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    pool.shutdown()


def _begin_worker(choices: ReadingChoices, memory_gb: float | None) -> None:
    """Let a terminated worker remove its partial files, and none outlive the command.

    Args:
        choices: how files are read; a spawned process does not know those of its parent.
        memory_gb: the most that this process may use.
    """
    read_with(choices)
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        die_with_parent(parent.pid)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if memory_gb is not None:
        _kept_within(memory_gb)


def _attempt(task: Task, pair: Pair, settings: Settings, progress: ProgressCallback) -> Outcome:
    """Register a case; turn any error, but not Ctrl-C, into an outcome."""
    begun = time.perf_counter()
    try:
        return register_case(task, pair, settings, progress)
    except IterregError as error:
        reason, code = str(error), error.exit_code
    except Exception as error:  # one bad case must not stop the others
        reason = f"this is a bug in iterreg: {type(error).__name__}: {error}"[:300]
        code = ExitCode.ERROR
        if is_out_of_memory(error):
            code = ExitCode.OUT_OF_MEMORY
            reason = "out of memory; try fewer --jobs or a coarser levels.spacing_mm"
    seconds = time.perf_counter() - begun
    text = " ".join(reason.split())
    return Outcome(pair.case, False, text, seconds, float("nan"), exit_code=code)


class _RemainingTime:
    """Estimates the remaining time from the cases that were registered in this call."""

    def __init__(self, cases: int) -> None:
        self._cases = cases
        self._begun = time.perf_counter()

    def event(self, outcomes: list[Outcome]) -> Progress:
        """Make an event for the case that ended last."""
        fraction = ZIPPING * len(outcomes) / self._cases
        return Progress("case", fraction, self._message(outcomes))

    def _message(self, outcomes: list[Outcome]) -> str:
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
