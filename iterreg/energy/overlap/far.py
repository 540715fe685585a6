"""Tissue far from its boundary: what is inside in one image and outside in the other costs.

::

    E(u) = sum_n w / band^2 D_a(q_n)^2        a the label of n, n deeper in its region than the band

D_a is the distance to moving region a, clamped to ``far_mm``: 0 inside it, so that depth is free.
The background is a region too: a slice above the heart does not take a ventricle.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from iterreg.config import Overlap
from iterreg.energy.distance import signed_distances_mm
from iterreg.energy.overlap.crops import Crop, margin_voxels, sampled_differences
from iterreg.energy.overlap.types import Frame
from iterreg.energy.region import Region
from iterreg.energy.terms import SquaredDifference, Term
from iterreg.neighbourhood import Box


@dataclass(frozen=True)
class Labelled:
    """One label map of a level.

    Args:
        labels: (Z, Y, X) compact labels, 0 the background.
        boxes: bounding box of every label that occurs.
    """

    labels: Tensor
    boxes: dict[int, Box]

    def region(self, value: int) -> Region:
        """One label's voxels."""
        box = self.boxes[value]
        return Region(self.labels[box] == value, box, tuple(self.labels.shape))

    def labelled_box(self) -> Box:
        """The box of all voxels that are not background."""
        parts = [box for value, box in self.boxes.items() if value]
        return tuple(
            slice(min(p.start for p in axis), max(p.stop for p in axis))
            for axis in zip(*parts, strict=True)
        )


def far_terms(config: Overlap, fixed: Labelled, moving: Labelled, frame: Frame) -> list[Term]:
    """The cost of tissue that lands in another region, away from its own boundary.

    The edge of the moving view bounds the background alone: a slice of background may leave the
    view to get out of a region, and nobody knows whether a region goes on beyond the edge.

    Args:
        config: the weight, the band, and how far the cost reaches.
        fixed, moving: the label maps.
        frame: the level's grids.

    Returns:
        At most one sample per voxel, whatever the number of regions.
    """
    values = sorted(value for value in fixed.boxes.keys() & moving.boxes.keys() if value)
    if not (config.far_mm and config.weight and values):
        return []
    weight = config.weight / config.band_mm**2
    regions = [fixed.region(value) for value in values]
    ours = [Crop(torch.zeros_like(r.mask, dtype=torch.float32), r.box) for r in regions]
    theirs = _around([moving.region(value) for value in values], frame, config.far_mm)
    deep = _deep(regions, frame, frame.band_mm(config.band_mm))
    terms = sampled_differences(ours, theirs, deep, [weight] * len(values), frame)
    return [*terms, *_background_terms(config, fixed, moving, frame)]


def _background_terms(
    config: Overlap, fixed: Labelled, moving: Labelled, frame: Frame
) -> list[SquaredDifference]:
    """The same for the background in the surroundings of the fixed regions."""
    margins = margin_voxels(frame.margin_mm + config.far_mm, frame.fixed_spacing_mm)
    part = Region(fixed.labels, fixed.labelled_box(), tuple(fixed.labels.shape))
    box = part.grown_box(margins)
    around = Region(fixed.labels[box] == 0, box, part.shape)
    deep = _deep([around], frame, frame.band_mm(config.band_mm))
    inner = moving.labelled_box()
    margin = [1 if n > 1 else 0 for n in moving.labels.shape]
    sides = [m for each in reversed(margin) for m in (each, each)]
    mask = pad(moving.labels[inner] == 0, sides, value=True)
    wide = tuple(slice(p.start - m, p.stop + m) for p, m in zip(inner, margin, strict=True))
    found = signed_distances_mm([mask], None, frame.moving_spacing_mm, config.far_mm)[0]
    ours = Crop(torch.zeros_like(around.mask, dtype=torch.float32), box)
    theirs = Crop(found.clamp(min=0), wide)
    weight = config.weight / config.band_mm**2
    terms = sampled_differences([ours], [theirs], deep, [weight], frame)
    # Beyond the crop there is background as far as one sees.
    return [replace(term, outside_weight=0.0) for term in terms]


def _around(regions: list[Region], frame: Frame, far_mm: float) -> list[Crop]:
    """Distance to each moving region in its surroundings, 0 inside it."""
    margins = margin_voxels(far_mm, frame.moving_spacing_mm)
    wide = [region.grown(margins) for region in regions]
    masks, views = [w.mask for w in wide], [frame.moving_fov[w.box] for w in wide]
    found = signed_distances_mm(masks, views, frame.moving_spacing_mm, far_mm)
    return [Crop(values.clamp(min=0), w.box) for values, w in zip(found, wide, strict=True)]


def _deep(regions: list[Region], frame: Frame, band_mm: float) -> list[Tensor]:
    """The voxels of each fixed region, in its box, that lie deeper than the band."""
    margins = margin_voxels(band_mm, frame.fixed_spacing_mm)
    wide = [region.grown(margins) for region in regions]
    masks, views = [w.mask for w in wide], [frame.fixed_fov[w.box] for w in wide]
    found = signed_distances_mm(masks, views, frame.fixed_spacing_mm, band_mm)
    chosen = []
    for region, grown, values in zip(regions, wide, found, strict=True):
        own = tuple(
            slice(inner.start - outer.start, inner.stop - outer.start)
            for inner, outer in zip(region.box, grown.box, strict=True)
        )
        chosen.append((values[own] <= -band_mm) & region.mask & frame.common_fov[region.box])
    return chosen
