"""Points as CSV files with a header, LPS mm."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from iterreg.atomic import write_aside
from iterreg.errors import ImageReadError, OutputError
from iterreg.geometry import Points
from iterreg.io.itk import require_exists

AXES = "xyz"


def read_points(path: str | Path) -> Points:
    """Read points from a CSV file whose header names the columns x, y and z (or x and y), LPS mm.

    Upper case is accepted, and other columns are ignored.

    Raises:
        ImageReadError: missing, no such columns, no rows, or a value that is not a finite number.

    Example:
        >>> _ = Path("points.csv").write_text("x,y,z\\n1,2,3\\n4.5,5,6\\n")
        >>> read_points("points.csv").lps.tolist()
        [[1.0, 2.0, 3.0], [4.5, 5.0, 6.0]]
    """
    path = Path(path)
    require_exists(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ImageReadError(f"{path}: expected a CSV file of points ({error})") from error
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    axes = [axis for axis in AXES if axis in header]
    if axes not in (["x", "y", "z"], ["x", "y"]):
        raise ImageReadError(f"{path}: expected a header with columns x,y,z or x,y, got {header}")
    columns = [header.index(axis) for axis in axes]
    points = [_row(path, n, row, columns) for n, row in enumerate(rows[1:], 2) if any(row)]
    if not points:
        raise ImageReadError(f"{path}: expected at least one point, got a header alone")
    return Points(np.asarray(points, np.float64))


def _row(path: Path, number: int, row: Sequence[str], columns: Sequence[int]) -> list[float]:
    try:
        values = [float(row[c]) for c in columns]
    except (ValueError, IndexError):
        values = [float("nan")]
    if not np.all(np.isfinite(values)):
        raise ImageReadError(f"{path}, line {number}: expected finite numbers, got {','.join(row)}")
    return values


def write_points(
    points: Points, path: str | Path, extra_columns: Mapping[str, Sequence[object]] | None = None
) -> None:
    """Write points as CSV with the header x,y,z (x,y in 2-D), LPS mm.

    Args:
        points: what to write.
        path: the file.
        extra_columns: further columns by name, one value per point.

    Raises:
        OutputError: a folder that is missing or not writable, or columns of another length.
    """
    extra = dict(extra_columns or {})
    for title, column in extra.items():
        if len(column) != len(points):
            raise OutputError(
                f"{path}: column {title}: expected {len(points)} values, got {len(column)}"
            )

    def write(target: Path) -> None:
        with target.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*AXES[: points.lps.shape[1]], *extra])
            for n, row in enumerate(points.lps.tolist()):
                writer.writerow([*(f"{v:.6f}" for v in row), *(c[n] for c in extra.values())])

    write_aside(path, write)
