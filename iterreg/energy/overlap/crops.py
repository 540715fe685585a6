"""Crops around regions: the samples that are compared, and where they lie."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from iterreg.energy.overlap.types import Frame
from iterreg.energy.terms import SquaredDifference
from iterreg.neighbourhood import Box
from iterreg.to_device import on_device


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


def sampled_differences(
    fixed: Sequence[Crop],
    moving: Sequence[Crop],
    chosen: Sequence[Tensor],
    weights: Sequence[float],
    frame: Frame,
) -> list[SquaredDifference]:
    """The squared difference of each two crops at some fixed voxels.

    Outside a moving crop the distance to it is added, so that the gradient never vanishes. All
    crops are handled as one list: on a GPU the cost hardly depends on how many there are.

    Args:
        fixed, moving: of both images, pair by pair.
        chosen: (z, y, x) bool, the voxels of each fixed crop that are sampled.
        weights: of every sample of a pair.
        frame: the level's grids.
    """
    device = frame.common_fov.device
    sizes = [c.numel() for c in chosen]
    at = torch.cat([c.flatten() for c in chosen]).nonzero().flatten()
    starts = on_device([0, *itertools.accumulate(sizes)], device)
    part = torch.bucketize(at, starts[1:], right=True)
    firsts = [[side.start for side in crop.box] for crop in fixed]
    tables = [[*f, *c.shape] for f, c in zip(firsts, chosen, strict=True)]
    first, shape = on_device(tables, device)[part].split(3, 1)
    local = at - starts[part]
    place = (local // (shape[:, 1] * shape[:, 2]), local // shape[:, 2] % shape[:, 1])
    voxels = (torch.stack((*place, local % shape[:, 2]), 1) + first).int()
    values = torch.cat([crop.values.flatten() for crop in fixed])[at].unsqueeze(1)
    weight = on_device(weights, device, torch.float32)[part]
    counts = torch.bincount(part, minlength=len(fixed)).tolist()
    parts = [tensor.split(counts) for tensor in (values, voxels, weight)]
    voxel_mm = sum(frame.moving_spacing_mm) / len(frame.moving_spacing_mm)
    return [
        SquaredDifference(
            values,
            crop.values.unsqueeze(-1).contiguous(),
            voxels,
            weight,
            outside_weight=voxel_mm * voxel_mm,
            corner=crop.corner(),
        )
        for values, voxels, weight, crop in zip(*parts, moving, strict=True)
    ]


def voxels_of(chosen: Tensor, box: Box) -> Tensor:
    """(N, 3) int64, the grid's indices of the voxels that are chosen in a box."""
    return chosen.nonzero() + on_device([part.start for part in box], chosen.device)


def margin_voxels(margin_mm: float, spacing_mm: Sequence[float]) -> list[int]:
    """A margin in voxels along each axis, rounded up; 0 along an axis of infinite spacing.

    Example:
        >>> margin_voxels(5.0, (math.inf, 2.0, 2.0))
        [0, 3, 3]
    """
    return [0 if math.isinf(s) else int(margin_mm / s) + 1 for s in spacing_mm]
