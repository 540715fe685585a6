"""Register all cases of a task, in turn or in parallel, and zip the fields."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from iterreg.cohort.engine import Lost, Place, do_each, in_turn, require_place
from iterreg.cohort.remaining import FINISHING, RemainingTime
from iterreg.devices import pick_device
from iterreg.errors import (
    DeviceError,
    ExitCode,
    IterregError,
    OutputError,
    is_out_of_memory,
    was_interrupted,
)
from iterreg.formats.learn2reg_files import check_format
from iterreg.io.choices import ReadingChoices, read_with, reading_choices
from iterreg.learn2reg.archive import write_zip
from iterreg.learn2reg.register import Outcome, Settings, config_of, field_path, register_case
from iterreg.learn2reg.task import Pair, Task, read_task
from iterreg.memory import limit_memory_once
from iterreg.progress import Progress, ProgressCallback, ignore_progress


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
        ConfigError, DeviceError, OutputError, MissingDependencyError: every case would fail;
            raised before any begins.
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
    require_place(Place(jobs=jobs))
    if settings.threads is None and jobs > 1:
        settings = replace(settings, threads=max(1, (os.cpu_count() or 1) // jobs))
    if settings.memory_gb is not None:
        settings = replace(settings, memory_gb=settings.memory_gb / jobs)
        limit_memory_once(settings.memory_gb if jobs == 1 else None)
    outcomes = _register(task, settings, jobs, progress)
    failed = any(not outcome.ok for outcome in outcomes)
    every = read_task(task.folder, task.split).pairs if task.is_part else task.pairs
    paths = [field_path(settings, pair) for pair in every]
    if failed or not all(os.path.isfile(path) for path in paths):
        return tuple(outcomes), False
    progress(Progress("zip", FINISHING, "zipping"))
    write_zip(paths, out)
    return tuple(outcomes), True


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _register(
    task: Task, settings: Settings, jobs: int, progress: ProgressCallback
) -> list[Outcome]:
    """Register all cases on the engine of cohorts; one at a time in this process."""
    remaining = RemainingTime(len(task.pairs))
    done: dict[str, Outcome] = {}
    work = partial(_attempt, task, settings, reading_choices())
    if jobs == 1:
        attempt = partial(work, progress=_within(task, done, progress))
        answers = in_turn(task.pairs, attempt)
    else:
        answers = do_each(task.pairs, work, Place(jobs=jobs))
    with closing(answers):
        for pair, answer in answers:
            if isinstance(answer, Lost):
                nan, code = float("nan"), answer.exit_code
                answer = Outcome(pair.case, False, answer.reason, nan, nan, exit_code=code)
            done[pair.case] = answer
            progress(remaining.event(_words(answer), worked=not answer.kept))
    return [done[pair.case] for pair in task.pairs]


def _words(outcome: Outcome) -> str:
    how = f"done in {outcome.seconds:.1f} s" if outcome.ok else "failed"
    return f"{outcome.case}: {'kept' if outcome.kept else how}"


def _within(
    task: Task, done: Mapping[str, Outcome], progress: ProgressCallback
) -> ProgressCallback:
    """The progress inside a case, as a fraction of all cases."""

    def tell(event: Progress) -> None:
        case = task.pairs[len(done)].case
        fraction = FINISHING * (len(done) + event.fraction) / len(task.pairs)
        progress(Progress(event.stage, fraction, f"{case}: {event.message}"))

    return tell


def _attempt(
    task: Task,
    settings: Settings,
    choices: ReadingChoices,
    pair: Pair,
    progress: ProgressCallback = ignore_progress,
) -> Outcome:
    """Register a case; turn any error, but not Ctrl-C, into an outcome.

    A process of its own does not know the choices that hold in the one that started it.
    """
    begun = time.perf_counter()
    read_with(choices)
    try:
        limit_memory_once(settings.memory_gb)
        return register_case(task, pair, settings, progress)
    except IterregError as error:
        reason, code = str(error), error.exit_code
    except Exception as error:  # one bad case must not stop the others
        if was_interrupted(error):
            raise KeyboardInterrupt from error
        reason = f"this is a bug in iterreg: {type(error).__name__}: {error}"[:300]
        code = ExitCode.ERROR
        if is_out_of_memory(error):
            code = ExitCode.OUT_OF_MEMORY
            reason = "out of memory; try fewer --jobs or a coarser levels.spacing_mm"
    seconds = time.perf_counter() - begun
    text = " ".join(reason.split())
    return Outcome(pair.case, False, text, seconds, float("nan"), exit_code=code)
