"""The working copy of a CT, on voxels of about 4 mm, and the operations on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

# Left is the patient's left, +x in LPS.
SOFT_TISSUE, LEFT_LUNG, RIGHT_LUNG, AIRWAYS, BONE = 1, 2, 3, 4, 5

Bools = NDArray[np.bool_]

Floats = NDArray[np.float32]

Ints = NDArray[np.int32]

Voxel = TypeVar("Voxel", bound=np.generic)


@dataclass(frozen=True)
class Work:
    """The image at working resolution, canonical axes (z, y, x) = (S, P, L)."""

    share: Floats
    """0 air, 1 soft tissue."""
    seen: Bools
    """Inside the field of view."""
    factor: tuple[int, int, int]
    """Full-resolution voxels in one working voxel."""
    spacing_mm: tuple[float, float, float]
    name: str

    @property
    def voxel_ml(self) -> float:
        """Volume of a working voxel in millilitres."""
        return float(np.prod(self.spacing_mm)) / 1000.0

    def ml(self, mask: Bools) -> float:
        """Volume of a mask in millilitres."""
        return float(np.count_nonzero(mask)) * self.voxel_ml


def pooled(data: torch.Tensor, factor: tuple[int, ...]) -> torch.Tensor:
    """Mean over blocks, the last one of an axis cut short."""
    if max(factor) == 1:
        return data.clone()
    pool = torch.nn.functional.avg_pool3d
    return pool(data[None, None], factor, factor, ceil_mode=True, count_include_pad=False)[0, 0]


def enlarged(
    coarse: NDArray[Voxel], factor: tuple[int, int, int], shape: tuple[int, ...]
) -> NDArray[Voxel]:
    """Repeat working voxels over the full-resolution voxels that they stand for."""
    for axis, times in enumerate(factor):
        if times > 1:
            coarse = coarse.repeat(times, axis)
    return coarse[: shape[0], : shape[1], : shape[2]]


def distance_to(mask: Bools, spacing_mm: tuple[float, float, float]) -> Floats:
    """Distance in mm of every voxel to the nearest voxel of a mask; 0 on the mask."""
    import SimpleITK as sitk

    if not mask.any():
        return np.full(mask.shape, np.inf, np.float32)
    picture = sitk.GetImageFromArray(mask.view(np.uint8))
    picture.SetSpacing(spacing_mm[::-1])
    far = sitk.SignedMaurerDistanceMap(
        picture, insideIsPositive=False, squaredDistance=False, useImageSpacing=True
    )
    distance: Floats = sitk.GetArrayFromImage(far)
    return np.maximum(distance, 0.0)


def opened(mask: Bools, radius_mm: float, spacing_mm: tuple[float, float, float]) -> Bools:
    """Opening with a ball; the edge of the array is not an edge of the mask."""
    core = distance_to(~mask, spacing_mm) > radius_mm
    return (distance_to(core, spacing_mm) <= radius_mm) & mask


def parts_of(mask: Bools, *, in_plane: bool = False) -> tuple[Ints, int]:
    """Face-connected parts, numbered from 1; slice by slice if ``in_plane``."""
    from scipy import ndimage

    structure = ndimage.generate_binary_structure(3, 1)
    if in_plane:
        structure[0] = structure[2] = False
    labels, count = ndimage.label(mask, structure, output=np.int32)
    return labels, int(count)


def box_of(mask: Bools, margin: int) -> tuple[slice, slice, slice]:
    """The bounding box of a mask with a margin, inside the array."""
    found = []
    for axis in range(3):
        at = np.flatnonzero(mask.any(tuple(k for k in range(3) if k != axis)))
        found.append(slice(max(int(at[0]) - margin, 0), int(at[-1]) + 1 + margin))
    return found[0], found[1], found[2]
