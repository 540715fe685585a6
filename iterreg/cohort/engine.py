"""The engine: does a piece of work for each of many items, wherever that may be.

It knows nothing about images. The work is a function that can be pickled, of a module; it answers
for its own errors. What the engine answers for is the death of the process that did it.

Source:
    The flow is that of ``concurrent.futures`` and of ``dask.distributed``; here no more items are
    handed out than there are workers, so that memory stays flat and a death has one suspect.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from iterreg.errors import ConfigError, ExitCode
from iterreg.processes import die_with_parent
from iterreg.versions import import_package

Item = TypeVar("Item")
Answer = TypeVar("Answer")

MOST_RETURNS = 2
"""How often an item goes back to the queue after the death of its worker."""

INSTALL = "pip install 'iterreg[cluster]'; --jobs 1 and --shard do without"


@dataclass(frozen=True)
class Lost:
    """An item whose worker died each time.

    Args:
        reason: one line.
        exit_code: what a command would end with.

    Example:
        >>> int(Lost("its process ended").exit_code)
        23
    """

    reason: str
    exit_code: ExitCode = ExitCode.CRASHED


Answers = Generator[tuple[Item, Answer | Lost], None, None]
"""Each item with its answer. Closing it ends the workers."""


@dataclass(frozen=True)
class Place:
    """Where work is done.

    Args:
        jobs: workers; None takes one a GPU where there are several, else one.
        scheduler: address of a running Dask scheduler; its workers do the work.
        cluster: ``slurm``, ``pbs``, ``lsf`` or ``sge``: each worker is a job of that queue.
        queue, account, walltime: of those jobs, as the queue wants them.
        memory_gb: of each of those jobs.
        threads: of each worker; None shares the processors.
        job_lines: more lines for the head of the job script.
        prologue: shell lines that the job runs first.

    Raises:
        ConfigError: values that exclude each other.

    Example:
        >>> Place(jobs=2).needs_dask, Place(jobs=1).needs_dask
        (True, False)
    """

    jobs: int | None = None
    scheduler: str | None = None
    cluster: str | None = None
    queue: str | None = None
    account: str | None = None
    walltime: str | None = None
    memory_gb: float | None = None
    threads: int | None = None
    job_lines: tuple[str, ...] = ()
    prologue: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.jobs is not None and self.jobs < 1:
            raise ConfigError(f"jobs: expected at least 1, got {self.jobs}")
        if self.scheduler is not None and self.cluster is not None:
            raise ConfigError(
                "scheduler, cluster: expected one of both, got both; a running scheduler has its "
                "own workers"
            )

    @property
    def needs_dask(self) -> bool:
        """Whether Dask does the work."""
        many = self.jobs is not None and self.jobs > 1
        return many or self.scheduler is not None or self.cluster is not None

    @property
    def workers(self) -> int:
        """Number of workers to start."""
        return self.jobs or 1


def require_place(place: Place) -> None:
    """Raise what is missing for a place, before any work begins.

    Raises:
        MissingDependencyError: Dask, or dask-jobqueue, is not installed.
    """
    if place.needs_dask:
        import_package("distributed", "more than one worker", INSTALL)
    if place.cluster is not None:
        import_package("dask_jobqueue", f"a {place.cluster} cluster", INSTALL)


def do_each(
    items: Iterable[Item], work: Callable[[Item], Answer], place: Place
) -> Answers[Item, Answer]:
    """Do the work for each item; answers come as they are ready.

    Args:
        items: can be pickled. They are drawn when a worker is free.
        work: can be pickled, and may be repeated for an item whose worker died.
        place: where.

    Yields:
        Each item once, with its answer, or :class:`Lost` after the worker died with it
        ``1 + MOST_RETURNS`` times.

    Raises:
        MissingDependencyError: the place needs a package that is not installed.
        CrashError: the scheduler is gone.

    Example:
        >>> from math import sqrt
        >>> list(do_each([4.0, 9.0], sqrt, Place(jobs=1)))
        [(4.0, 2.0), (9.0, 3.0)]
    """
    require_place(place)
    if place.needs_dask:
        from iterreg.cohort.cluster import on_dask

        return on_dask(items, work, place)
    return in_own_process(items, work)


def in_turn(items: Iterable[Item], work: Callable[[Item], Answer]) -> Answers[Item, Answer]:
    """Do the work in this process, which dies with it if it does.

    Example:
        >>> list(in_turn("ab", str.upper))
        [('a', 'A'), ('b', 'B')]
    """
    for item in items:
        yield item, work(item)


def in_own_process(items: Iterable[Item], work: Callable[[Item], Answer]) -> Answers[Item, Answer]:
    """Do the work in turn in one process beside this one, and start another when it dies."""
    waiting = iter(items)
    item: Item | None = None
    deaths = 0
    while True:
        with _one_worker() as pool:
            try:
                if deaths:
                    assert item is not None
                    yield item, pool.submit(work, item).result()
                    deaths = 0
                for following in waiting:
                    item = following
                    yield item, pool.submit(work, item).result()
                return
            except BrokenProcessPool as error:
                deaths += 1
                if deaths > MOST_RETURNS:
                    assert item is not None
                    yield item, lost(error)
                    deaths = 0


def lost(error: Exception) -> Lost:
    """Say that a worker died with its item each time."""
    words = " ".join(str(error).split())[:160]
    return Lost(
        f"its process ended {1 + MOST_RETURNS} times ({words}), most often because memory ran out: "
        "try fewer --jobs, or a coarser levels.spacing_mm"
    )


@contextmanager
def _one_worker() -> Iterator[ProcessPoolExecutor]:
    """A spawned process (threads do not survive a fork), ended with the block."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(1, mp_context=context, initializer=begin_worker)
    try:
        yield pool
    except BaseException:
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        raise
    pool.shutdown()


def begin_worker() -> None:
    """Let a terminated worker remove its partial files, and none outlive the command."""
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        die_with_parent(parent.pid)
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def threads_of(place: Place) -> int | None:
    """CPU threads of each worker on this machine: as chosen, else the processors shared evenly.

    Example:
        >>> threads_of(Place(jobs=2, threads=3))
        3
    """
    if place.threads is not None or place.scheduler is not None or place.cluster is not None:
        return place.threads
    return None if place.workers == 1 else max(1, (os.cpu_count() or 1) // place.workers)
