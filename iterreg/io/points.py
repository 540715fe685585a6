"""Points: text tables and 3D Slicer's files, LPS mm."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from iterreg.atomic import write_aside
from iterreg.errors import GeometryError, ImageReadError, OutputError
from iterreg.geometry import Points
from iterreg.io.elastix_points import is_elastix, is_transformix_output, read_elastix, write_elastix
from iterreg.io.itk import require_exists
from iterreg.io.point_tables import is_fcsv, read_corners, read_fcsv, read_table
from iterreg.io.slicer_points import read_markups, read_region, write_fcsv, write_markups

if TYPE_CHECKING:
    from iterreg.image.kinds import PointsLike

AXES = "xyz"

TABLE_SUFFIXES = (".csv", ".txt")
SLICER_SUFFIXES = (".fcsv", ".json")
ELASTIX_SUFFIX = ".pts"
POINT_SUFFIXES = (*TABLE_SUFFIXES, *SLICER_SUFFIXES, ELASTIX_SUFFIX)
"""What :func:`write_points` writes."""


def read_points(path: str | Path) -> Points:
    """Read points in LPS mm.

    A text table needs a header that names the columns x, y and z, or x and y: upper case, units
    (``x_mm``) and a coordinate system (``x_ras``) are understood, and so are l,p,s and r,a,s. Its
    columns are parted by commas, semicolons, tabs or spaces; other columns are ignored. 3D Slicer's
    ``.fcsv`` and ``.mrk.json`` say themselves whether they are RAS or LPS. elastix's files of
    points are recognised by their first lines.

    Raises:
        ImageReadError: missing, no such columns, no points, or a value that is not a finite number.

    Example:
        >>> _ = Path("points.csv").write_text("x,y,z\\n1,2,3\\n4.5,5,6\\n")
        >>> read_points("points.csv").lps.tolist()
        [[1.0, 2.0, 3.0], [4.5, 5.0, 6.0]]
        >>> _ = Path("points.tsv").write_text("x_ras_mm\\ty_ras_mm\\tz_ras_mm\\n1\\t2\\t3\\n")
        >>> read_points("points.tsv").lps.tolist()
        [[-1.0, -2.0, 3.0]]
    """
    path = Path(path)
    require_exists(path)
    try:
        if path.suffix.lower() == ".json":
            lps = read_markups(path)
        elif is_elastix(path):
            lps = read_elastix(path)
        elif is_transformix_output(path):
            raise ImageReadError(
                f"{path}: expected points, got what transformix says of them: write its "
                "OutputPoint columns as x,y,z"
            )
        else:
            lps = read_fcsv(path) if is_fcsv(path) else read_table(path)
    except (OSError, UnicodeError) as error:
        raise ImageReadError(f"{path}: expected a file of points ({error})") from error
    return Points(lps, str(path))


def read_prompts(path: str | Path) -> tuple[Points | None, list[NDArray[np.float64]]]:
    """Read the points and the boxes of a user.

    Files of points are read as :func:`read_points` does. In a text table the further columns x2,
    y2 and z2 hold the opposite corner of a box along the image's axes; a row where they are empty
    is a point. An ROI in a ``.mrk.json`` file of 3D Slicer is a box.

    Returns:
        The points, None without any, and the corners of each box, (2 or 8, rank) LPS mm.

    Raises:
        ImageReadError: as :func:`read_points`, or a box without all numbers of its second corner.

    Example:
        >>> _ = Path("prompts.csv").write_text("x,y,x2,y2\\n1,2,5,9\\n3,4,,\\n")
        >>> points, boxes = read_prompts("prompts.csv")
        >>> points.lps.tolist(), boxes[0].tolist()
        ([[3.0, 4.0]], [[1.0, 2.0], [5.0, 9.0]])
    """
    path = Path(path)
    require_exists(path)
    if os.path.isdir(path):
        raise ImageReadError(f"{path}: expected a file of points or boxes, got a folder")
    if path.suffix.lower() == ".json" and (region := read_region(path)) is not None:
        return None, [region]
    points: Points | None = read_points(path)
    if path.suffix.lower() == ".json" or is_elastix(path) or is_fcsv(path):
        return points, []
    corners = read_corners(path)
    is_box = np.isfinite(corners[:, 1, 0])
    if is_box.any():
        points = None if is_box.all() else Points(corners[~is_box, 0], str(path))
    return points, list(corners[is_box])


def as_points(value: PointsLike, name: str) -> Points:
    """Return points from a path, or :class:`Points` as they are.

    Args:
        value: a path or points.
        name: the argument's name, for messages.

    Raises:
        GeometryError: an array alone, which does not say whether it is LPS or RAS.
        TypeError: anything else.
        ImageReadError: as :func:`read_points`.
    """
    if isinstance(value, Points):
        return value
    if isinstance(value, str | Path):
        return read_points(value)
    if hasattr(value, "shape") or isinstance(value, list | tuple):
        what = f"array of shape {tuple(value.shape)}" if hasattr(value, "shape") else "list"
        raise GeometryError(
            f"{name}: expected points that say whether they are LPS or RAS, got a bare {what}: "
            "iterreg.Points(array) for LPS mm, or iterreg.Points.from_ras(array)"
        )
    raise TypeError(f"{name}: expected a path or iterreg.Points, got {type(value).__name__}")


def write_points(
    points: Points, path: str | Path, extra_columns: Mapping[str, Sequence[object]] | None = None
) -> None:
    """Write points in LPS mm: CSV with the header x,y,z (x,y in 2-D), 3D Slicer's or elastix's.

    Args:
        points: what to write.
        path: the file: .csv, .txt, .fcsv, .mrk.json or .pts.
        extra_columns: further columns by name, one value per point; 3D Slicer gets them as the
            points' descriptions.

    Raises:
        OutputError: another suffix, a folder that is missing or not writable, columns of another
            length, or points of rank 2 for 3D Slicer.

    Example:
        >>> write_points(Points([[1.0, 2.0, 3.0]]), "tips.csv", {"name": ["apex"]})
        >>> print(Path("tips.csv").read_text(), end="")
        x,y,z,name
        1.000000,2.000000,3.000000,apex
    """
    points = as_points(points, "points")
    path, extra = Path(path), dict(extra_columns or {})
    suffix, rank = path.suffix.lower(), points.lps.shape[1]
    require_point_suffix(path)
    if suffix == ELASTIX_SUFFIX and extra:
        raise OutputError(
            f"{path}: expected a file that holds {', '.join(extra)} too (.csv, .fcsv or .mrk.json)"
        )
    if suffix in SLICER_SUFFIXES and rank != 3:
        raise OutputError(f"{path}: expected 3-D points for 3D Slicer, got {rank}-D ones")
    for title, column in extra.items():
        if len(column) != len(points):
            raise OutputError(
                f"{path}: column {title}: expected {len(points)} values, got {len(column)}"
            )

    def write(target: Path) -> None:
        if suffix in SLICER_SUFFIXES:
            notes = [
                " ".join(f"{title}={column[n]}" for title, column in extra.items())
                for n in range(len(points))
            ]
            (write_fcsv if suffix == ".fcsv" else write_markups)(target, points.lps, notes)
            return
        if suffix == ELASTIX_SUFFIX:
            write_elastix(target, points.lps)
            return
        with target.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*AXES[:rank], *extra])
            for n, row in enumerate(points.lps.tolist()):
                writer.writerow([*(f"{v:.6f}" for v in row), *(c[n] for c in extra.values())])

    write_aside(path, write)


def require_point_suffix(path: Path) -> None:
    """Refuse to write points to a file of another kind.

    Raises:
        OutputError: naming it.
    """
    if path.suffix.lower() not in POINT_SUFFIXES:
        raise OutputError(
            f"{path}: expected a file of points ({' '.join(POINT_SUFFIXES)}), got "
            f"{path.suffix or 'no suffix'}"
        )
