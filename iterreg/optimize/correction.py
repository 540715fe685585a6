"""The last correction: boundaries are brought together, and nothing else.

A segmenter draws a boundary with an error of up to a voxel. Fitting it harder during the whole
optimisation would pull the interior along. So it is fitted last, by a small correction v that dies
out away from it::

    E(v) = sum over boundary samples of w |d_moving - d_fixed|^2 + |grad v|^2 + |v|^2 / length^2
"""

from __future__ import annotations

import torch

from iterreg.config import Config, Overlap
from iterreg.energy.overlap import is_thick, overlap_terms
from iterreg.energy.smoothness import edge_weights
from iterreg.energy.terms import SquaredDifference, grouped, reweighted
from iterreg.geometry import Matrix
from iterreg.neighbourhood import dilate
from iterreg.optimize.field import Field
from iterreg.optimize.pair import Pair
from iterreg.optimize.problem import Problem, active_rows, overlap_frame, visible_boundaries
from iterreg.optimize.solver import solve

STEPS = 5
TOLERANCE = 1e-2

BAND_VOXELS = 1.5
"""Boundaries are nearly together by then; a narrow band leaves the interior alone."""

REACH_LENGTHS = 3.0
"""The correction dies out within so many of its lengths: no voxel farther away has to move."""

SLICE_REPEATS = 6
"""A thick slice is repeated so often that interpolation blends only its outer sixth with the next
slice: labels are pulled by their nearest voxel and never show a shape between two slices."""


def correct_boundaries(config: Config, level: Pair, affine_lps: Matrix, field: Field) -> Field:
    """Bring the boundaries of the regions together.

    Args:
        config: how strictly, over what length, and where.
        level: the pair at the finest level.
        affine_lps: the affine behind the displacement.
        field: the level's result.

    Returns:
        The corrected field.
    """
    correction, fixed = config.correction, level.fixed
    label_count = level.interfaces.label_count
    if correction.weight == 0 or label_count == 1:
        return field
    mapping = level.index_map(affine_lps)
    common_fov = level.common_fov(mapping, field.u_mm)
    visible = visible_boundaries(correction.where, fixed, label_count)
    voxel_mm = fixed.least_spacing_mm
    band_mm = BAND_VOXELS * voxel_mm
    match = Overlap("boundary", correction.weight * band_mm**2, band_mm)
    pairs = list(level.region_pairs().values())
    terms = overlap_terms(match, pairs, overlap_frame(level, common_fov & visible))
    repeats = [
        SLICE_REPEATS if thick else 1
        for thick in is_thick(level.moving.spacing_mm, level.moving.shape)
    ]
    # No label is more precise than its voxels.
    scale_mm = max(correction.robust_scale_mm, voxel_mm)
    across = [t.nearest_across_slices(repeats) for t in terms if isinstance(t, SquaredDifference)]
    bands = reweighted(across, field.u_mm, mapping, scale_mm)
    sampled = torch.zeros_like(common_fov)
    if bands:
        sampled[torch.cat([term.voxels for term in bands]).long().unbind(1)] = True
    reach = round(REACH_LENGTHS * correction.length_mm / voxel_mm)
    problem = Problem(
        similarity=[],
        overlap=grouped(bands, fixed.shape),
        edges=edge_weights(fixed.labels, level.interfaces.tangential, fixed.spacing_mm),
        mapping=mapping,
        voxels=max(1, int(common_fov.sum())),
        active_rows=active_rows(dilate(sampled, reach), common_fov),
        base=field.u_mm,
        screening=1 / correction.length_mm**2,
    )
    change = solve(problem, torch.zeros_like(field.u_mm), STEPS, TOLERANCE).u_mm
    return Field(field.u_mm + change, field.side)
