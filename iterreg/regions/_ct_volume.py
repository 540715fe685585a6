"""A chest CT on voxels of about 4 mm, and operations on its masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.neighbourhood import Box, bounding_box, grow_box

# Left is the patient's left, +x in LPS.
SOFT_TISSUE, LEFT_LUNG, RIGHT_LUNG, AIRWAYS, BONE = 1, 2, 3, 4, 5

Bools = NDArray[np.bool_]

Floats = NDArray[np.float32]

Ints = NDArray[np.int32]

Voxel = TypeVar("Voxel", bound=np.generic)


@dataclass(frozen=True)
class DownsampledCt:
    """A CT on coarse voxels, canonical axes (z, y, x) = (S, P, L).

    Args:
        tissue_fraction: intensity as a fraction of the way from air (0) to soft tissue (1); 0
            outside the field of view.
        fov: inside the field of view.
        factor: full-resolution voxels along each axis of a coarse voxel.
        spacing_mm: of coarse voxels, (z, y, x).
        air, tissue: intensities of air and of soft tissue in the image.
        name: of the image, for messages.
    """

    tissue_fraction: Floats
    fov: Bools
    factor: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    air: float
    tissue: float
    name: str

    @property
    def voxel_ml(self) -> float:
        """Volume of a coarse voxel in millilitres."""
        return float(np.prod(self.spacing_mm)) / 1000.0

    def volume_ml(self, mask: Bools) -> float:
        """Volume of a mask in millilitres."""
        return float(np.count_nonzero(mask)) * self.voxel_ml


def pooled(data: torch.Tensor, factor: tuple[int, ...]) -> torch.Tensor:
    """Mean over blocks; the last block of an axis is cut short."""
    if max(factor) == 1:
        return data.clone()
    pool = torch.nn.functional.avg_pool3d
    return pool(data[None, None], factor, factor, ceil_mode=True, count_include_pad=False)[0, 0]


def enlarged(
    coarse: NDArray[Voxel], factor: tuple[int, int, int], shape: tuple[int, ...]
) -> NDArray[Voxel]:
    """Repeat coarse voxels over the full-resolution voxels that they stand for."""
    for axis, times in enumerate(factor):
        if times > 1:
            coarse = coarse.repeat(times, axis)
    return coarse[: shape[0], : shape[1], : shape[2]]


def distance_to(mask: Bools, spacing_mm: tuple[float, float, float]) -> Floats:
    """Distance in mm of every voxel to the nearest voxel of a mask; 0 on the mask."""
    import SimpleITK as sitk

    if not mask.any():
        return np.full(mask.shape, np.inf, np.float32)
    image = sitk.GetImageFromArray(mask.view(np.uint8))
    image.SetSpacing(spacing_mm[::-1])
    signed = sitk.SignedMaurerDistanceMap(
        image, insideIsPositive=False, squaredDistance=False, useImageSpacing=True
    )
    distance: Floats = sitk.GetArrayFromImage(signed)
    return np.maximum(distance, 0.0)


def opened(mask: Bools, radius_mm: float, spacing_mm: tuple[float, float, float]) -> Bools:
    """Opening with a ball; the edge of the array is not an edge of the mask."""
    core = distance_to(~mask, spacing_mm) > radius_mm
    return (distance_to(core, spacing_mm) <= radius_mm) & mask


def parts_of(mask: Bools, *, in_plane: bool = False) -> tuple[Ints, int]:
    """Label the face-connected parts from 1, slice by slice if ``in_plane``; and count them."""
    from scipy import ndimage

    structure = ndimage.generate_binary_structure(3, 1)
    if in_plane:
        structure[0] = structure[2] = False
    labels, count = ndimage.label(mask, structure, output=np.int32)
    return labels, int(count)


def box_of(mask: Bools, margin: int) -> Box:
    """The box around a mask, not empty, with a margin in voxels."""
    box = bounding_box(torch.from_numpy(mask))
    assert box is not None
    return grow_box(box, margin, mask.shape)
