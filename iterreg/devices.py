"""Which device and how many threads a registration runs with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from iterreg.errors import DeviceError, OutOfMemoryError
from iterreg.kernels import set_threads

MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory")


def pick_device(wanted: str) -> torch.device:
    """The device for a request.

    Args:
        wanted: ``auto`` (CUDA where there is one, else the CPU), ``cpu``, ``cuda``, ``cuda:N`` or
            ``mps`` (only when asked for).

    Raises:
        DeviceError: the device is unknown, absent, or fails a small probe.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise DeviceError(f"device {wanted}: expected auto, cpu, cuda, cuda:N or mps") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise DeviceError(f"device {wanted}: expected auto, cpu, cuda, cuda:N or mps")
    try:
        probe = torch.ones(8, device=device)
        if not bool((probe[torch.arange(8, device=device)].cumsum(0)[-1] == 8).all()):
            raise DeviceError(f"device {wanted}: computes wrongly")
        # Energies are summed in float64, which not every device has (MPS has none).
        probe.sum(dtype=torch.float64)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DeviceError(f"device {wanted}: not available here ({reason})") from error
    return device


@contextmanager
def threads_used(wanted: int | None) -> Iterator[int]:
    """Run a block with this many CPU threads, and put the number back afterwards.

    Args:
        wanted: at least 1; None keeps torch's own number.

    Raises:
        DeviceError: fewer than one.
    """
    before = torch.get_num_threads()
    threads = before if wanted is None else wanted
    if threads < 1:
        raise DeviceError(f"threads: expected at least 1, got {threads}")
    set_threads(min(threads, os.cpu_count() or 1))
    try:
        yield torch.get_num_threads()
    finally:
        set_threads(before)


@contextmanager
def memory_errors_named(what: str) -> Iterator[None]:
    """Turn running out of memory into one line that says what to do."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error).lower()
        if not isinstance(error, MemoryError) and not any(w in text for w in MEMORY_WORDS):
            raise
        raise OutOfMemoryError(
            f"out of memory while registering {what}: crop the images, use a coarser "
            "levels.spacing_mm, or another device"
        ) from error
