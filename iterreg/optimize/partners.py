"""Region pairs that cannot correspond, such as two different pieces of a trachea.

A pair of regions whose boundaries would be pulled together over a distance that no anatomy moves
does harm. So after the affine start each pair is checked, and one that cannot be the same anatomy
is dissolved into the regions around it.
"""

from __future__ import annotations

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
    found = []
    for value in regions.keys() - {*pair.rigid, *pair.preserved}:
        why = _Check(pair, affine_lps, regions[value]).why(reach_mm)
        if why is not None:
            found.append(Mismatch(value, why))
    if not found:
        return pair, ()
    size = {value: int(both.fixed.mask.sum()) for value, both in regions.items()}
    share = sum(size[mismatch.value] for mismatch in found) / max(1, sum(size.values()))
    if 2 * len(found) > len(regions) or share > LARGEST_SHARE:
        return pair, ()
    rois = [r for r in pair.guidance.rois if _Check(pair, affine_lps, r).why(reach_mm) is None]
    gone = [mismatch.value for mismatch in found]
    fixed, moving = (
        replace(side, labels=dissolve(side.labels, gone)) for side in (pair.fixed, pair.moving)
    )
    guidance = replace(pair.guidance, rois=tuple(rois))
    return replace(pair, fixed=fixed, moving=moving, guidance=guidance), tuple(found)


@dataclass(frozen=True)
class _Check:
    """One region pair behind an affine."""

    pair: Pair
    affine_lps: Matrix
    regions: RegionPair

    def why(self, reach_mm: float) -> str | None:
        """Why the two cannot correspond; None if they can."""
        ours, theirs = _points(self.regions.fixed), _points(self.regions.moving)
        back = replace(self.pair, fixed=self.pair.moving, moving=self.pair.fixed)
        landed = self.pair.index_map(self.affine_lps).apply(ours, torch.zeros_like(ours))
        inverse = np.asarray(np.linalg.inv(self.affine_lps))
        landed_back = back.index_map(inverse).apply(theirs, torch.zeros_like(theirs))
        seen, seen_back = self.pair.seen_at(landed), back.seen_at(landed_back)
        is_seen = min(float(s.float().mean()) for s in (seen, seen_back)) >= LEAST_SEEN
        if self._near(landed, theirs, reach_mm) < LEAST_NEAR:
            if not is_seen:
                return "the images show different pieces of it"
            near = self._near(landed[:, seen], theirs[:, seen_back], reach_mm)
            if near < LEAST_NEAR:
                return f"only {100 * near:.0f} % of it lies within reach of its partner"
        growth = self._growth(seen, seen_back) if is_seen else 1.0
        if growth > MOST_GROWTH:
            return f"its volume would change by a factor of {growth:.0f}"
        return None

    def _near(self, first: Tensor, second: Tensor, reach_mm: float) -> float:
        """Share of each set of moving indices within reach of the other one; the lesser of both."""
        spacing = on_device(self.pair.moving.spacing_mm, first.device, first.dtype)
        apart_mm = torch.cdist(first.T * spacing, second.T * spacing)
        shares = [(apart_mm.amin(axis) <= reach_mm).float().mean() for axis in (1, 0)]
        return float(torch.stack(shares).min())

    def _growth(self, seen: Tensor, seen_back: Tensor) -> float:
        """The larger over the smaller volume, of what both images see."""
        ours, theirs = self.regions.fixed.mask.sum(), self.regions.moving.mask.sum()
        voxel = [float(np.prod(s.spacing_mm)) for s in (self.pair.fixed, self.pair.moving)]
        fixed = float(ours * seen.float().mean()) * voxel[0] * float(np.linalg.det(self.affine_lps))
        moving = float(theirs * seen_back.float().mean()) * voxel[1]
        return max(moving / fixed, fixed / moving)


def _points(region: Region) -> Tensor:
    """(3, N) float: voxel indices of a region, spread evenly."""
    voxels = region.mask.nonzero()
    voxels = voxels[:: -(-len(voxels) // MOST_POINTS)]
    start = on_device([part.start for part in region.box], voxels.device)
    return (voxels + start).T.float().contiguous()
