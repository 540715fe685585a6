"""The engine on Dask: local worker processes, a running scheduler, or the jobs of a queue."""

from __future__ import annotations

import itertools
import logging
import queue
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TypeVar

from iterreg.cohort.engine import INSTALL, MOST_RETURNS, Answers, Lost, Place, lost
from iterreg.cohort.workers import own_cluster
from iterreg.errors import ConfigError, CrashError, DeviceError
from iterreg.versions import import_package

Item = TypeVar("Item")
Answer = TypeVar("Answer")

AHEAD = 16
"""Items handed out per worker. Dask keeps those that no worker has begun in the scheduler's queue,
so that a worker waits for nobody and yet has one item alone, which is to blame if it dies."""

POLL_S = 1.0
"""How often the workers are counted."""

PATIENCE_S = 60.0
"""After so long without a worker a warning says so."""

CONNECT_S = 20.0
"""How long to wait for a scheduler."""

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
    patience = Patience()
    batch: list[Item] = []
    while True:
        if time.monotonic() - asked > POLL_S:
            threads, asked = _count_threads(client), time.monotonic()
            patience.note(threads)
            room = AHEAD * max(1, threads)
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


class WorkersWarning(UserWarning):
    """No worker has been there for a while."""


class Patience:
    """Says once that no worker is there: jobs may wait in their queue, or end before they begin."""

    def __init__(self) -> None:
        self._since, self._told = time.monotonic(), False

    def note(self, workers: int) -> None:
        """Take notice of how many workers there are."""
        if workers:
            self._since = time.monotonic()
        elif time.monotonic() - self._since > PATIENCE_S and not self._told:
            self._told = True
            text = (
                f"no worker has been there for {PATIENCE_S:.0f} s; still waiting. If the queue "
                "shows no job, jobs end before they begin: --job-script prints one to try"
            )
            warnings.warn(WorkersWarning(text), stacklevel=2)


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
            address = stack.enter_context(own_cluster(place))
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
