"""Peak memory of the process, on Linux."""

from __future__ import annotations

from pathlib import Path


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
