"""What holds for every process that iterreg starts."""

from __future__ import annotations

import os
import signal
from pathlib import Path

PARENT_DEATH_SIGNAL = 1
"""Linux's number of the request, from ``linux/prctl.h``."""


def die_with_parent(parent: int) -> None:
    """Let the system end this process when its parent is gone (Linux).

    Args:
        parent: the number of the parent, which may be gone already.
    """
    try:
        import ctypes

        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
    except (OSError, ImportError, AttributeError):
        return
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def reset_peak() -> None:
    """Reset the process's peak memory, if the system can (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_mb() -> float:
    """Return the peak memory since :func:`reset_peak`, or since the start; NaN if unknown."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(float(row.split()[1]) / 1024 for row in lines if row.startswith("VmHWM"))
    except (OSError, StopIteration):
        return float("nan")
