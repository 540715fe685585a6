"""The ingredients of the overlap terms: pairs of regions, and the grids that they lie on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from iterreg.energy.region import Region

THICK_SLICE_RATIO = 2.0
"""A slice is thick if it is at least so many times as thick as a voxel is wide."""


@dataclass(frozen=True)
class RegionPair:
    """One region in both images, at the resolution of a level.

    Args:
        fixed, moving: on the grids of their images.
        weight: of this pair.
        in_slices: whether the region was found slice by slice. Its ends between thick slices are
            then no boundary.
    """

    fixed: Region
    moving: Region
    weight: float = 1.0
    in_slices: bool = False


@dataclass(frozen=True)
class Frame:
    """The grids and fields of view that the overlap of every region pair shares.

    Args:
        fixed_spacing_mm, moving_spacing_mm: (z, y, x).
        fixed_fov, moving_fov: (Z, Y, X) bool, the fields of view.
        common_fov: (Z, Y, X) bool, the fixed voxels that may be sampled.
        margin_mm: how far a boundary may move. Crops are padded by this.
    """

    fixed_spacing_mm: tuple[float, ...]
    moving_spacing_mm: tuple[float, ...]
    fixed_fov: Tensor
    moving_fov: Tensor
    common_fov: Tensor
    margin_mm: float

    def band_mm(self, wanted_mm: float) -> float:
        """The width of a band around a boundary: as wanted, and at least two voxels."""
        from iterreg.geometry import thinnest_mm  # a configuration needs this module, not torch

        return max(wanted_mm, 2 * thinnest_mm(self.fixed_spacing_mm, self.common_fov.shape))


def is_thick(spacing_mm: Sequence[float], shape: Sequence[int]) -> list[bool]:
    """For each axis, whether its slices are too thick to interpolate between them.

    Args:
        spacing_mm: (z, y, x).
        shape: (Z, Y, X); an axis of length 1 has no spacing.

    Example:
        >>> is_thick((8.0, 1.5, 1.5), (10, 128, 128))
        [True, False, False]
    """
    from iterreg.geometry import thinnest_mm

    thin = thinnest_mm(spacing_mm, shape)
    return [s >= THICK_SLICE_RATIO * thin and n > 1 for s, n in zip(spacing_mm, shape, strict=True)]
