"""Where Dask's workers come from: processes on this machine, or the jobs of a queue."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from iterreg.cohort.engine import INSTALL, MOST_RETURNS, Place, threads_of
from iterreg.errors import ConfigError, CrashError, DeviceError
from iterreg.texts import one_line
from iterreg.versions import import_package

NO_PORT = "127.0.0.1:0"
"""Where a scheduler serves the pages that nobody asked for: any free port of this machine. By
default it would be port 8787, of which there is one."""

CLUSTERS = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "lsf": "LSFCluster", "sge": "SGECluster"}
"""Queues, and the classes of dask-jobqueue that know them."""

JOB_MEMORY_GB = 8.0
"""Of a job of a queue, if nothing else is asked for."""


@contextmanager
def own_cluster(place: Place) -> Iterator[Any]:
    """A cluster of its own: ended, with all workers, after the block.

    Args:
        place: without ``scheduler``.

    Raises:
        MissingDependencyError: dask-jobqueue is not installed.
        ConfigError: the queue wants something that was not given.
        DeviceError: the queue takes no job.
        CrashError: no worker can be started.
    """
    cluster = _started_cluster(place) if place.cluster is None else queue_cluster(place)
    try:
        if place.cluster is not None:
            _submit(cluster, place)
        yield cluster
    finally:
        with suppress(Exception):
            cluster.close(timeout=10)


def _submit(cluster: Any, place: Place) -> None:
    """Submit a job for each worker, and let the cluster replace those that end."""
    for _ in range(place.workers):
        cluster.worker_spec.update(cluster.new_worker_spec())
    try:
        cluster.sync(_await, cluster)
    except (OSError, RuntimeError) as error:
        _forget_jobs(cluster)
        words = one_line(" ".join(str(error).split()), 400)
        raise DeviceError(f"cluster {place.cluster}: no job could be submitted: {words}") from error
    cluster.adapt(minimum_jobs=place.workers, maximum_jobs=place.workers)


def _forget_jobs(cluster: Any) -> None:
    """Leave out jobs that were never submitted: they cannot be cancelled with the others."""
    from distributed import Status

    for name, job in list(cluster.workers.items()):
        if job.job_id is None:
            job.status = Status.failed
            del cluster.workers[name]


async def _await(cluster: Any) -> None:
    await cluster


def _started_cluster(place: Place) -> Any:
    """A cluster on this machine; one whose workers die while they start is started again."""
    for tries in range(1 + MOST_RETURNS):
        try:
            return _local_cluster(place)
        except RuntimeError as error:
            if tries == MOST_RETURNS:
                words = " ".join(str(error).split())
                raise CrashError(
                    f"jobs: {place.workers} workers did not start, {1 + tries} times ({words}), "
                    "most often because memory ran out: try fewer --jobs"
                ) from error
    raise AssertionError("unreachable")


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
