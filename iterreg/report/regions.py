"""The table of the regions: overlap, surface distance, coverage and volume, before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from iterreg.evaluation import measure
from iterreg.geometry import Grid
from iterreg.report.source import Source
from iterreg.report.words import amount, number, rows_of, table

ML = 1000.0
"""Cubic millimetres in a millilitre."""

LATER = ("coverage", "volume_change", "mean_surface_after_mm", "voxels_warped")
"""What the tables of older versions lack."""


@dataclass(frozen=True)
class RegionRow:
    """One region, every figure with its unit.

    Args:
        name: of the region.
        dice, hd95, mean_surface: before and after.
        coverage: share of the moving region that is reached.
        volumes: of the fixed region, the moving region before, and the warped one after.
        volume_change: volume of the fixed region as mapped, over its own; then the moving region's.
    """

    name: str
    dice: tuple[str, str]
    hd95: tuple[str, str]
    mean_surface: tuple[str, str]
    coverage: str
    volumes: tuple[str, str, str]
    volume_change: str

    @property
    def figures(self) -> tuple[str, ...]:
        """All figures, in the order of the table's columns."""
        pairs = (*self.dice, *self.hd95, *self.mean_surface)
        return (*pairs, self.coverage, *self.volumes, self.volume_change)


def region_rows(source: Source) -> list[RegionRow]:
    """One row per region that both images have."""
    rows = rows_of(table(source.tables, "measures"), "regions")
    if not all(key in row for row in rows for key in LATER):
        rows = _completed(source, rows)
    return [_row(row, source) for row in rows]


def _completed(source: Source, rows: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows of an older run, with what its tables lack measured from its label maps."""
    fixed = source.fixed_regions_on(source.transform.grid)
    if source.labels is None or fixed is None:
        return rows
    measures = measure(source.transform, fixed, source.labels[1], start=source.start)
    found = {row["value"]: row for row in measures.to_dict()["regions"]}
    return [
        found.get(row.get("value"), {}) | {k: v for k, v in row.items() if v is not None}
        for row in rows
    ]


def _row(row: Mapping[str, Any], source: Source) -> RegionRow:
    def both(key: str, digits: int, unit: str) -> tuple[str, str]:
        first, second = (row.get(key.format(when)) for when in ("before", "after"))
        return number(first, digits, unit), number(second, digits, unit)

    reached = row.get("coverage")
    return RegionRow(
        name=str(row.get("name", f"label {row.get('value', 0)}")).replace("_", " "),
        dice=both("dice_{}", 3, ""),
        hd95=both("hd95_{}_mm", 1, "mm"),
        mean_surface=both("mean_surface_{}_mm", 2, "mm"),
        coverage=number(None if reached is None else 100 * reached, 1, "%"),
        volumes=_volumes(row, source),
        volume_change=_change(row),
    )


def _volumes(row: Mapping[str, Any], source: Source) -> tuple[str, str, str]:
    """Of the fixed, the moving and the warped region, in ml; in a picture, areas in mm²."""
    if source.labels is None:
        none = amount(None, "ml")
        return none, none, none
    fixed, moving = (labels.grid for labels in source.labels)
    divisor, unit = (1.0, "mm²") if fixed.rank == 2 else (ML, "ml")

    def volume(name: str, grid: Grid) -> str:
        voxels = row.get(f"voxels_{name}")
        return amount(None if voxels is None else voxels * grid.voxel_volume_mm3 / divisor, unit)

    return volume("fixed", fixed), volume("moving", moving), volume("warped", fixed)


def _change(row: Mapping[str, Any]) -> str:
    """The change as mapped, and what it would be if the whole region met its partner."""
    mapped = _times(row.get("volume_change"))
    partner = row.get("volume_partner")
    return mapped if partner is None else f"{mapped} of {_times(partner)}"


def _times(value: Any) -> str:
    text = number(value, 3)
    return f"x {text}" if text[0].isdigit() else text
