"""Numbers and names as people read them: each number with its unit, each gap said in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

NOT_MEASURED = "not measured"
NOT_RECORDED = "not recorded"

UNITS = {"mm": "mm", "ml": "ml", "s": "s", "percent": "%", "vox": "voxels", "deg": "degrees"}
"""Last part of a name, and the unit that it stands for."""


def number(value: Any, digits: int, unit: str = "") -> str:
    """A number with its unit, or "not measured".

    Example:
        >>> number(0.5, 2, "mm"), number(None, 1), number(float("nan"), 1)
        ('0.50 mm', 'not measured', 'not measured')
    """
    if not is_number(value):
        return NOT_MEASURED
    return f"{value:.{digits}f} {unit}".rstrip()


def amount(value: Any, unit: str = "") -> str:
    """A number to three significant digits, without an exponent, whole if it is large.

    Example:
        >>> amount(0.01234, "ml"), amount(5.678, "ml"), amount(12345.6, "ml"), amount(0, "ml")
        ('0.0123 ml', '5.68 ml', '12346 ml', '0 ml')
    """
    if not is_number(value) or value == 0:
        return number(value, 0, unit)
    return number(value, max(0, 2 - math.floor(math.log10(abs(value)))), unit)


def short(value: Any, unit: str = "") -> str:
    """A number to four significant digits with its unit; words stay as they are.

    Example:
        >>> short(0.123456, "mm"), short(12345678), short("whole"), short(None)
        ('0.1235 mm', '12345678', 'whole', 'not measured')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value} {unit}".rstrip()
    if isinstance(value, float):
        return f"{value:.4g} {unit}".rstrip() if math.isfinite(value) else NOT_MEASURED
    return NOT_MEASURED if value is None else str(value)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def split_unit(name: str) -> tuple[str, str]:
    """The words of a name, and the unit that its last part stands for.

    Example:
        >>> split_unit("inconsistency_p95_mm"), split_unit("affine_volume")
        (('inconsistency p95', 'mm'), ('affine volume', ''))
    """
    stem, _, last = name.rpartition("_")
    if stem and last in UNITS:
        return stem.replace("_", " "), UNITS[last]
    return name.replace("_", " "), ""


def flatten(tables: Mapping[str, Any], joint: str, before: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested tables with the names that lead to them.

    Example:
        >>> list(flatten({"a": {"b": 1}, "c": [2, 3]}, "."))
        [('a.b', 1), ('c', [2, 3])]
    """
    for name, value in tables.items():
        path = f"{before}{joint}{name}" if before else str(name)
        if isinstance(value, Mapping):
            yield from flatten(value, joint, path)
        else:
            yield path, value


def by_times(values: Sequence[Any], digits: int | None = None) -> str:
    """Numbers of several axes in one cell.

    Example:
        >>> by_times((124, 71, 80)), by_times((1.0, 2.5), 2)
        ('124 x 71 x 80', '1.00 x 2.50')
    """
    return " x ".join(short(v) if digits is None else f"{v:.{digits}f}" for v in values)


def table(tables: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    """The table at a path of nested tables, empty if it is missing or no table."""
    found: Any = tables
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def rows_of(tables: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """The tables of a list, without anything else that it may hold."""
    found = tables.get(name)
    if not isinstance(found, list | tuple):
        return []
    return [row for row in found if isinstance(row, Mapping)]
