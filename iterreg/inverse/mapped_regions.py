"""The fixed regions, and where the voxels of each land under a displacement field."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from iterreg.image import LabelMap
from iterreg.labels import label_counts
from iterreg.neighbourhood import Box, dilate, face_pairs, label_boxes

NO_REGION = -1

HIGHEST_REGION = torch.iinfo(torch.int16).max


class MappedRegions:
    """The regions of a fixed label map, numbered from 0 by ascending label, and where they land.

    Args:
        fixed: the regions.
        vox: (rank, *shape) displacement in voxels of the same grid.
    """

    def __init__(self, fixed: LabelMap, vox: Tensor) -> None:
        labels = fixed.data.detach().cpu()
        self._values = torch.tensor(list(label_counts(labels)), dtype=labels.dtype)
        self._number = torch.bucketize(labels, self._values).short()
        self._target = _landing_voxel(vox)
        boxes = label_boxes(self._number + 1)
        self.boxes: list[Box] = [boxes[n + 1] for n in range(len(self._values))]

    def __len__(self) -> int:
        return len(self._values)

    def numbers_of(self, labels: Tensor) -> Tensor:
        """(n,) int16 region numbers of labels; :data:`NO_REGION` if the fixed map lacks a label."""
        place = torch.bucketize(labels, self._values).clamp_(max=len(self._values) - 1)
        return torch.where(self._values[place] == labels, place, NO_REGION).short()

    def mask(self, region: int, box: Box) -> Tensor:
        """(*box) bool: the region's voxels in a box."""
        return self._number[box] == region

    def interface(self) -> Tensor:
        """(*shape) bool: voxels with another region within one voxel along each axis."""
        lowest = _over_neighbours(self._number, torch.minimum)
        return lowest != _over_neighbours(self._number, torch.maximum)

    def range_landed(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest region number that lands within a voxel of each voxel, flat int16.

        The lowest is above the highest if nothing lands there.
        """
        shape = self._number.shape
        inside = self._target >= 0
        where, number = self._target[inside], self._number[inside].long()
        low = torch.full((shape.numel(),), HIGHEST_REGION, dtype=torch.int64)
        high = torch.full((shape.numel(),), NO_REGION, dtype=torch.int64)
        low.scatter_reduce_(0, where, number, "amin")
        high.scatter_reduce_(0, where, number, "amax")
        lowest = _over_neighbours(low.short().view(shape), torch.minimum)
        highest = _over_neighbours(high.short().view(shape), torch.maximum)
        return lowest.flatten(), highest.flatten()

    def landed_nearby(self, region: int) -> Tensor:
        """Flat bool: whether a voxel of the region lands within a voxel."""
        box = self.boxes[region]
        target = self._target[box][self.mask(region, box)]
        hit = torch.zeros(self._number.numel(), dtype=torch.bool)
        hit[target[target >= 0]] = True
        return dilate(hit.view(self._number.shape), 1).flatten()


def flat_nearest(positions: Iterable[Tensor], shape: torch.Size) -> Tensor:
    """Flat index of the voxel nearest to each position, -1 outside.

    Args:
        positions: one tensor an axis, all of one shape.
        shape: of the grid.

    Example:
        >>> flat_nearest(torch.tensor([[0.4, 5.0], [1.6, 0.0]]), torch.Size([3, 4]))
        tensor([ 2, -1])
    """
    flat, inside = torch.tensor(0), torch.tensor(True)
    for position, size in zip(positions, shape, strict=True):
        nearest = position.round().long()
        inside = inside & (nearest >= 0) & (nearest < size)
        flat = flat * size + nearest
    return flat.masked_fill(~inside, -1)


def _landing_voxel(vox: Tensor) -> Tensor:
    """(*shape) int64: flat index of the voxel nearest to x + u(x), -1 outside."""
    shape = vox.shape[1:]

    def position(axis: int) -> Tensor:
        along = [-1 if a == axis else 1 for a in range(len(shape))]
        return torch.arange(shape[axis], dtype=torch.float32).view(along) + vox[axis]

    return flat_nearest((position(axis) for axis in range(len(shape))), shape)


def _over_neighbours(values: Tensor, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Combine each voxel with those within one voxel along every axis (minimum, maximum)."""
    for axis in range(values.ndim):
        result = values.clone()
        below, above = face_pairs(values, axis)
        for part, other in zip(face_pairs(result, axis), (above, below), strict=True):
            part.copy_(combine(part, other))
        values = result
    return values
