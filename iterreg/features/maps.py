"""Features that are coarser than voxels, such as those of a network, and their way to a level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from iterreg.geometry import Grid, canonical


@dataclass(frozen=True)
class FeatureMaps:
    """Features of one image on grids of cells that cover it.

    Args:
        maps: (K, z, y, x) float32 each; the first cell begins where the image does.
        spans: for each map, how many cells (z, y, x) the image takes; the last may be cut.
        extent: how many voxels (z, y, x) of the present resolution the image takes.

    Example:
        >>> ramp = torch.arange(4.0).view(1, 1, 1, 4)
        >>> maps = FeatureMaps((ramp,), ((1.0, 1.0, 4.0),), (1.0, 1.0, 8.0))
        >>> maps.on((1, 1, 8)).flatten().tolist()
        [0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]
        >>> maps.pooled((1.0, 1.0, 8.0)).on((1, 1, 1)).flatten().tolist()
        [1.5]
    """

    maps: tuple[Tensor, ...]
    spans: tuple[tuple[float, ...], ...]
    extent: tuple[float, ...]

    @classmethod
    def covering(cls, cells: Tensor, extent: tuple[float, ...]) -> FeatureMaps:
        """One map whose cells cover the image exactly.

        Args:
            cells: (K, z, y, x).
            extent: voxels (z, y, x) of the image.
        """
        return cls((cells,), (tuple(float(n) for n in cells.shape[1:]),), extent)

    @property
    def channels(self) -> int:
        """Of all maps together."""
        return sum(len(m) for m in self.maps)

    def pooled(self, factor: Sequence[float]) -> FeatureMaps:
        """The same maps for voxels that are so many times longer along (z, y, x)."""
        extent = tuple(n / f for n, f in zip(self.extent, factor, strict=True))
        return replace(self, extent=extent)

    def on(self, shape: Sequence[int]) -> Tensor:
        """The features of each voxel.

        Linear between the centres of cells; where a voxel is longer than a cell, a mean.

        Args:
            shape: (Z, Y, X) of the present resolution; its last voxels may lie partly outside.

        Returns:
            (Z, Y, X, K), the channels of all maps.
        """
        parts = []
        for cells, span in zip(self.maps, self.spans, strict=True):
            part = cells
            for axis in range(3):
                table = _shares(part.shape[axis + 1], span[axis], shape[axis], self.extent[axis])
                moved = part.movedim(axis + 1, -1)
                part = (moved @ table.T.to(part)).movedim(-1, axis + 1)
            parts.append(part)
        return torch.cat(parts).movedim(0, -1).contiguous()

    def to(self, device: torch.device) -> FeatureMaps:
        """The same maps on another device."""
        return replace(self, maps=tuple(m.to(device) for m in self.maps))


def extent_of(grid: Grid) -> tuple[float, ...]:
    """Voxels of an image along z, y and x in canonical order; a picture is one slice.

    Args:
        grid: of the image.

    Example:
        >>> extent_of(Grid((3, 4), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0))))
        (1.0, 3.0, 4.0)
    """
    shape = canonical(grid)[0].shape_zyx
    return tuple(float(n) for n in (*(1,) * (3 - len(shape)), *shape))


def _shares(cells: int, span: float, voxels: int, extent: float) -> Tensor:
    """(voxels, cells): how much each cell counts for each voxel; rows sum to 1."""
    at = (torch.arange(voxels, dtype=torch.float64) + 0.5) * (span / extent) - 0.5
    at = at.clamp(0, cells - 1).unsqueeze(1)
    width = max(1.0, span / extent)
    shares = (1 - (at - torch.arange(cells)).abs() / width).clamp(min=0)
    return shares / shares.sum(1, keepdim=True)
