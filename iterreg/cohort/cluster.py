"""The engine on Dask: local worker processes, a running scheduler, or the jobs of a queue."""

from __future__ import annotations

import itertools
import logging
import os
import queue
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TypeVar

from iterreg.cohort.engine import INSTALL, MOST_RETURNS, Answers, Lost, Place, lost, threads_of
from iterreg.errors import ConfigError, CrashError, DeviceError
from iterreg.versions import import_package

Item = TypeVar("Item")
Answer = TypeVar("Answer")

AHEAD = 16
"""Items handed out per worker. Dask keeps those that no worker has begun in the scheduler's queue,
so that a worker waits for nobody and yet has one item alone, which is to blame if it dies."""

POLL_S = 1.0
"""How often the workers are counted."""

NO_PORT = "127.0.0.1:0"
"""Where a scheduler serves the pages that nobody asked for: any free port of this machine. By
default it would be port 8787, of which there is one."""

CONNECT_S = 20.0
"""How long to wait for a scheduler."""

CLUSTERS = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "lsf": "LSFCluster", "sge": "SGECluster"}
"""Queues, and the classes of dask-jobqueue that know them."""

JOB_MEMORY_GB = 8.0
"""Of a job of a queue, if nothing else is asked for."""

DASK_SETTINGS: Mapping[str, Any] = {
    # A case that kills its worker is to be tried so often again, and no more.
    "distributed.scheduler.allowed-failures": MOST_RETURNS,
    # A kernel that keeps the interpreter busy is no sign of death: the system tells of deaths.
    "distributed.scheduler.worker-ttl": None,
    "distributed.scheduler.worker-saturation": 1.0,
    # The system's limit of memory holds, and a case fails by it alone.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.comm.timeouts.connect": f"{CONNECT_S:.0f}s",
}


def on_dask(
    items: Iterable[Item], work: Callable[[Item], Answer], place: Place
) -> Answers[Item, Answer]:
    """Do the work on Dask's workers; see :func:`iterreg.cohort.engine.do_each`."""
    with _client(place) as client:
        yield from _flow(client, items, work)


def _flow(
    client: Any, items: Iterable[Item], work: Callable[[Item], Answer]
) -> Answers[Item, Answer]:
    """Keep every worker busy, and hand out more items before the last are done."""
    waiting, run, count = iter(items), uuid.uuid4().hex[:8], 0
    running: dict[Any, Item] = {}
    ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
    room, asked = 1, -POLL_S
    batch: list[Item] = []
    while True:
        if time.monotonic() - asked > POLL_S:
            room, asked = AHEAD * max(1, _count_threads(client)), time.monotonic()
        if len(running) <= room // 2:
            batch = list(itertools.islice(waiting, room - len(running)))
            keys = [f"case-{run}-{count + k}" for k in range(len(batch))]
            count += len(batch)
            futures = client.map(work, batch, key=keys, pure=False) if batch else []
            running.update(zip(futures, batch, strict=True))
            for future in futures:
                future.add_done_callback(ended.put)
            del futures
        if not running:
            return
        done = _drained(ended)
        for future, answer in zip(done, _answers(client, done), strict=True):
            yield running.pop(future), answer
            future.release()


def _drained(ended: queue.SimpleQueue[Any]) -> list[Any]:
    """All futures that are done; waits a while for the first."""
    found = []
    with suppress(queue.Empty):
        found.append(ended.get(timeout=POLL_S))
        while True:
            found.append(ended.get_nowait())
    return found


def _answers(client: Any, done: Sequence[Any]) -> list[Any]:
    """The answers of futures, fetched together if no worker died with one."""
    if all(future.status == "finished" for future in done):
        with suppress(Exception):
            return list(client.gather(list(done)))
    return [_answer(client, future) for future in done]


def _count_threads(client: Any) -> int:
    """Count the cases that the workers can do at a time: one a thread of Dask's."""
    try:
        return sum(client.nthreads().values())
    except (OSError, TimeoutError) as error:
        raise _gone() from error


def _gone() -> CrashError:
    return CrashError("the Dask scheduler is gone; run the same command to continue")


def _answer(client: Any, future: Any) -> Any:
    """The answer of a future that is done."""
    from distributed import KilledWorker

    try:
        return _waited_for(client, future)
    except KilledWorker as error:
        return lost(_said_by(error))
    except CrashError:
        raise
    except Exception as error:  # the work answers for its own errors, so this one is Dask's
        words = " ".join(f"{type(error).__name__}: {error}".split())
        return Lost(f"Dask could not run it: {words[:200]}")


def _waited_for(client: Any, future: Any) -> Any:
    """The answer; if its worker died before it was fetched, the item is done once more."""
    while True:
        if future.cancelled() or client.status != "running":
            raise _gone()
        with suppress(TimeoutError):
            return future.result(timeout=CONNECT_S)


def _said_by(error: Any) -> Exception:
    """Dask's error in few words; its own text is a paragraph."""
    worker = getattr(getattr(error, "last_worker", None), "address", "unknown")
    return RuntimeError(f"last on worker {worker}")


@contextmanager
def _client(place: Place) -> Iterator[Any]:
    """A client of the place's scheduler."""
    dask = import_package("dask", "more than one worker", INSTALL)
    distributed = import_package("distributed", "more than one worker", INSTALL)
    for name in ("distributed", "tornado", "asyncio", "bokeh"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with ExitStack() as stack:
        stack.enter_context(dask.config.set({**DASK_SETTINGS, "logging.distributed": "critical"}))
        if place.scheduler is not None:
            address: Any = place.scheduler
        else:
            address = stack.enter_context(_cluster(place))
        try:
            client = distributed.Client(address, timeout=CONNECT_S, set_as_default=False)
        except (OSError, TimeoutError) as error:
            raise DeviceError(f"{place.scheduler}: no Dask scheduler answers there") from error
        except ValueError as error:
            raise ConfigError(
                f"scheduler: expected an address such as tcp://host:8786, got {place.scheduler}"
            ) from error
        stack.callback(_close, client)
        yield client


def _close(client: Any) -> None:
    with suppress(Exception):
        client.close(timeout=2)


@contextmanager
def _cluster(place: Place) -> Iterator[Any]:
    """A cluster of its own: ended, with all workers, after the block."""
    if place.cluster is None:
        cluster = _local_cluster(place)
    else:
        cluster = queue_cluster(place)
        cluster.adapt(minimum_jobs=place.workers, maximum_jobs=place.workers)
    try:
        yield cluster
    finally:
        with suppress(Exception):
            cluster.close(timeout=10)


def _local_cluster(place: Place) -> Any:
    """Worker processes on this machine, each with its own GPU if there are several."""
    from distributed import Nanny, Scheduler, SpecCluster

    specs = {
        name: {"cls": Nanny, "options": options}
        for name, options in enumerate(worker_options(place, count_gpus()))
    }
    scheduler = {
        "cls": Scheduler,
        "options": {"host": "127.0.0.1", "dashboard": False, "dashboard_address": NO_PORT},
    }
    # distributed has no types.
    make: Any = SpecCluster
    return make(workers=specs, scheduler=scheduler, name="iterreg", silence_logs=50)


def worker_options(place: Place, gpus: int) -> list[dict[str, Any]]:
    """The options of each local worker.

    Args:
        place: how many, and with how many threads.
        gpus: of this machine; with several, workers are dealt out to them in turn.

    Example:
        >>> [w["env"]["CUDA_VISIBLE_DEVICES"] for w in worker_options(Place(jobs=3), 2)]
        ['0', '1', '0']
        >>> worker_options(Place(jobs=2), 1)[0]["nthreads"]
        1
    """
    threads = threads_of(place) or os.cpu_count() or 1
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    names = visible or [str(number) for number in range(gpus)]
    options = []
    for number in range(place.workers):
        env = {"OMP_NUM_THREADS": str(threads)}
        if len(names) > 1:
            env["CUDA_VISIBLE_DEVICES"] = names[number % len(names)]
        options.append(
            {
                "nthreads": 1,
                "memory_limit": 0,
                "env": env,
                "host": "127.0.0.1",
                "dashboard": False,
                "silence_logs": logging.CRITICAL,
            }
        )
    return options


def count_gpus() -> int:
    """Count the CUDA devices of this machine, without a context on any."""
    import torch

    return torch.cuda.device_count()


def queue_cluster(place: Place) -> Any:
    """A cluster whose workers are jobs of a queue; ``job_script()`` of it is what is submitted.

    Args:
        place: with ``cluster``.

    Raises:
        MissingDependencyError: dask-jobqueue is not installed.
        ConfigError: the queue wants something that was not given.
    """
    jobqueue = import_package("dask_jobqueue", f"a {place.cluster} cluster", INSTALL)
    assert place.cluster is not None
    options = {
        "cores": place.threads or 1,
        "processes": 1,
        "memory": f"{place.memory_gb or JOB_MEMORY_GB:g}GB",
        # One pair at a time, with all cores of the job; the last of two options holds.
        "worker_extra_args": ["--nthreads", "1"],
        "job_extra_directives": list(place.job_lines),
        "job_script_prologue": list(place.prologue),
        "scheduler_options": {"dashboard": False, "dashboard_address": NO_PORT},
    }
    if place.queue is not None:
        options["queue"] = place.queue
    if place.walltime is not None:
        options["walltime"] = place.walltime
    if place.account is not None:
        options["project" if place.cluster in ("lsf", "sge") else "account"] = place.account
    try:
        return getattr(jobqueue, CLUSTERS[place.cluster])(**options)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"cluster {place.cluster}: {' '.join(str(error).split())}") from error
