"""Keep a registration within a limit of memory, or refuse it before it starts.

The need is estimated by a linear model of the voxels, fitted to whole commands of three sizes. The
system holds the limit itself: what would go beyond it fails, and ends with exit code 9.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from iterreg.arguments import number
from iterreg.config import Config, Levels
from iterreg.errors import OutOfMemoryError
from iterreg.geometry import Grid

GB = 1e9

BASE_GB = 1.4
"""Python, its libraries, and what does not grow with the images."""

IMAGE_BYTES = 80
"""Of each voxel of the fixed and of the moving image: reading, measuring, drawing and writing."""

LEVEL_BYTES = 300
"""Of each voxel of the finest level: features, equations and the field."""

WITHOUT_MIND_BYTES = 200
"""The same of ``similarity.kind = sam`` or ``features`` alone, apart from their channels."""

CHANNEL_BYTES = 16
"""Of each channel of theirs, of each voxel of the finest level."""

ENCODER_GB = 0.6
"""MobileSAM, with one picture."""

ENCODER_CELLS, ENCODER_CHANNELS = 64, 256
"""Of a picture, along its longer side."""

CELL_BYTES = 36
"""Of each channel of each cell of an image's slices, while both images' features are reduced."""

COARSER = 1.25
"""Factor by which the finest level grows until it fits."""

MOST_BYTES = 1 << 62
"""The largest limit that the system takes."""

SLACK_BYTES = 1 << 26
"""Room for pages of libraries that are not loaded yet."""


def needed_gb(config: Config, fixed: Grid, moving: Grid) -> float:
    """Estimate the most memory that a registration with all its results takes on the CPU.

    Args:
        config: its levels count.
        fixed, moving: the grids of the images.

    Returns:
        GB, 10^9 bytes, on the safe side.

    Example:
        >>> axes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
        >>> grid = Grid((300, 280, 390), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), axes)
        >>> 5 < needed_gb(Config(), grid, grid) < 9
        True
    """
    voxels = level_voxels(fixed, min(config.levels.spacing_mm))
    images = IMAGE_BYTES * (fixed.voxel_count + moving.voxel_count)
    registering = (images + _level_bytes(config) * voxels) / GB
    return BASE_GB + max(registering, _encoder_gb(config, fixed, moving) + images / GB)


def fit_to_memory(config: Config, fixed: Grid, moving: Grid, limit_gb: float) -> Config:
    """Coarsen the finest levels until a registration fits into a limit.

    Args:
        config: resolved.
        fixed, moving: the grids of the images.
        limit_gb: in GB, 10^9 bytes.

    Returns:
        The configuration, as it was if it fits.

    Raises:
        OutOfMemoryError: it does not fit even with the coarsest level alone; the message says how
            much is needed.
        TypeError: the limit is no number.
    """
    limit_gb = number(limit_gb, "memory_gb")
    coarsest, finest = max(config.levels.spacing_mm), min(config.levels.spacing_mm)
    while not needed_gb(config, fixed, moving) <= limit_gb:  # NaN too is no limit
        if finest >= coarsest:
            need = math.ceil(10 * needed_gb(config, fixed, moving)) / 10
            raise OutOfMemoryError(
                f"memory {limit_gb:g} GB: this pair needs about {need:g} GB, with levels no finer "
                f"than {coarsest:g} mm; crop or resample the images"
            )
        finest = min(coarsest, finest * COARSER)
        config = replace(config, levels=_no_finer(config.levels, round(finest, 3)))
    return config


def limit_memory(limit_gb: float) -> None:
    """Let the system refuse this process more memory than a limit (Linux).

    Args:
        limit_gb: in GB, 10^9 bytes, all libraries included.

    Raises:
        OutOfMemoryError: the libraries alone take more.
    """
    import resource

    status = _status_bytes()
    used = status["VmRSS"] + SLACK_BYTES
    if used >= limit_gb * GB:
        raise OutOfMemoryError(
            f"memory {limit_gb:g} GB: iterreg and its libraries alone need "
            f"{used / GB + 0.05:.1f} GB"
        )
    # What is reserved but not used yet does not count, so the limit is on the growth.
    allowed = min(status["VmData"] + int(limit_gb * GB) - used, MOST_BYTES)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        allowed = min(allowed, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, hard))


_is_limited = False


def limit_memory_once(limit_gb: float | None) -> None:
    """Limit a worker's memory before its first case; later it holds what it may use again.

    Args:
        limit_gb: as in :func:`limit_memory`; None sets no limit.

    Raises:
        OutOfMemoryError: as :func:`limit_memory`.

    Example:
        >>> limit_memory_once(None)
    """
    global _is_limited
    if limit_gb is not None and not _is_limited:
        limit_memory(limit_gb)
        _is_limited = True


def level_voxels(grid: Grid, spacing_mm: float) -> int:
    """Count the voxels of a level; an axis that is coarser stays as it is.

    Example:
        >>> axes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
        >>> level_voxels(Grid((10, 40, 40), (1.0, 1.0, 5.0), (0.0, 0.0, 0.0), axes), 2.0)
        4000
    """
    sizes = zip(grid.shape_zyx, grid.spacing_zyx_mm, strict=True)
    return math.prod(math.ceil(n * mm / max(mm, spacing_mm)) for n, mm in sizes)


def _level_bytes(config: Config) -> int:
    """Bytes of each voxel of the finest level."""
    kinds = {similarity.kind for similarity in config.similarities}
    if not kinds & {"sam", "features"}:
        return LEVEL_BYTES
    others = LEVEL_BYTES if "mind" in kinds else WITHOUT_MIND_BYTES
    return others + CHANNEL_BYTES * config.features.channels


def _encoder_gb(config: Config, *grids: Grid) -> float:
    """What the encoder and its features take, before the registration starts; 0 without one."""
    if "sam" not in {similarity.kind for similarity in config.similarities}:
        return 0.0
    cells = sum(map(_most_cells, grids))
    return ENCODER_GB + CELL_BYTES * ENCODER_CHANNELS * cells / GB


def _most_cells(grid: Grid) -> float:
    """Cells of an image's slices, across the axis along which they are most."""
    if grid.rank == 2:
        return float(ENCODER_CELLS**2)
    counts = []
    for axis, (n, mm) in enumerate(zip(grid.shape_zyx, grid.spacing_zyx_mm, strict=True)):
        sides = sorted(
            k * s
            for a, (k, s) in enumerate(zip(grid.shape_zyx, grid.spacing_zyx_mm, strict=True))
            if a != axis
        )
        slices = min(n, ENCODER_CELLS * n * mm / sides[1])
        counts.append(ENCODER_CELLS**2 * sides[0] / sides[1] * slices)
    return max(counts)


def _no_finer(levels: Levels, finest_mm: float) -> Levels:
    """The levels with none finer than a spacing, each spacing once."""
    steps: dict[float, int] = {}
    for spacing, count in zip(levels.spacing_mm, levels.steps, strict=True):
        steps.setdefault(max(spacing, finest_mm), count)
    return replace(levels, spacing_mm=tuple(steps), steps=tuple(steps.values()))


def _status_bytes() -> dict[str, int]:
    """What the process uses, by the kernel's names; zeros where the system does not tell."""
    found = {"VmData": 0, "VmRSS": 0}
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return found
    for name, _, value in (line.partition(":") for line in lines):
        if name in found:
            found[name] = 1024 * int(value.split()[0])
    return found
