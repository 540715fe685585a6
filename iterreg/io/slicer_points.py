"""Points in 3D Slicer's files: ``.mrk.json`` read and written, ``.fcsv`` written."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iterreg.errors import ImageReadError
from iterreg.io.point_lines import shown
from iterreg.io.point_tables import FARTHEST_MM, SLICER_SYSTEMS, SYSTEMS
from iterreg.texts import parse_json

LARGEST_BYTES = 200_000_000
"""A larger ``.mrk.json`` is refused; it would hold a million points."""

POINT_LISTS = ("Fiducial", "PointList", "Line", "Angle", "Curve", "ClosedCurve")
"""Kinds of markups whose control points are the points that a person placed."""

SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/"
    "Schema/markups-schema-v1.0.3.json#"
)
FCSV_COLUMNS = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"


def read_markups(path: Path) -> NDArray[np.float64]:
    """Read the control points of a ``.mrk.json`` file as (n, 3) LPS mm.

    Raises:
        ImageReadError: no JSON, not one list of points, or a point without a position.
    """
    markup = _only_markup(path)
    kind = markup.get("type", "Fiducial")
    if kind not in POINT_LISTS:
        raise ImageReadError(
            f"{path}: expected a list of points ({', '.join(POINT_LISTS)}), got {shown(str(kind))}"
        )
    signs = _signs(path, markup)
    controls = markup.get("controlPoints")
    if not isinstance(controls, list) or not controls:
        raise ImageReadError(f"{path}: expected at least one control point, got none")
    points = [_position(path, number, control) for number, control in enumerate(controls, 1)]
    return np.asarray(points, np.float64) * signs + 0.0


def read_region(path: Path) -> NDArray[np.float64] | None:
    """Read a box that 3D Slicer calls an ROI as its corners, (8, 3) LPS mm.

    Returns:
        None for other markups.

    Raises:
        ImageReadError: as :func:`read_markups`, or a box without a size.
    """
    markup = _only_markup(path)
    if markup.get("type") != "ROI":
        return None
    signs = _signs(path, markup)
    turn = markup.get("orientation", np.eye(3).ravel().tolist())
    centre, size = (_numbers(path, name, markup.get(name), 3) for name in ("center", "size"))
    axes = np.reshape(_numbers(path, "orientation", turn, 9), (3, 3))
    if min(size) <= 0:
        raise ImageReadError(f"{path}: expected an ROI of a size above 0 mm, got {size}")
    halves = np.stack(np.meshgrid(*[(-s / 2, s / 2) for s in size]), -1).reshape(-1, 3)
    return np.asarray((np.asarray(centre) + halves @ axes.T) * signs + 0.0, np.float64)


def _numbers(path: Path, name: str, values: Any, count: int) -> list[float]:
    numbers = isinstance(values, list) and all(type(v) in (int, float) for v in values)
    if not numbers or len(values) != count or not all(abs(v) <= FARTHEST_MM for v in values):
        got = shown(str(values)[:99])
        raise ImageReadError(f"{path}: {name}: expected {count} finite numbers, got {got}")
    return [float(v) for v in values]


def _signs(path: Path, markup: dict[str, Any]) -> tuple[float, float, float]:
    """Signs that take the markup's coordinates to LPS mm."""
    system = SLICER_SYSTEMS.get(str(markup.get("coordinateSystem", "LPS")).upper())
    if system is None:
        got = shown(str(markup["coordinateSystem"]))
        raise ImageReadError(f"{path}: expected the coordinate system LPS or RAS, got {got}")
    unit = markup.get("coordinateUnits", "mm")
    if (unit[1:2] if isinstance(unit, list) else [unit]) != ["mm"]:
        raise ImageReadError(f"{path}: expected coordinates in mm, got {shown(str(unit))}")
    return SYSTEMS[system]


def _only_markup(path: Path) -> dict[str, Any]:
    if path.stat().st_size > LARGEST_BYTES:
        raise ImageReadError(
            f"{path}: expected a list of points below {LARGEST_BYTES // 1_000_000} MB, got "
            f"{path.stat().st_size // 1_000_000} MB"
        )
    try:
        content = parse_json(path.read_text("utf-8"))
    except ValueError as error:
        reason = shown(str(error))
        raise ImageReadError(f"{path}: expected JSON of 3D Slicer's markups: {reason}") from error
    markups = content.get("markups") if isinstance(content, dict) else None
    if not isinstance(markups, list) or not all(isinstance(m, dict) for m in markups):
        raise ImageReadError(f"{path}: expected 3D Slicer's markups, got other JSON")
    if len(markups) != 1:
        raise ImageReadError(f"{path}: expected one list of points, got {len(markups)}")
    markup: dict[str, Any] = markups[0]
    return markup


def _position(path: Path, number: int, control: Any) -> Sequence[float]:
    own = control if isinstance(control, dict) else {}
    position = own.get("position")
    label = own.get("label")
    name = f"control point {number}" + (f" ({shown(label)})" if isinstance(label, str) else "")
    state = own.get("positionStatus", "defined")
    if state != "defined" or position is None:
        raise ImageReadError(
            f"{path}: {name}: expected a position, got one that is not defined: place it or "
            "remove it"
        )
    numbers = isinstance(position, list) and all(type(v) in (int, float) for v in position)
    if not numbers or len(position) != 3 or not all(abs(v) <= FARTHEST_MM for v in position):
        got = shown(str(position)) if len(str(position)[:999]) < 999 else "much more"
        raise ImageReadError(f"{path}: {name}: expected three finite numbers in mm, got {got}")
    return [float(v) for v in position]


def write_markups(path: Path, lps: NDArray[np.float64], notes: Sequence[str]) -> None:
    """Write points as a ``.mrk.json`` file in LPS, with a description for each."""
    controls = [
        {
            "id": str(n),
            "label": f"F-{n}",
            "description": note,
            "position": [round(v, 6) for v in point],
            "positionStatus": "defined",
        }
        for n, (point, note) in enumerate(zip(lps.tolist(), notes, strict=True), 1)
    ]
    markup = {
        "type": "Fiducial",
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "controlPoints": controls,
    }
    text = json.dumps({"@schema": SCHEMA, "markups": [markup]}, indent=1)
    path.write_text(text + "\n", "utf-8")


def write_fcsv(path: Path, lps: NDArray[np.float64], notes: Sequence[str]) -> None:
    """Write points as a ``.fcsv`` file in LPS, with a description for each."""
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write("# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n")
        file.write(f"# columns = {FCSV_COLUMNS}\n")
        writer = csv.writer(file, lineterminator="\n")
        for n, (point, note) in enumerate(zip(lps.tolist(), notes, strict=True), 1):
            place = (f"{v:.6f}" for v in point)
            writer.writerow([n, *place, 0, 0, 0, 1, 1, 1, 0, f"F-{n}", note, ""])
