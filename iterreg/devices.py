"""Choose the device and the number of CPU threads, and name errors of memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from iterreg.arguments import whole_number
from iterreg.errors import DeviceError, OutOfMemoryError, is_out_of_memory
from iterreg.kernels import set_threads

T = TypeVar("T")
R = TypeVar("R")


def pick_device(name: str) -> torch.device:
    """Choose a device.

    Args:
        name: ``auto`` (CUDA if available, else the CPU; never MPS), ``cpu``, ``cuda``, ``cuda:N``
            or ``mps``.

    Raises:
        DeviceError: the device is unknown, not available, or fails a small probe.

    Example:
        >>> pick_device("cpu")
        device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"device {name}: expected auto, cpu, cuda, cuda:N or mps") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise DeviceError(f"device {name}: expected auto, cpu, cuda, cuda:N or mps")
    try:
        probe = torch.ones(8, device=device)
        if not bool((probe[torch.arange(8, device=device)].cumsum(0)[-1] == 8).all()):
            raise DeviceError(f"device {name}: computes wrongly")
        # Energies are summed in float64, which some devices lack (MPS does).
        probe.sum(dtype=torch.float64)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DeviceError(f"device {name}: not available here ({reason})") from error
    return device


def device_or_cpu(name: str) -> torch.device:
    """The device that a result was made on, if this machine has it; else the CPU.

    Args:
        name: of the device, as a result records it.

    Example:
        >>> device_or_cpu("cpu")
        device(type='cpu')
    """
    device = torch.device(name)
    has_it = device.type == "cuda" and (device.index or 0) < torch.cuda.device_count()
    return device if has_it else torch.device("cpu")


@contextmanager
def threads_used(count: int | None) -> Iterator[int]:
    """Run a block with this many CPU threads, then restore the previous number.

    Args:
        count: at least 1; None keeps torch's number.

    Yields:
        The number of threads in use.

    Raises:
        DeviceError: fewer than one.
    """
    before = torch.get_num_threads()
    threads = before if count is None else whole_number(count, "threads")
    if threads < 1:
        raise DeviceError(f"threads: expected at least 1, got {threads}")
    set_threads(min(threads, os.cpu_count() or 1))
    try:
        yield torch.get_num_threads()
    finally:
        set_threads(before)


@contextmanager
def one_thread_each(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads for parts of a work, in each of which torch uses one thread.

    Operations that are shared out again would wait for each other.

    Args:
        workers: how many.

    Example:
        >>> with one_thread_each(2) as pool:
        ...     pool.submit(torch.get_num_threads).result()
        1
    """
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        # The number that torch gives to threads that come later.
        torch.set_num_threads(before)


def side_by_side(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Call a function for each of some items, on as many threads as torch uses.

    Args:
        function: leaves the interpreter to others most of the time, as torch and numpy do.
        items: what it is called with.

    Returns:
        The answers, in the order of the items.

    Example:
        >>> side_by_side(abs, [-1, 2])
        [1, 2]
    """
    threads = min(torch.get_num_threads(), len(items))
    if threads < 2:
        return [function(item) for item in items]
    with one_thread_each(threads) as pool:
        return list(pool.map(function, items))


@contextmanager
def memory_errors_named(what: str) -> Iterator[None]:
    """Turn an out-of-memory error into one line that says what to do."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"out of memory while registering {what}: crop the images, use a coarser "
            "levels.spacing_mm, or another device"
        ) from error
