"""Crops around regions: the samples that are compared, and where they lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from iterreg.energy.overlap.types import Frame
from iterreg.energy.terms import SquaredDifference
from iterreg.neighbourhood import Box


@dataclass(frozen=True)
class Crop:
    """Values in a box of an image's grid.

    Args:
        values: (z, y, x) float.
        box: its place in the grid; it may reach beyond the grid's ends.
    """

    values: Tensor
    box: Box

    def corner(self) -> tuple[float, ...]:
        """(z, y, x), the index of the box's first voxel."""
        return tuple(float(part.start) for part in self.box)


def sampled_difference(
    fixed: Crop, moving: Crop, chosen: Tensor, weight: float, frame: Frame
) -> SquaredDifference:
    """The squared difference of two crops at some fixed voxels.

    Outside the moving crop the distance to it is added, so that the gradient never vanishes.

    Args:
        fixed, moving: of both images.
        chosen: (z, y, x) bool, the fixed crop's voxels that are sampled.
        weight: of every sample.
        frame: the level's grids.
    """
    voxels = voxels_of(chosen, fixed.box).int()
    voxel_mm = sum(frame.moving_spacing_mm) / len(frame.moving_spacing_mm)
    return SquaredDifference(
        fixed.values[chosen].unsqueeze(-1),
        moving.values.unsqueeze(-1).contiguous(),
        voxels,
        torch.full((len(voxels),), weight, device=chosen.device),
        outside_weight=voxel_mm * voxel_mm,
        corner=moving.corner(),
    )


def voxels_of(chosen: Tensor, box: Box) -> Tensor:
    """(N, 3) int64, the grid's indices of the voxels that are chosen in a box."""
    return chosen.nonzero() + torch.tensor([part.start for part in box], device=chosen.device)


def margin_voxels(margin_mm: float, spacing_mm: Sequence[float]) -> list[int]:
    """A margin in voxels along each axis, rounded up; 0 along an axis of infinite spacing.

    Example:
        >>> margin_voxels(5.0, (math.inf, 2.0, 2.0))
        [0, 3, 3]
    """
    return [0 if math.isinf(s) else int(margin_mm / s) + 1 for s in spacing_mm]
