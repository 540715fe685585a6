"""Evaluate a transform before and after, in one value that tables and JSON share.

"Before" is the initial transform, or the identity in physical space if there is none. What is not
there to measure with (label maps, landmarks, a known field) leaves its measures out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from iterreg.displacement import (
    DisplacementField,
    Transform,
    moving_index,
    resample_transform,
    total_displacement_vox,
    warp_labels,
)
from iterreg.evaluation.values import Measures, RegionMeasures
from iterreg.geometry import Grid, Points
from iterreg.image import LabelMap
from iterreg.metrics import (
    TreSummary,
    coverage,
    dice,
    field_error,
    field_error_mm,
    folding,
    interior_mask,
    sdlogj,
    sdlogj_l2r,
    summarize_tre,
    surface_distance_by_label,
    tre_mm,
    volume_change,
)
from iterreg.regions.field_of_view import Fovs
from iterreg.sampling import sample_nearest

BEFORE_IDENTITY = "identity in physical space"
BEFORE_GIVEN = "the initial transform"


def identity(grid: Grid) -> Transform:
    """The transform that leaves every point where it is."""
    return Transform(np.eye(grid.rank + 1), DisplacementField.zero(grid))


def measure(
    transform: Transform,
    fixed_labels: LabelMap | None = None,
    moving_labels: LabelMap | None = None,
    *,
    start: Transform | None = None,
    landmarks: tuple[Points, Points] | None = None,
    known: Transform | None = None,
    fovs: Fovs = (None, None),
) -> Measures:
    """Measure a transform by its field, and by regions, landmarks and a known field if given.

    Args:
        transform: fixed to moving, on the fixed labels' grid.
        fixed_labels, moving_labels: the same number is the same region; both or neither. Without
            them the whole grid is one region.
        start: the transform to measure as "before"; None is the identity.
        landmarks: fixed and moving, in the same order.
        known: the true transform, as in a phantom.
        fovs: the fields of view, fixed and moving, each bool in its image's shape; None takes the
            whole image. Dice and surface distances count where both images see: a view that cuts a
            region is not an error.

    Raises:
        GeometryError: labels that do not lie on the transform's grid, or landmarks that disagree.
        TransformError: ``known`` has another rank.

    Example:
        >>> grid = Grid((6, 8), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> labels = LabelMap(torch.ones(6, 8, dtype=torch.int32), grid, {1: "lung"})
        >>> measures = measure(identity(grid), labels, labels)
        >>> measures.regions[0].dice_after, measures.sdlogj
        (1.0, 0.0)
        >>> measure(identity(grid), known=identity(grid)).field_error_after.overall.max_mm
        0.0
    """
    first = on_cpu(identity(transform.grid) if start is None else start)
    transform = on_cpu(transform)
    total = total_displacement_vox(transform)
    fixed = torch.zeros(transform.grid.shape_zyx, dtype=torch.int32)
    measures = measure_landmarks(transform, landmarks, first)
    if fixed_labels is not None and moving_labels is not None:
        fixed = fixed_labels.data.cpu()
        moving = replace(moving_labels, data=moving_labels.data.cpu())
        mapped = moving_index(transform, moving.grid)
        compared = (
            _Compared.of(
                fixed, _labels_before(moving, first, start is None), _seen(fovs, first, moving.grid)
            ),
            _Compared.of(
                fixed,
                sample_nearest(moving.data, mapped),
                _seen(fovs, transform, moving.grid, mapped),
            ),
        )
        measures = replace(
            measures,
            regions=_measure_regions(fixed_labels, moving, compared, mapped, total),
            without_partner=_without_partner(fixed_labels, moving_labels),
            sdlogj_l2r=sdlogj_l2r(_learn2reg_order(mapped)),
        )
    if known is not None:
        known = resample_transform(on_cpu(known), transform.grid)
        errors = (field_error_mm(t, known) for t in (first, transform))
        before_error, after_error = (field_error(e, fixed) for e in errors)
        measures = replace(measures, field_error_before=before_error, field_error_after=after_error)
    return replace(
        measures,
        before=BEFORE_IDENTITY if start is None else BEFORE_GIVEN,
        folding=folding(total, fixed),
        sdlogj=sdlogj(total),
        sdlogj_interior=sdlogj(total, interior_mask(fixed)),
    )


def measure_landmarks(
    transform: Transform, landmarks: tuple[Points, Points] | None, first: Transform | None = None
) -> Measures:
    """Measure landmarks alone, for a transform whose grid says nothing, such as an affine.

    Args:
        transform: fixed to moving.
        landmarks: fixed and moving, in the same order; None measures nothing.
        first: the transform to measure as "before"; None is the identity.

    Raises:
        GeometryError: the landmarks disagree.

    Example:
        >>> grid = Grid((6, 8), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> pair = Points(np.zeros((1, 2))), Points(np.array([[3.0, 4.0]]))
        >>> measure_landmarks(identity(grid), pair).tre_after.mean_mm
        5.0
    """
    first = identity(transform.grid) if first is None else first
    return Measures(
        BEFORE_IDENTITY, tre_before=_tre(landmarks, first), tre_after=_tre(landmarks, transform)
    )


def on_cpu(transform: Transform) -> Transform:
    """The same transform with its field on the CPU."""
    field = replace(transform.field, vox=transform.field.vox.detach().cpu())
    return replace(transform, field=field)


def _labels_before(moving: LabelMap, start: Transform, is_identity: bool) -> torch.Tensor:
    if is_identity and moving.grid.same_space(start.grid):
        return moving.data
    return warp_labels(moving, start).data


def _without_partner(fixed: LabelMap, moving: LabelMap) -> tuple[str, ...]:
    ours, theirs = fixed.values, moving.values
    alone = [fixed.title(v) for v in ours if v not in theirs]
    return (*alone, *(moving.title(v) for v in theirs if v not in ours))


class _Compared(NamedTuple):
    """Fixed and warped labels, where both images see."""

    fixed: torch.Tensor
    warped: torch.Tensor

    @classmethod
    def of(cls, fixed: torch.Tensor, warped: torch.Tensor, seen: torch.Tensor | None) -> _Compared:
        if seen is None:
            return cls(fixed, warped)
        return cls(torch.where(seen, fixed, 0), torch.where(seen, warped, 0))


def _seen(
    fovs: Fovs, transform: Transform, moving: Grid, mapped: torch.Tensor | None = None
) -> torch.Tensor | None:
    """(*fixed shape) bool, what both images see behind a transform; None: everything."""
    seen, theirs = fovs
    if theirs is not None:
        mapped = moving_index(transform, moving) if mapped is None else mapped
        landed = sample_nearest(theirs, mapped)
        seen = landed if seen is None else seen & landed
    return seen


def _measure_regions(
    fixed: LabelMap,
    moving: LabelMap,
    compared: tuple[_Compared, _Compared],
    mapped: torch.Tensor,
    total: torch.Tensor,
) -> tuple[RegionMeasures, ...]:
    theirs = moving.values  # counted anew at each call
    values = [v for v in fixed.values if v in theirs]
    data, spacing = fixed.data.cpu(), fixed.grid.spacing_zyx_mm
    overlaps = [dice(*both, values) for both in compared]
    distances = [surface_distance_by_label(*both, values, spacing) for both in compared]
    reached = coverage(moving.data, data, mapped, values)
    change = volume_change(total, data, values)
    return tuple(
        RegionMeasures(
            v,
            fixed.title(v),
            overlaps[0][v],
            overlaps[1][v],
            distances[0][v].hd95_mm,
            distances[1][v].hd95_mm,
            distances[0][v].mean_mm,
            distances[1][v].mean_mm,
            reached[v],
            change[v],
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
