"""Region pairs that cannot correspond, such as two different pieces of a trachea.

A pair of regions whose boundaries would be pulled together over a distance that no anatomy moves
does harm. So after the affine start each pair is checked, and one that cannot be the same anatomy
is dissolved into the regions around it.
"""

from __future__ import annotations

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
class _Piece:
    """A region of one image, through the affine in the other one.

    Args:
        voxels: of the whole region.
        points: (3, N), some of them.
        landed: (3, N), where those lie in the other image.
        seen: (N,) bool, which of them it sees.
    """

    voxels: int
    points: Tensor
    landed: Tensor
    seen: Tensor

    @classmethod
    def all_of(cls, regions: Sequence[Region], pair: Pair, affine_lps: Matrix) -> list[_Piece]:
        """The pieces of regions of the fixed side, as one list: on a GPU each launch counts."""
        sizes, points = zip(*map(_points, regions), strict=True)
        at = torch.cat(points, 1)
        landed = pair.index_map(affine_lps).apply(at, torch.zeros_like(at))
        counts = [p.shape[1] for p in points]
        seen = pair.seen_at(landed).split(counts)
        return list(map(cls, sizes, points, landed.split(counts, 1), seen))


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
        ours = _Piece.all_of([r.fixed for r in regions], self.pair, self.affine_lps)
        theirs = _Piece.all_of([r.moving for r in regions], back, inverse)
        # One transfer from the device for all.
        shares = [
            torch.stack((a.seen.float().mean(), b.seen.float().mean(), self._near(a, b)))
            for a, b in zip(ours, theirs, strict=True)
        ]
        rows = zip(ours, theirs, torch.stack(shares).tolist(), strict=True)
        return [self._why(a, b, *row) for a, b, row in rows]

    def _why(
        self, ours: _Piece, theirs: _Piece, seen: float, seen_back: float, near: float
    ) -> str | None:
        is_seen = min(seen, seen_back) >= LEAST_SEEN
        if near < LEAST_NEAR:
            if not is_seen:
                return "the images show different pieces of it"
            near = float(self._near(_seen_part(ours), _seen_part(theirs)))
            if near < LEAST_NEAR:
                return f"only {100 * near:.0f} % of it lies within reach of its partner"
        growth = self._growth(ours.voxels * seen, theirs.voxels * seen_back) if is_seen else 1.0
        if growth > MOST_GROWTH:
            return f"its volume would change by a factor of {growth:.0f}"
        return None

    def _near(self, ours: _Piece, theirs: _Piece) -> Tensor:
        """Share of each piece within reach of the other one; the lesser of both."""
        spacing = on_device(self.pair.moving.spacing_mm, ours.landed.device, ours.landed.dtype)
        apart_mm = torch.cdist(ours.landed.T * spacing, theirs.points.T * spacing)
        shares = [(apart_mm.amin(axis) <= self.reach_mm).float().mean() for axis in (1, 0)]
        return torch.minimum(shares[0], shares[1])

    def _growth(self, ours: float, theirs: float) -> float:
        """The larger over the smaller volume, of the voxels that both images see."""
        voxel = [float(np.prod(s.spacing_mm)) for s in (self.pair.fixed, self.pair.moving)]
        fixed = ours * voxel[0] * float(np.linalg.det(self.affine_lps))
        moving = theirs * voxel[1]
        return max(moving / fixed, fixed / moving)


def _seen_part(piece: _Piece) -> _Piece:
    """What the other image sees of it."""
    points, landed = piece.points[:, piece.seen], piece.landed[:, piece.seen]
    return replace(piece, points=points, landed=landed)


def _points(region: Region) -> tuple[int, Tensor]:
    """Voxels of a region, and the indices (3, N) of some of them, spread evenly."""
    voxels = region.mask.nonzero()
    some = voxels[:: -(-len(voxels) // MOST_POINTS)]
    start = on_device([part.start for part in region.box], some.device)
    return len(voxels), (some + start).T.float().contiguous()
