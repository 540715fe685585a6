"""Point files of elastix and transformix: ``point`` or ``index``, their number, and the points."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iterreg.errors import ImageReadError
from iterreg.io.point_lines import number_of, numbered_lines, shown
from iterreg.io.point_tables import FARTHEST_MM

KINDS = ("point", "index")
OUTPUT = "point\t0\t;"
"""How transformix begins its ``outputpoints.txt``."""


def is_elastix(path: Path) -> bool:
    """Whether a file is elastix's list of points, by its first line and its number of points."""
    lines = numbered_lines(path)
    first, second = (next(lines, (0, ""))[1].strip().lower() for _ in range(2))
    return first in KINDS and second.isdigit()


def is_transformix_output(path: Path) -> bool:
    """Whether a file is what transformix writes for a list of points."""
    _, line = next(numbered_lines(path), (0, ""))
    return line.lower().startswith(OUTPUT) and "OutputPoint" in line


def read_elastix(path: Path) -> NDArray[np.float64]:
    """Read the points of elastix's file as (n, rank) LPS mm.

    Raises:
        ImageReadError: the points are voxel indices, their number is not the one that the file
            tells, they have another rank than 2 or 3, or a value is not a finite number.
    """
    lines = numbered_lines(path)
    kind = next(lines)[1].strip().lower()
    if kind == "index":
        raise ImageReadError(
            f"{path}: expected points in mm, got voxel indices of elastix: multiply them by the "
            "image's spacing, directions and origin, and write 'point' for 'index'"
        )
    told = next(lines)[1].strip()
    flat, rank, count = array("d"), 0, 0
    for number, values in _rows(path, lines):
        rank = rank or len(values)
        if len(values) != rank or rank not in (2, 3):
            raise ImageReadError(
                f"{path}, line {number}: expected {rank if rank in (2, 3) else '2 or 3'} numbers, "
                f"got {len(values)}"
            )
        flat.extend(values)
        count += 1
    if len(told) > 9 or count != int(told) or not count:
        raise ImageReadError(f"{path}: expected {shown(told)} points, as it says, got {count}")
    return np.frombuffer(flat, np.float64).reshape(-1, rank) + 0.0


def write_elastix(path: Path, lps: NDArray[np.float64]) -> None:
    """Write points (n, rank), LPS mm, for ``transformix -def``."""
    rows = [" ".join(f"{v:.6f}" for v in row) for row in lps.tolist()]
    path.write_text("\n".join(["point", str(len(rows)), *rows]) + "\n", encoding="utf-8")


def _rows(path: Path, lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, Sequence[float]]]:
    for number, line in lines:
        values = [number_of(word) for word in line.split()]
        if not all(abs(value) <= FARTHEST_MM for value in values):
            raise ImageReadError(
                f"{path}, line {number}: expected finite numbers in mm, got {shown(line.strip())}"
            )
        yield number, values
