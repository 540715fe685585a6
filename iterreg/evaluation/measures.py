"""Evaluate a transform before and after, in one value that tables and JSON share.

"Before" is the initial transform, or the identity in physical space if there is none. What is not
there to measure with (label maps, landmarks, a known field) leaves its measures out.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from iterreg.evaluation.volumes import volume_notes
from iterreg.geometry import Grid, Points, fixed_to_moving_index
from iterreg.image import LabelMap
from iterreg.index_maps import affine_of_index
from iterreg.labels import label_counts
from iterreg.metrics import (
    TreSummary,
    coverage,
    dice,
    field_error,
    field_error_mm,
    folding,
    interior_mask,
    summarize_tre,
    surface_distance_by_label,
    tre_mm,
)
from iterreg.metrics.jacobian import both_determinants, mean_by_label, sdlogj_l2r_of, spread_of_logs
from iterreg.regions.field_of_view import Fovs
from iterreg.sampling import is_inside, sample_nearest

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
    device: torch.device | str = "cpu",
) -> Measures:
    """Measure a transform by its field, and by regions, landmarks and a known field if given.

    Args:
        transform: fixed to moving, on the fixed labels' grid.
        fixed_labels, moving_labels: the same number is the same region; both or neither. Without
            them the whole grid is one region.
        start: the transform to measure as "before"; None is the identity.
        landmarks: fixed and moving, in the same order.
        known: the true transform, as in a phantom.
        fovs: the fields of view, fixed and moving, each bool in its image's shape. Dice and surface
            distances count where both images see: a view, or the edge of an image, that cuts a
            region is not an error. Without a view, what lies outside that image is background.
        device: where the volumes are compared.

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
    first = identity(transform.grid) if start is None else start
    measures = measure_landmarks(on_cpu(transform), landmarks, on_cpu(first))
    labels = None
    if fixed_labels is not None and moving_labels is not None:
        labels = _on(fixed_labels, device), _on(moving_labels, device)
    if known is not None:
        partition = None if labels is None else labels[0].data.cpu()
        measures = _with_field_errors(measures, on_cpu(known), (first, transform), partition)
    measures = replace(measures, before=BEFORE_IDENTITY if start is None else BEFORE_GIVEN)
    first, transform = _moved(first, device), _moved(transform, device)
    if labels is None:
        whole = torch.zeros(transform.grid.shape_zyx, dtype=torch.int32, device=device)
        return _measure_field(measures, total_displacement_vox(transform), whole, ())
    fixed, moving = labels
    theirs = moving.values  # counted anew at each call
    values = [v for v in fixed.values if v in theirs]
    ours_seen, theirs_seen = (None if fov is None else fov.to(device) for fov in fovs)
    seen = ours_seen, theirs_seen
    before = _labels_before(moving, first, start is None)
    compared = [_Compared.of(fixed.data, before, _seen(seen, first, moving.grid))]
    mapped = moving_index(transform, moving.grid)
    after = sample_nearest(moving.data, mapped)
    seen_after = _seen(seen, transform, moving.grid, mapped)
    compared.append(_Compared.of(fixed.data, after, seen_after))
    reached = coverage(moving.data, fixed.data, mapped, values)
    sizes = [label_counts(data) for data in (fixed.data, moving.data, after)]
    del after, seen_after, mapped  # a volume each
    measures = replace(
        measures,
        regions=_measure_regions(fixed, values, compared, reached, sizes, moving.grid),
        without_partner=_without_partner(fixed, moving),
        sdlogj_l2r=sdlogj_l2r_of(_learn2reg_displacement(transform, moving.grid)),
    )
    measures = _measure_field(measures, total_displacement_vox(transform), fixed.data, values)
    return replace(measures, notes=(*measures.notes, *volume_notes(measures.regions, labels, fovs)))


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
    return _moved(transform, "cpu")


def _moved(transform: Transform, device: torch.device | str) -> Transform:
    field = replace(transform.field, vox=transform.field.vox.detach().to(device))
    return replace(transform, field=field)


def _on(labels: LabelMap, device: torch.device | str) -> LabelMap:
    return replace(labels, data=labels.data.to(device))


def _with_field_errors(
    measures: Measures,
    known: Transform,
    transforms: tuple[Transform, Transform],
    partition: torch.Tensor | None,
) -> Measures:
    """Measures with the errors of the fields of two transforms, before and after."""
    known = resample_transform(known, transforms[0].grid)
    errors = (field_error_mm(on_cpu(t), known) for t in transforms)
    before, after = (field_error(error, partition) for error in errors)
    return replace(measures, field_error_before=before, field_error_after=after)


def _measure_field(
    measures: Measures, total: torch.Tensor, fixed: torch.Tensor, values: Sequence[int]
) -> Measures:
    """Measures with folding, Jacobian, and the change of volume of each region."""
    det, within = both_determinants(total, fixed, "measure")
    change = mean_by_label(within, fixed, values)
    return replace(
        measures,
        regions=tuple(replace(r, volume_change=change[r.value]) for r in measures.regions),
        folding=folding(total, fixed),
        sdlogj=spread_of_logs(det),
        sdlogj_interior=spread_of_logs(det, interior_mask(fixed)),
    )


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
        is_whole = bool(theirs.all())
        landed = is_inside(mapped, theirs.shape) if is_whole else sample_nearest(theirs, mapped)
        seen = landed if seen is None else seen & landed
    return seen


def _measure_regions(
    fixed: LabelMap,
    values: Sequence[int],
    compared: Sequence[_Compared],
    reached: dict[int, float],
    sizes: Sequence[dict[int, int]],
    moving: Grid,
) -> tuple[RegionMeasures, ...]:
    """The measures of each region; its change of volume is not known yet."""
    spacing = fixed.grid.spacing_zyx_mm
    larger = moving.voxel_volume_mm3 / fixed.grid.voxel_volume_mm3
    overlaps = [dice(*both, values) for both in compared]
    distances = [surface_distance_by_label(*both, values, spacing) for both in compared]
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
            float("nan"),
            sizes[0][v],
            sizes[1].get(v, 0),
            sizes[2].get(v, 0),
            larger * sizes[1].get(v, 0) / sizes[0][v],
        )
        for v in values
    )


def _learn2reg_displacement(transform: Transform, moving: Grid) -> torch.Tensor:
    """Moving index minus fixed index, (rank, *fixed shape), from small numbers alone."""
    matrix = fixed_to_moving_index(transform.grid, transform.affine_lps, moving)
    return affine_of_index(matrix - np.eye(len(matrix)), matrix, transform.field.vox)


def _tre(landmarks: tuple[Points, Points] | None, transform: Transform) -> TreSummary | None:
    if landmarks is None:
        return None
    return summarize_tre(tre_mm(*landmarks, transform.map_points))
