"""Points in text tables: CSV with commas, semicolons, tabs or spaces, and 3D Slicer's ``.fcsv``.

A header names the columns. x, y, z may carry a unit and a coordinate system (``x_mm``,
``x_ras_mm``); l, p, s and r, a, s are what 3D Slicer's own CSV export calls them.
"""

from __future__ import annotations

import csv
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iterreg.errors import ImageReadError
from iterreg.io.point_lines import number_of, numbered_lines, shown

FARTHEST_MM = 1e9
"""A larger coordinate is no place in a scanner."""

SYSTEMS = {"LPS": (1.0, 1.0, 1.0), "RAS": (-1.0, -1.0, 1.0)}
"""Signs that take a coordinate system to LPS."""

SLICER_SYSTEMS = {"LPS": "LPS", "RAS": "RAS", "0": "RAS", "1": "LPS"}
"""What 3D Slicer writes for a coordinate system; its first versions wrote numbers."""

DELIMITERS = (",", ";", "\t", " ")
AXIS_NAMES = (("xyz", ""), ("lps", "LPS"), ("ras", "RAS"))
"""The letters of the three axes, and the coordinate system that they stand for."""

IDLE_WORDS = ("pos", "position", "coord", "coordinate", "coordinates", "point")
"""Words in the name of a column that say nothing about its unit or system."""

_SYSTEM = re.compile(r"#\s*coordinate\s*system\s*[=:]\s*(\S*)", re.IGNORECASE)
_COLUMNS = re.compile(r"#\s*columns\s*=\s*(.*)", re.IGNORECASE)


@dataclass(frozen=True)
class Columns:
    """Where a table keeps its coordinates.

    Args:
        numbers: the columns of x, y and z, or of x and y.
        system: LPS or RAS; empty if the header does not say.
        delimiter: between the columns.
        defined: the column that says whether a point was placed, or None.
        second: the columns of x2, y2 and z2, the opposite corner of a box; -1 for a missing one.
    """

    numbers: tuple[int, ...]
    system: str
    delimiter: str
    defined: int | None
    second: tuple[int, ...] = ()


def read_table(path: Path) -> NDArray[np.float64]:
    """Read the points of a text table as (n, rank) LPS mm.

    Raises:
        ImageReadError: no such columns, no rows, or a value that is not a finite number.
    """
    lines = numbered_lines(path)
    columns, system = _find_columns(path, lines)
    system = columns.system or system or "LPS"
    flat = array("d")
    for number, row in _rows(path, lines, columns.delimiter):
        flat.extend(_values(path, number, row, columns))
    if not flat:
        raise ImageReadError(f"{path}: expected at least one point, got a header alone")
    rank = len(columns.numbers)
    return np.frombuffer(flat, np.float64).reshape(-1, rank) * SYSTEMS[system][:rank] + 0.0


def read_corners(path: Path) -> NDArray[np.float64]:
    """Read two corners in each row of a text table as (n, 2, rank) LPS mm.

    Columns x2, y2 and z2 hold the second corner. It is NaN in rows, or tables, without one.

    Raises:
        ImageReadError: as :func:`read_table`, or a second corner that is not complete.
    """
    lines = numbered_lines(path)
    columns, system = _find_columns(path, lines)
    rank, axes = len(columns.numbers), [n for n in columns.second if n >= 0]
    if axes and len(axes) != rank:
        wanted = ("x2,y2", "x2,y2,z2")[rank - 2]
        raise ImageReadError(
            f"{path}: expected the columns {wanted} for a box's other corner, got {len(axes)} of "
            f"the {rank}"
        )
    opposite = replace(columns, numbers=tuple(axes))
    rows: list[list[float]] = []
    for number, row in _rows(path, lines, columns.delimiter):
        given = any(row[n].strip() for n in axes if n < len(row))
        second = _values(path, number, row, opposite) if given else [float("nan")] * rank
        rows.append(_values(path, number, row, columns) + second)
    if not rows:
        raise ImageReadError(f"{path}: expected at least one point or box, got a header alone")
    signs = SYSTEMS[columns.system or system or "LPS"][:rank]
    return np.asarray(rows, np.float64).reshape(-1, 2, rank) * signs + 0.0


def read_fcsv(path: Path) -> NDArray[np.float64]:
    """Read the points of a ``.fcsv`` file of 3D Slicer as (n, 3) LPS mm.

    Raises:
        ImageReadError: as :func:`read_table`, or the file does not name its coordinate system.
    """
    system, header = "", "id,x,y,z"
    flat = array("d")
    lines = numbered_lines(path)
    first_rows = []
    for number, line in lines:
        if not line.lstrip().startswith("#"):
            first_rows.append((number, line))
            break
        system = _slicer_system(path, line) or system
        if found := _COLUMNS.match(line.strip()):
            header = found[1]
    if not system:
        raise ImageReadError(
            f"{path}: expected a line '# CoordinateSystem = LPS' or RAS, as 3D Slicer writes, "
            "got none: add the one that the points are in"
        )
    columns = _columns_of(header, ",")
    if columns is None or len(columns.numbers) != 3:
        raise ImageReadError(f"{path}: expected columns x,y,z, got {shown(header)}")

    def rest() -> Iterator[tuple[int, str]]:
        yield from first_rows
        yield from lines

    for number, row in _rows(path, rest(), ","):
        flat.extend(_values(path, number, row, columns))
    if not flat:
        raise ImageReadError(f"{path}: expected at least one point, got none")
    return np.frombuffer(flat, np.float64).reshape(-1, 3) * SYSTEMS[system] + 0.0


def is_fcsv(path: Path) -> bool:
    """Whether a file is 3D Slicer's ``.fcsv``, by its suffix or its first line."""
    if path.suffix.lower() == ".fcsv":
        return True
    _, line = next(numbered_lines(path), (0, ""))
    return "fiducial file version" in line.lower()


def _find_columns(path: Path, lines: Iterator[tuple[int, str]]) -> tuple[Columns, str]:
    """Read up to the header; a comment may hold it, or the coordinate system."""
    system, delimiter = "", ""
    for _, line in lines:
        text = line.rstrip("\r\n")
        if text.lower().startswith("sep="):
            delimiter = text[4:5]
            continue
        is_comment = text.lstrip().startswith("#")
        if is_comment:
            system = _slicer_system(path, text) or system
        found = _header(text.lstrip("# ") if is_comment else text, delimiter)
        if found is not None:
            return found, system
        if not is_comment:
            hint = ""
            cells = re.split(r"[,;\s]+", text.strip())
            if all(isfinite(number_of(cell)) for cell in cells):
                hint = (
                    "; iterreg takes positions in LPS mm: if these are, add the header, and if "
                    "they are voxel indices, convert them"
                )
            raise ImageReadError(
                f"{path}: expected a header with columns x,y,z or x,y (LPS mm), got "
                f"{shown(text)}{hint}"
            )
    raise ImageReadError(f"{path}: expected a header with columns x,y,z or x,y, got an empty file")


def _header(text: str, delimiter: str) -> Columns | None:
    """The columns of a header, with the delimiter that finds most of them."""
    tried = (_columns_of(text, d) for d in ((delimiter,) if delimiter else DELIMITERS))
    found = [columns for columns in tried if columns is not None]
    return max(found, key=lambda columns: len(columns.numbers), default=None)


def _columns_of(text: str, delimiter: str) -> Columns | None:
    text = text.strip() if delimiter == " " else text
    cells = next(csv.reader([text], delimiter=delimiter, skipinitialspace=True), [])
    names = [_words(cell) for cell in cells]
    defined = names.index(("defined",)) if ("defined",) in names else None
    for letters, system in AXIS_NAMES:
        for words in (("lps", "mm"), ("ras", "mm"), ("lps",), ("ras",), ("mm",), ()):
            axes = [n for n in (_place(names, axis, words) for axis in letters) if n is not None]
            if len(axes) == 3 or (len(axes) == 2 and _place(names, letters[2], words) is None):
                own = {"lps": "LPS", "ras": "RAS"}.get(words[0] if words else "", system)
                second = tuple(_second(names, axis, words) for axis in letters[: len(axes)])
                return Columns(tuple(axes), own, delimiter, defined, second)
    return None


def _words(cell: str) -> tuple[str, ...]:
    """The words of a column's name, the letter of an axis first."""
    words = [w for w in re.findall(r"[a-z0-9]+", cell.lower()) if w not in IDLE_WORDS]
    return tuple(sorted(words, key=len)) if any(len(w) == 1 for w in words) else tuple(words)


def _place(names: Sequence[tuple[str, ...]], axis: str, words: tuple[str, ...]) -> int | None:
    """The column of an axis whose other words are these; None if there is none, or several."""
    found = [
        n
        for n, (head, *rest) in ((n, name) for n, name in enumerate(names) if name)
        if head == axis and sorted(rest) == sorted(words)
    ]
    return found[0] if len(found) == 1 else None


def _second(names: Sequence[tuple[str, ...]], axis: str, words: tuple[str, ...]) -> int:
    """The column of a box's other corner, such as ``x2``; -1 if there is none."""
    found = (_place(names, f"{axis}2", w) for w in (words, ()))
    return next((n for n in found if n is not None), -1)


def _slicer_system(path: Path, line: str) -> str:
    """The coordinate system that a comment names; empty if it names none."""
    found = _SYSTEM.match(line.strip())
    if found is None:
        return ""
    system = SLICER_SYSTEMS.get(found[1].upper().rstrip(","))
    if system is None:
        raise ImageReadError(
            f"{path}: expected the coordinate system LPS or RAS, got {shown(found[1])}"
        )
    return system


def _rows(
    path: Path, lines: Iterator[tuple[int, str]], delimiter: str
) -> Iterator[tuple[int, list[str]]]:
    """Yield each row of a table with its line; comments and rows of empty cells are left out."""
    last = 0

    def texts() -> Iterator[str]:
        nonlocal last
        for number, line in lines:
            last = number
            if not line.lstrip().startswith("#"):
                yield re.sub(r"\s+", " ", line.strip()) if delimiter == " " else line

    try:
        for row in csv.reader(texts(), delimiter=delimiter):
            if any(cell.strip() for cell in row):
                yield last, row
    except csv.Error as error:
        raise ImageReadError(f"{path}, line {last}: expected a row of points: {error}") from error


def _values(path: Path, number: int, row: Sequence[str], columns: Columns) -> list[float]:
    cells = [row[c].strip() if c < len(row) else "" for c in columns.numbers]
    if columns.delimiter != ",":
        cells = [cell.replace(",", ".") if cell.count(",") == 1 else cell for cell in cells]
    values = [number_of(cell) for cell in cells]
    if not all(abs(value) <= FARTHEST_MM for value in values):
        raise ImageReadError(
            f"{path}, line {number}: expected finite numbers in mm, got {shown(','.join(cells))}"
        )
    place = columns.defined
    defined = row[place] if place is not None and place < len(row) else "1"
    if defined.strip().lower() in ("0", "false"):
        raise ImageReadError(
            f"{path}, line {number}: expected a point with a position, got one that is not "
            "defined: place it or remove it"
        )
    return values
