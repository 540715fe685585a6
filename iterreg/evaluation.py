"""Evaluate a registration before and after, in one value that tables and JSON share.

"Before" is the initial transform, or the identity in physical space if there is none.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from iterreg.displacement import (
    DisplacementField,
    Transform,
    moving_index,
    sample_nearest,
    total_displacement_vox,
    warp_labels,
)
from iterreg.geometry import Grid, Points
from iterreg.image import LabelMap
from iterreg.metrics import (
    Folding,
    TreSummary,
    coverage,
    dice,
    folding,
    interior_mask,
    sdlogj,
    sdlogj_l2r,
    summarize_tre,
    surface_distance_by_label,
    tre_mm,
    volume_change,
)

BEFORE_IDENTITY = "identity in physical space"
BEFORE_GIVEN = "the initial transform"


@dataclass(frozen=True)
class RegionMeasures:
    """Measures of one region before and after; NaN if it is missing on one side.

    Args:
        value, name: its label.
        dice_before, dice_after: 0 to 1.
        hd95_before_mm, hd95_after_mm: 95th percentile of the surface distance.
        coverage: share of the moving region that is reached, 0 to 1; None without ``in_depth``.
        volume_change: volume in the moving image over volume in the fixed image, as mapped;
            None without ``in_depth``.
        mean_surface_before_mm, mean_surface_after_mm: mean distance of the surfaces.
    """

    value: int
    name: str
    dice_before: float
    dice_after: float
    hd95_before_mm: float
    hd95_after_mm: float
    coverage: float | None = None
    volume_change: float | None = None
    mean_surface_before_mm: float = math.nan
    mean_surface_after_mm: float = math.nan


@dataclass(frozen=True)
class Measures:
    """All measures of a registration.

    Args:
        before: what "before" means, in words.
        regions: one entry per label that both images have.
        without_partner: names of the labels that only one image has.
        folding: of the total transform, interior and interface, with non-diffeomorphic volumes.
        sdlogj, sdlogj_interior: std of log det J, whole grid and interior voxels.
        sdlogj_l2r: as the Learn2Reg evaluator computes it, the number to compare with papers;
            None without ``in_depth``.
        tre_before, tre_after: landmark errors; None without landmarks.
    """

    before: str
    regions: tuple[RegionMeasures, ...]
    without_partner: tuple[str, ...]
    folding: Folding
    sdlogj: float
    sdlogj_interior: float
    sdlogj_l2r: float | None
    tre_before: TreSummary | None
    tre_after: TreSummary | None

    def to_dict(self) -> dict[str, Any]:
        """Plain tables for JSON; NaN and infinity become None."""
        tables: dict[str, Any] = without_nan(dataclasses.asdict(self))
        folding = self.folding
        tables["folding"] |= without_nan(
            {
                "share_interior": folding.share_interior,
                "ndv_vox": folding.ndv_vox,
                "ndv_percent": folding.ndv_percent,
                "interior_ndv_percent": folding.interior_ndv_percent,
            }
        )
        return tables


def without_nan(value: Any) -> Any:
    """Replace NaN and infinity, which JSON lacks, by None in nested dicts and lists.

    Example:
        >>> without_nan({"dice": [1.0, float("nan")]})
        {'dice': [1.0, None]}
    """
    if isinstance(value, dict):
        return {str(k): without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def identity(grid: Grid) -> Transform:
    """The transform that leaves every point where it is."""
    return Transform(np.eye(grid.rank + 1), DisplacementField.zero(grid))


def measure(
    transform: Transform,
    fixed_labels: LabelMap,
    moving_labels: LabelMap,
    *,
    start: Transform | None = None,
    landmarks: tuple[Points, Points] | None = None,
    in_depth: bool = False,
) -> Measures:
    """Measure a transform by its regions, its field, and landmarks.

    Args:
        transform: fixed to moving, on the fixed labels' grid.
        fixed_labels, moving_labels: the same number is the same region.
        start: the transform to measure as "before"; None is the identity.
        landmarks: fixed and moving, in the same order.
        in_depth: add coverage, volume change and ``sdlogj_l2r``, which doubles the time.

    Raises:
        GeometryError: labels that do not lie on the transform's grid, or landmarks that disagree.

    Example:
        >>> grid = Grid((6, 8), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> labels = LabelMap(torch.ones(6, 8, dtype=torch.int32), grid, {1: "lung"})
        >>> measures = measure(identity(grid), labels, labels)
        >>> measures.regions[0].dice_after, measures.sdlogj
        (1.0, 0.0)
    """
    first = identity(transform.grid) if start is None else start
    transform, first = on_cpu(transform), on_cpu(first)
    fixed, moving = fixed_labels.data.cpu(), moving_labels.data.cpu()
    total = total_displacement_vox(transform)
    mapped = moving_index(transform, moving_labels.grid)
    ours, theirs = fixed_labels.values, moving_labels.values
    shared = [v for v in ours if v in theirs]
    before = _labels_before(replace(moving_labels, data=moving), first, start is None)
    regions = _measure_regions(fixed_labels, shared, before, sample_nearest(moving, mapped))
    if in_depth:
        reached = coverage(moving, fixed, mapped, shared)
        change = volume_change(total, fixed, shared)
        regions = tuple(
            replace(r, coverage=reached[r.value], volume_change=change[r.value]) for r in regions
        )
    alone = [fixed_labels.title(v) for v in ours if v not in theirs]
    alone += [moving_labels.title(v) for v in theirs if v not in ours]
    return Measures(
        before=BEFORE_IDENTITY if start is None else BEFORE_GIVEN,
        regions=regions,
        without_partner=tuple(alone),
        folding=folding(total, fixed),
        sdlogj=sdlogj(total),
        sdlogj_interior=sdlogj(total, interior_mask(fixed)),
        sdlogj_l2r=sdlogj_l2r(_learn2reg_order(mapped)) if in_depth else None,
        tre_before=_tre(landmarks, first),
        tre_after=_tre(landmarks, transform),
    )


def on_cpu(transform: Transform) -> Transform:
    """The same transform with its field on the CPU."""
    field = replace(transform.field, vox=transform.field.vox.detach().cpu())
    return replace(transform, field=field)


def _labels_before(moving: LabelMap, start: Transform, is_identity: bool) -> torch.Tensor:
    if is_identity and moving.grid.same_space(start.grid):
        return moving.data
    return warp_labels(moving, start).data


def _measure_regions(
    fixed: LabelMap, values: list[int], before: torch.Tensor, after: torch.Tensor
) -> tuple[RegionMeasures, ...]:
    spacing = fixed.grid.spacing_zyx_mm
    data = fixed.data.cpu()
    overlaps = [dice(data, warped, values) for warped in (before, after)]
    distances = [
        surface_distance_by_label(data, warped, values, spacing) for warped in (before, after)
    ]
    return tuple(
        RegionMeasures(
            v,
            fixed.title(v),
            overlaps[0][v],
            overlaps[1][v],
            distances[0][v].hd95_mm,
            distances[1][v].hd95_mm,
            mean_surface_before_mm=distances[0][v].mean_mm,
            mean_surface_after_mm=distances[1][v].mean_mm,
        )
        for v in values
    )


def _learn2reg_order(mapped: torch.Tensor) -> torch.Tensor:
    """Moving index minus fixed index as (I, J, K, rank): Learn2Reg's array, axes x first."""
    rank = mapped.shape[0]
    difference = mapped.clone()
    for axis in range(rank):
        own = torch.arange(mapped.shape[1 + axis], dtype=mapped.dtype)
        difference[axis] -= own.view(-1, *[1] * (rank - 1 - axis))
    return difference.flip(0).permute(*reversed(range(1, rank + 1)), 0)


def _tre(landmarks: tuple[Points, Points] | None, transform: Transform) -> TreSummary | None:
    if landmarks is None:
        return None
    return summarize_tre(tre_mm(*landmarks, transform.map_points))
