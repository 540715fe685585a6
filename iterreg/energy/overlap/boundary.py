"""Boundaries, matched from both sides by their signed distances.

::

    E(u) = sum_n w / band^2 (d_M(q_n) - d_F(n))^2        n with |d_F(n)| < band

d is the signed distance to a region's boundary, negative inside, clamped to +-band. Clamping keeps
the interior out of it: depth is no correspondence, since a ventricle that contracts is 20 mm deep
before and 10 mm deep after.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from iterreg.config import Overlap
from iterreg.energy.distance import signed_distance_mm
from iterreg.energy.overlap.crops import Crop, margin_voxels, sampled_difference
from iterreg.energy.overlap.types import Frame, RegionPair, is_thick
from iterreg.energy.region import Region
from iterreg.energy.terms import Term
from iterreg.neighbourhood import Box


def boundary_terms(config: Overlap, pair: RegionPair, frame: Frame) -> list[Term]:
    """Signed distances in a band around the fixed boundary; see :mod:`iterreg.energy.overlap`.

    Nobody knows whether the region goes on beyond the edge of the moving field of view. So a voxel
    of the fixed region finds no boundary at that edge, and a voxel around it may leave the field of
    view to get out of the region: a heart's base that moves out of the stack of slices takes along
    what lay above it.
    """
    band_mm = frame.band_mm(config.band_mm)
    spacing_mm, moving_spacing_mm = frame.fixed_spacing_mm, frame.moving_spacing_mm
    if pair.in_slices:
        spacing_mm = _within_slices(spacing_mm, pair.fixed.shape)
        moving_spacing_mm = _within_slices(moving_spacing_mm, pair.moving.shape)
    region = pair.fixed.grown(margin_voxels(band_mm, spacing_mm))
    fixed_mm = signed_distance_mm(region.mask, frame.fixed_fov[region.box], spacing_mm, band_mm)
    chosen = (fixed_mm.abs() < band_mm) & frame.common_fov[region.box]
    weight = config.weight * pair.weight / config.band_mm**2
    ours = Crop(fixed_mm, region.box)
    closed = _closed_distances(pair.moving, frame, moving_spacing_mm, band_mm)
    if not _is_cut(pair.moving, frame.moving_fov, moving_spacing_mm):
        return [sampled_difference(ours, closed, chosen, weight, frame)]
    own, around = chosen & (fixed_mm <= 0), chosen & (fixed_mm > 0)
    open_ended = _open_distances(pair.moving, moving_spacing_mm, band_mm)
    return [
        sampled_difference(ours, closed, own, weight, frame),
        sampled_difference(ours, open_ended, around, weight, frame),
    ]


def _closed_distances(
    moving: Region, frame: Frame, spacing_mm: tuple[float, ...], band_mm: float
) -> Crop:
    """Signed distances with no boundary at the edge of the field of view."""
    near = moving.grown(margin_voxels(band_mm, spacing_mm))
    distance = signed_distance_mm(near.mask, frame.moving_fov[near.box], spacing_mm, band_mm)
    wide = near.grown(margin_voxels(frame.margin_mm, spacing_mm))
    return Crop(near.spread(distance, wide.box, band_mm), wide.box)


def _open_distances(moving: Region, spacing_mm: tuple[float, ...], band_mm: float) -> Crop:
    """Signed distances with a boundary at the edge of the grid, beyond which the crop reaches."""
    box = _widened(moving, margin_voxels(band_mm, spacing_mm))
    mask = moving.spread(moving.mask, box, False)
    return Crop(signed_distance_mm(mask, None, spacing_mm, band_mm), box)


def _is_cut(region: Region, fov: Tensor, spacing_mm: Sequence[float]) -> bool:
    """Whether the region may reach the edge of the field of view, along an axis with spacing."""
    sides = list(zip(region.box, region.shape, spacing_mm, strict=True))
    margins = [0 if n == 1 or math.isinf(s) else 1 for _, n, s in sides]
    at_edge = any(
        margin and (part.start == 0 or part.stop == n)
        for margin, (part, n, _) in zip(margins, sides, strict=True)
    )
    return at_edge or not bool(fov[region.grown(margins).box].all())


def _widened(region: Region, margins: Sequence[int]) -> Box:
    """The region's box, wider by so many voxels even where the grid ends."""
    return tuple(
        slice(part.start - margin, part.stop + margin) if n > 1 else part
        for part, margin, n in zip(region.box, margins, region.shape, strict=True)
    )


def _within_slices(spacing_mm: Sequence[float], shape: Sequence[int]) -> tuple[float, ...]:
    """The spacing, with thick slices infinitely far apart."""
    thick = is_thick(spacing_mm, shape)
    return tuple(math.inf if t else s for s, t in zip(spacing_mm, thick, strict=True))
