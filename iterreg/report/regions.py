"""The table of the regions: overlap, surface distance, coverage and volume, before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from iterreg.displacement import moving_index, total_displacement_vox
from iterreg.evaluation import identity
from iterreg.labels import label_counts
from iterreg.metrics import coverage, surface_distance_by_label, volume_change
from iterreg.report.source import Source
from iterreg.report.words import number, rows_of, table
from iterreg.sampling import sample_nearest

ML = 1000.0
"""Cubic millimetres in a millilitre."""


@dataclass(frozen=True)
class RegionRow:
    """One region, every figure with its unit.

    Args:
        name: of the region.
        dice, hd95, mean_surface: before and after.
        coverage: share of the moving region that is reached.
        volumes: of the fixed region, the moving region before, and the warped one after.
        volume_change: volume as mapped over volume in the fixed image.
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
    values = [int(row["value"]) for row in rows if "value" in row]
    measured = _Measured.of(source, rows, values) if values else None
    return [_row(row, measured) for row in rows]


@dataclass(frozen=True)
class _Measured:
    """What the tables of the run may lack, measured from the label maps."""

    unit: str
    volumes: dict[int, tuple[float, float, float]]
    coverage: dict[int, float]
    change: dict[int, float]
    mean_surface: dict[int, tuple[float, float]]

    @classmethod
    def of(
        cls, source: Source, rows: list[Mapping[str, Any]], values: list[int]
    ) -> _Measured | None:
        fixed = source.fixed_regions_on(source.transform.grid)
        if source.labels is None or fixed is None:
            return None
        moving = source.labels[1]
        ours, theirs = fixed.data.cpu(), moving.data.cpu()
        mapped = moving_index(source.transform, moving.grid)
        warped = sample_nearest(theirs, mapped)
        cell, their_cell = fixed.grid.voxel_volume_mm3, moving.grid.voxel_volume_mm3
        flat = fixed.grid.rank == 2
        divisor = 1.0 if flat else ML
        counts = [_counts(part, values) for part in (ours, theirs, warped)]
        volumes = {
            v: (
                counts[0][v] * cell / divisor,
                counts[1][v] * their_cell / divisor,
                counts[2][v] * cell / divisor,
            )
            for v in values
        }
        lacks = {
            key: any(row.get(key) is None for row in rows)
            for key in ("coverage", "volume_change", "mean_surface_after_mm")
        }
        reached = coverage(theirs, ours, mapped, values) if lacks["coverage"] else {}
        change = {}
        if lacks["volume_change"]:
            change = volume_change(total_displacement_vox(source.transform), ours, values)
        mean = {}
        if lacks["mean_surface_after_mm"]:
            spacing = fixed.grid.spacing_zyx_mm
            start = identity(fixed.grid) if source.start is None else source.start
            before = sample_nearest(theirs, moving_index(start, moving.grid))
            first, second = (
                surface_distance_by_label(ours, other, values, spacing)
                for other in (before, warped)
            )
            mean = {v: (first[v].mean_mm, second[v].mean_mm) for v in values}
        return cls("mm²" if flat else "ml", volumes, reached, change, mean)


def _counts(labels: torch.Tensor, values: list[int]) -> dict[int, int]:
    counts = label_counts(labels)
    return {v: counts.get(v, 0) for v in values}


def _row(row: Mapping[str, Any], measured: _Measured | None) -> RegionRow:
    value = int(row.get("value", 0))

    def either(key: str, other: Mapping[int, float]) -> Any:
        found = row.get(key)
        return other.get(value) if found is None else found

    def both(key: str, digits: int, unit: str) -> tuple[str, str]:
        first, second = (row.get(key.format(when)) for when in ("before", "after"))
        return number(first, digits, unit), number(second, digits, unit)

    lacks: Mapping[int, float] = {}
    reached = either("coverage", measured.coverage if measured else lacks)
    mean_surface = both("mean_surface_{}_mm", 2, "mm")
    if measured and value in measured.mean_surface:
        before_mm, after_mm = measured.mean_surface[value]
        mean_surface = number(before_mm, 2, "mm"), number(after_mm, 2, "mm")
    volumes = measured.volumes.get(value) if measured else None
    unit = measured.unit if measured else "ml"
    three = tuple(number(v, 1, unit) for v in (volumes or (None, None, None)))
    return RegionRow(
        name=str(row.get("name", f"label {value}")).replace("_", " "),
        dice=both("dice_{}", 3, ""),
        hd95=both("hd95_{}_mm", 1, "mm"),
        mean_surface=mean_surface,
        coverage=number(None if reached is None else 100 * reached, 1, "%"),
        volumes=(three[0], three[1], three[2]),
        volume_change=_times(either("volume_change", measured.change if measured else lacks)),
    )


def _times(value: Any) -> str:
    text = number(value, 3)
    return f"x {text}" if text[0].isdigit() else text
