"""AFNI: matrices ``.aff12.1D``, from base to source, in its DICOM order, which is LPS mm."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from iterreg.errors import TransformError
from iterreg.formats.headers import first_bytes, short_text
from iterreg.formats.loaded import Loaded
from iterreg.formats.matrices import matrix_of, numbers_of, without_comments
from iterreg.formats.types import Sides, TransformFormat
from iterreg.geometry import Grid

OBLIQUE = 1e-3
"""An axis is oblique if its direction is off by more; AFNI's own limit is 0.01 degrees."""


def _recognises(path: Path) -> bool:
    start = first_bytes(path)
    return path.suffix.lower() == ".1d" or b"3dvolreg matrices (DICOM-to-DICOM" in start


def _load(path: Path, sides: Sides) -> Loaded:
    rows = [
        row
        for row in without_comments(short_text(path)).splitlines()
        if row.replace(",", "").strip()
    ]
    numbers = [number for row in rows for number in numbers_of(path, row)]
    if len(rows) > 1 and len(numbers) == 12 * len(rows):
        raise TransformError(
            f"{path}: expected one matrix of 12 numbers, got {len(rows)}, one for each volume: "
            "take the row of yours"
        )
    if len(numbers) != 12:
        raise TransformError(f"{path}: expected one matrix of 12 numbers, got {len(numbers)}")
    for grid in (sides.fixed, sides.moving):
        if grid is not None and is_oblique(grid):
            raise TransformError(
                f"{path}: AFNI leaves the obliquity of an image out of its matrices, and one of "
                "the images is oblique: deoblique it first (3dWarp -deoblique)"
            )
    return Loaded(str(path), 3, matrix_of(path, numbers))


def is_oblique(grid: Grid) -> bool:
    """Whether an image's axes are turned against the patient's."""
    largest = np.abs(np.asarray(grid.direction_lps)).max(0)
    return bool((largest < 1 - OBLIQUE**2).any())


AFNI = TransformFormat(
    meaning="AFNI matrix (mm, LPS)",
    read_suffixes=(".1d", ".txt"),
    write_suffixes=(),
    recognises=_recognises,
    load=_load,
)
