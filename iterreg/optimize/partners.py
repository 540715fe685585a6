"""Region pairs that cannot correspond, such as two different pieces of a trachea.

A pair of regions whose boundaries would be pulled together over a distance that no anatomy moves
does harm. So after the affine start each pair is checked, and one that cannot be the same anatomy
is dissolved into the regions around it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from iterreg.config import Config
from iterreg.energy.overlap import RegionPair
from iterreg.energy.region import Region
from iterreg.geometry import Matrix
from iterreg.labels import dissolve
from iterreg.optimize.pair import Pair
from iterreg.optimize.problem import LARGEST_MOTION_MM
from iterreg.to_device import on_device

MOST_POINTS = 1500
"""A region is checked at so many of its voxels, spread evenly."""

LEAST_NEAR = 0.5
"""Of the region in either image, at least this share lies within reach of its partner."""

LEAST_SEEN = 0.05
"""If the other image sees less of a region than this share, it has nothing to compare with."""

MOST_GROWTH = 27.0
"""Three times as long along each axis."""


PAIRS_AT_ONCE = 16
"""Region pairs whose distances are found at once, in some 150 MB."""

LARGEST_SHARE = 0.1
"""Of the volume of all regions. A piece of a trachea is found in the wrong place, a lung is not."""


@dataclass(frozen=True)
class Mismatch:
    """A region whose two pieces cannot be the same anatomy.

    Args:
        value: compact label.
        why: in words, to stand after the region's name.
    """

    value: int
    why: str


def check_partners(
    pair: Pair, config: Config, affine_lps: Matrix
) -> tuple[Pair, tuple[Mismatch, ...]]:
    """Dissolve the regions whose two pieces cannot be the same anatomy behind an affine.

    A pair of regions corresponds if most of both lies within reach of the other one; or else, if
    most of what the other image sees of it does. Rigid regions, and those that
    keep their volume, are not checked.

    Args:
        pair: at full resolution.
        config: ``start.search_mm`` is the reach, if it is not shorter than a level's.
        affine_lps: fixed to moving.

    Returns:
        The pair that is left, and the regions that went. None goes if more than half of them
        would, or more than a tenth of their volume: then the affine is wrong.
    """
    if not pair.guidance.by_labels:
        return pair, ()
    reach_mm = max(config.start.search_mm, LARGEST_MOTION_MM)
    regions = pair.region_pairs()
    check = _Check(pair, affine_lps, reach_mm)
    values = sorted(regions.keys() - {*pair.rigid, *pair.preserved})
    reasons = check.why([regions[value] for value in values])
    found = [Mismatch(v, why) for v, why in zip(values, reasons, strict=True) if why is not None]
    if not found:
        return pair, ()
    size = {value: int(both.fixed.mask.sum()) for value, both in regions.items()}
    share = sum(size[mismatch.value] for mismatch in found) / max(1, sum(size.values()))
    if 2 * len(found) > len(regions) or share > LARGEST_SHARE:
        return pair, ()
    kept = check.why(pair.guidance.rois)
    rois = [roi for roi, why in zip(pair.guidance.rois, kept, strict=True) if why is None]
    gone = [mismatch.value for mismatch in found]
    fixed, moving = (
        replace(side, labels=dissolve(side.labels, gone)) for side in (pair.fixed, pair.moving)
    )
    guidance = replace(pair.guidance, rois=tuple(rois))
    return replace(pair, fixed=fixed, moving=moving, guidance=guidance), tuple(found)


@dataclass(frozen=True)
class _Pieces:
    """Regions of one image, through the affine in the other one: on a GPU each launch counts.

    Args:
        voxels: of each whole region.
        points: (R, N, 3), some of them.
        landed: (R, N, 3), where those lie in the other image.
        real: (R, N) bool; the others fill the rows of smaller regions.
        seen: (R, N) bool, which of the real ones the other image sees.
    """

    voxels: list[int]
    points: Tensor
    landed: Tensor
    real: Tensor
    seen: Tensor

    @classmethod
    def of(cls, regions: Sequence[Region], pair: Pair, affine_lps: Matrix) -> _Pieces:
        """The pieces of regions of the fixed side."""
        voxels, points, real = _spread_points(regions)
        flat = points.view(-1, 3).T.contiguous()
        landed = pair.index_map(affine_lps).apply(flat, torch.zeros_like(flat))
        seen = pair.seen_at(landed).view(real.shape) & real
        return cls(voxels, points, landed.T.view(points.shape), real, seen)

    @property
    def seen_share(self) -> Tensor:
        """(R,)"""
        return self.seen.sum(1) / self.real.sum(1)

    def only_seen(self) -> _Pieces:
        """What the other image sees of them."""
        return replace(self, real=self.seen)


@dataclass(frozen=True)
class _Check:
    """Region pairs behind an affine.

    Args:
        pair: whose regions they are.
        affine_lps: fixed to moving.
        reach_mm: this near counts as near.
    """

    pair: Pair
    affine_lps: Matrix
    reach_mm: float

    def why(self, regions: Sequence[RegionPair]) -> list[str | None]:
        """Why the two of each pair cannot correspond; None if they can."""
        if not regions:
            return []
        back = replace(self.pair, fixed=self.pair.moving, moving=self.pair.fixed)
        inverse = np.asarray(np.linalg.inv(self.affine_lps))
        ours = _Pieces.of([r.fixed for r in regions], self.pair, self.affine_lps)
        theirs = _Pieces.of([r.moving for r in regions], back, inverse)
        near = self._near(ours, theirs)
        near_where_seen = self._near(ours.only_seen(), theirs.only_seen())
        # One transfer from the device for all.
        shares = torch.stack((ours.seen_share, theirs.seen_share, near, near_where_seen), 1)
        sizes = zip(ours.voxels, theirs.voxels, strict=True)
        return [self._why(*two, *row) for two, row in zip(sizes, shares.tolist(), strict=True)]

    def _why(
        self, ours: int, theirs: int, seen: float, seen_back: float, near: float, seen_near: float
    ) -> str | None:
        is_seen = min(seen, seen_back) >= LEAST_SEEN
        if near < LEAST_NEAR:
            if not is_seen:
                return "the images show different pieces of it"
            if seen_near < LEAST_NEAR:
                return f"only {100 * seen_near:.0f} % of it lies within reach of its partner"
        growth = self._growth(ours * seen, theirs * seen_back) if is_seen else 1.0
        if growth > MOST_GROWTH:
            return f"its volume would change by a factor of {growth:.0f}"
        return None

    def _near(self, ours: _Pieces, theirs: _Pieces) -> Tensor:
        """(R,), the share of each piece within reach of its partner; the lesser of both ways."""
        spacing = on_device(self.pair.moving.spacing_mm, ours.landed.device, ours.landed.dtype)
        nearest = []
        for first in range(0, len(ours.real), PAIRS_AT_ONCE):
            part = slice(first, first + PAIRS_AT_ONCE)
            apart_mm = torch.cdist(ours.landed[part] * spacing, theirs.points[part] * spacing)
            both = ours.real[part].unsqueeze(2) & theirs.real[part].unsqueeze(1)
            reached = (apart_mm <= self.reach_mm) & both
            nearest.append((reached.any(2).sum(1), reached.any(1).sum(1)))
        here, there = (torch.cat(side) for side in zip(*nearest, strict=True))
        return torch.minimum(here / ours.real.sum(1), there / theirs.real.sum(1))

    def _growth(self, ours: float, theirs: float) -> float:
        """The larger over the smaller volume, of the voxels that both images see."""
        voxel = [float(np.prod(s.spacing_mm)) for s in (self.pair.fixed, self.pair.moving)]
        fixed = ours * voxel[0] * float(np.linalg.det(self.affine_lps))
        moving = theirs * voxel[1]
        return max(moving / fixed, fixed / moving)


def _spread_points(regions: Sequence[Region]) -> tuple[list[int], Tensor, Tensor]:
    """Some voxels of each region, spread evenly.

    Returns:
        The voxels of each region; (R, N, 3) float, indices of some of them; (R, N) bool, which
        of these there are.
    """
    device = regions[0].mask.device
    masks = torch.cat([region.mask.flatten() for region in regions])
    found = masks.nonzero().flatten()
    lengths = [region.mask.numel() for region in regions]
    starts = on_device([0, *itertools.accumulate(lengths)], device, torch.int64)
    owners = torch.bucketize(found, starts[1:], right=True)
    counts = torch.bincount(owners, minlength=len(regions))
    voxels: list[int] = counts.tolist()
    firsts = counts.cumsum(0) - counts
    strides = [-(-count // MOST_POINTS) for count in voxels]
    some = [
        -(-count // stride) if count else 0 for count, stride in zip(voxels, strides, strict=True)
    ]
    number = torch.arange(max(some), device=device)
    real = number < on_device(some, device, torch.int64).unsqueeze(1)
    at = firsts.unsqueeze(1) + number * on_device(strides, device, torch.int64).unsqueeze(1)
    local = found[torch.where(real, at, 0)] - starts[:-1].unsqueeze(1)
    boxes = on_device(
        [[(part.start, part.stop - part.start) for part in region.box] for region in regions],
        device,
    )
    index: list[Tensor] = []
    for axis in (2, 1, 0):
        start, size = boxes[:, axis].unsqueeze(2).unbind(1)
        index.insert(0, local % size + start)
        local = torch.div(local, size, rounding_mode="floor")
    return voxels, torch.stack(index, 2).float(), real
