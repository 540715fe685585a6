"""How kernels are launched, and how much a program handles."""

from __future__ import annotations

from typing import Any

BLOCK = 128
"""Voxels, or samples of one channel, that a program handles."""

SUMMED = 4096
"""Partial sums that are added at once."""

CHANNELS = 8
"""So many channels of a sample are read at once: 16 bytes of half precision, or 8 bytes."""

TILE = 1024
"""Values that a program handles: larger tiles do not fit into the registers."""


def launch(kernel: Any, programs: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Run a kernel; every launch passes here."""
    kernel[programs](*arguments, **constants)


def grid_of(count: int, block: int = BLOCK) -> tuple[int]:
    """The programs that so many values need, at least one."""
    return (max(1, -(-count // block)),)
