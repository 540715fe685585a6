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

import torch
from torch import Tensor

from iterreg.config import Overlap
from iterreg.energy.distance import signed_distances_mm
from iterreg.energy.overlap.crops import Crop, margin_voxels, sampled_differences
from iterreg.energy.overlap.types import Frame, RegionPair, is_thick
from iterreg.energy.region import Region
from iterreg.energy.terms import Term
from iterreg.neighbourhood import Box

Spacing = tuple[float, ...]


def boundary_terms(config: Overlap, pairs: Sequence[RegionPair], frame: Frame) -> list[Term]:
    """Signed distances in a band around each fixed boundary; see :mod:`iterreg.energy.overlap`.

    Nobody knows whether a region goes on beyond the edge of the moving field of view. So a voxel
    of the fixed region finds no boundary at that edge, and a voxel around it may leave the field of
    view to get out of the region: a heart's base that moves out of the stack of slices takes along
    what lay above it.
    """
    spacings = (frame.fixed_spacing_mm, frame.moving_spacing_mm)
    terms = _terms(config, [pair for pair in pairs if not pair.in_slices], frame, spacings)
    in_slices = [pair for pair in pairs if pair.in_slices]
    if in_slices:
        shapes = (in_slices[0].fixed.shape, in_slices[0].moving.shape)
        flat = [_within_slices(s, n) for s, n in zip(spacings, shapes, strict=True)]
        terms += _terms(config, in_slices, frame, (flat[0], flat[1]))
    return terms


def _terms(
    config: Overlap, pairs: Sequence[RegionPair], frame: Frame, spacings: tuple[Spacing, Spacing]
) -> list[Term]:
    """The terms of pairs whose distances are taken with the same spacings, fixed and moving."""
    if not pairs:
        return []
    band_mm = frame.band_mm(config.band_mm)
    ours = _distances([p.fixed for p in pairs], frame.fixed_fov, spacings[0], band_mm)
    chosen = [(d.values.abs() < band_mm) & frame.common_fov[d.box] for d in ours]
    weights = [config.weight * pair.weight / config.band_mm**2 for pair in pairs]
    moving = [pair.moving for pair in pairs]
    closed = _closed_distances(moving, frame, spacings[1], band_mm)
    cut = [k for k, c in enumerate(_are_cut(moving, frame.moving_fov, spacings[1])) if c]
    around = [chosen[k] & (ours[k].values > 0) for k in cut]
    for k, outside in zip(cut, around, strict=True):
        chosen[k] = chosen[k] & ~outside
    terms = sampled_differences(ours, closed, chosen, weights, frame)
    if not cut:
        return [*terms]
    open_ended = _open_distances([moving[k] for k in cut], spacings[1], band_mm)
    ours, weights = [ours[k] for k in cut], [weights[k] for k in cut]
    return [*terms, *sampled_differences(ours, open_ended, around, weights, frame)]


def _distances(
    regions: Sequence[Region], fov: Tensor, spacing_mm: Spacing, band_mm: float
) -> list[Crop]:
    """Signed distances around regions, with no boundary at the edge of the field of view."""
    near = [region.grown(margin_voxels(band_mm, spacing_mm)) for region in regions]
    masks, views = [region.mask for region in near], [fov[region.box] for region in near]
    found = signed_distances_mm(masks, views, spacing_mm, band_mm)
    return [Crop(values, region.box) for values, region in zip(found, near, strict=True)]


def _closed_distances(
    moving: Sequence[Region], frame: Frame, spacing_mm: Spacing, band_mm: float
) -> list[Crop]:
    """The same in crops that are wide enough for the largest motion."""
    wide = []
    margins = margin_voxels(frame.margin_mm, spacing_mm)
    for near in _distances(moving, frame.moving_fov, spacing_mm, band_mm):
        region = Region(near.values, near.box, moving[0].shape)
        box = region.grown_box(margins)
        wide.append(Crop(region.spread(near.values, box, band_mm), box))
    return wide


def _open_distances(moving: Sequence[Region], spacing_mm: Spacing, band_mm: float) -> list[Crop]:
    """Signed distances with a boundary at the edge of the grid, beyond which the crops reach."""
    boxes = [_widened(region, margin_voxels(band_mm, spacing_mm)) for region in moving]
    pairs = list(zip(moving, boxes, strict=True))
    masks = [region.spread(region.mask, box, False) for region, box in pairs]
    found = signed_distances_mm(masks, None, spacing_mm, band_mm)
    return [Crop(values, box) for values, box in zip(found, boxes, strict=True)]


def _are_cut(regions: Sequence[Region], fov: Tensor, spacing_mm: Sequence[float]) -> list[bool]:
    """Whether each region may reach the edge of the field of view, along an axis with spacing."""
    margins = [
        0 if n == 1 or math.isinf(s) else 1
        for n, s in zip(regions[0].shape, spacing_mm, strict=True)
    ]
    at_edge = [
        any(
            margin and (part.start == 0 or part.stop == n)
            for margin, part, n in zip(margins, region.box, region.shape, strict=True)
        )
        for region in regions
    ]
    # One transfer from the device for all regions.
    seen = torch.stack([fov[region.grown_box(margins)].all() for region in regions]).tolist()
    return [edge or not all_seen for edge, all_seen in zip(at_edge, seen, strict=True)]


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
