"""Segment a thorax CT or cone-beam CT without weights.

Intensities are scaled from air (0) to soft tissue (1), which are found in the histogram. Anatomy is
decided on voxels of about 4 mm: which dark part is lung, airway or bowel. Boundaries are decided at
full resolution, by each voxel's own intensity.

    intensities -> body -> airways -> lungs -> left and right -> bone -> full resolution
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.errors import SegmentationError
from iterreg.image import Image, LabelMap
from iterreg.regions._ct_airways import Airways, find_airways
from iterreg.regions._ct_body import find_body, find_midline
from iterreg.regions._ct_intensity import (
    BONE_ABOVE,
    LUNG_BELOW,
    SKIN_AT,
    denoised,
    downsample,
    tissue_fractions,
)
from iterreg.regions._ct_lungs import close_lungs, find_lungs, left_or_right, rough_lungs
from iterreg.regions._ct_unevenness import Unevenness, find_unevenness
from iterreg.regions._ct_volume import (
    AIRWAYS,
    BONE,
    LEFT_LUNG,
    RIGHT_LUNG,
    SOFT_TISSUE,
    Bools,
    DownsampledCt,
    Floats,
    Ints,
    box_of,
    distance_to,
    enlarged,
    parts_of,
    pooled,
)
from iterreg.regions.field_of_view import field_of_view

__all__ = [
    "AIRWAYS",
    "BONE",
    "LEFT_LUNG",
    "RIGHT_LUNG",
    "SOFT_TISSUE",
    "THORAX_LABELS",
    "segment_thorax_ct",
]


THORAX_LABELS: dict[int, str] = {
    SOFT_TISSUE: "soft tissue",
    LEFT_LUNG: "left lung",
    RIGHT_LUNG: "right lung",
    AIRWAYS: "airways",
    BONE: "bone",
}
"""Names of the labels of :func:`segment_thorax_ct`. Left is the patient's left, +x in LPS."""

LESS_AIRWAYS = ("no airways", "airways without bronchi")
"""Notes on airways of which the other image shows less."""

BLURRED_LUNG_BELOW = 0.64
"""Lung lies below this in a cone-beam scan, which is blurred: a blurred edge keeps its place midway
between both sides, and scatter lifts the lung's median to 0.3."""

SMALLEST_BONE_ML = 1.0
"""Volume of a piece of rib; smaller bright parts are calcifications, contrast or noise."""

SMALLEST_SLICE_OF_BONE_ML = 0.2
"""Volume of one slice of a piece of rib. Smaller bright parts are specks of noise, which coarse
voxels would join to the bone beside them."""

BLOOD_DEPTH_MM = 12.0
"""A bright part deeper than this between the lungs is contrast in the heart, not a sternum."""


def segment_thorax_ct(image: Image, fov: torch.Tensor | None = None) -> LabelMap:
    """Segment a thorax CT or cone-beam CT into body, lungs, airways and bone.

    Args:
        image: rank 3, one channel, any orientation; HU or any linear scale of it.
        fov: (*shape) bool, True where the scanner measured; None finds it from the image.

    Returns:
        Label map on the image's grid with the labels of ``THORAX_LABELS``; 0 outside the body
        and outside the field of view.

    Raises:
        SegmentationError: the image does not look like a CT, or no lungs were found in it.
    """
    scan = _Scan.of(image, fov)
    return scan.segmented(scan.airways.extent)


def segment_thorax_pair(fixed: Image, moving: Image) -> tuple[LabelMap, LabelMap]:
    """Segment two thorax CT alike: airways are the same part of the tree in both.

    Where one image shows no airways, or not where they end, those of the other one would be drawn
    to a boundary that is none.

    Args:
        fixed, moving: as for :func:`segment_thorax_ct`.

    Returns:
        The label maps, without airways where one image shows none.

    Raises:
        SegmentationError: one of them does not look like a CT, or no lungs were found in it.
    """
    scans = [_Scan.of(image) for image in (fixed, moving)]
    extent = min(scan.airways.extent for scan in scans)
    first, second = (scan.segmented(extent) for scan in scans)
    return first, second


@dataclass(frozen=True)
class _Scan:
    """A CT in canonical axes, and what is found in it before its lungs."""

    image: Image
    data: torch.Tensor
    fov: torch.Tensor
    ct: DownsampledCt
    uneven: Unevenness | None
    body: Bools
    dark: Bools
    midline: float
    airways: Airways
    lung_below: float

    @classmethod
    def of(cls, image: Image, fov: torch.Tensor | None = None) -> _Scan:
        """Find body and airways."""
        if image.grid.rank != 3 or image.data.shape[0] != 1:
            raise SegmentationError(
                f"{image.name}: expected a thorax CT (3-D, one channel), "
                f"got {image.grid.rank}-D with {image.data.shape[0]} channels"
            )
        canonical, order = image.to_canonical()
        view = field_of_view(image)
        lung_below = BLURRED_LUNG_BELOW if view.is_cone_beam else LUNG_BELOW
        fov = order.apply(view.mask if fov is None else fov.bool())
        fov = fov & torch.isfinite(canonical.data[0])
        data = canonical.data[0] if bool(fov.all()) else torch.where(fov, canonical.data[0], 0.0)
        spacing = canonical.grid.spacing_zyx_mm
        ct = denoised(downsample(data, fov, spacing, canonical.name))
        uneven = find_unevenness(ct)
        if uneven is not None:
            ct = replace(ct, tissue_fraction=ct.tissue_fraction / uneven.drift)
        body = find_body(ct)
        dark = (ct.tissue_fraction < lung_below) & body
        midline = find_midline(ct, body)
        airways = find_airways(ct, body, dark & rough_lungs(ct, dark), midline)
        return cls(image, data, fov, ct, uneven, body, dark, midline, airways, lung_below)

    def segmented(self, extent: int) -> LabelMap:
        """The labels on the image's grid, with airways of an extent."""
        labels = self._labels(self.airways.up_to(max(1, extent)))
        if extent == 0:
            labels[labels == AIRWAYS] = SOFT_TISSUE
        name = f"thorax of {self.image.name}"
        notes: tuple[str, ...] = ()
        if extent < self.airways.extent:
            notes = (f"{name}: {LESS_AIRWAYS[extent]}, as in the other image",)
        return LabelMap(
            self.image.to_canonical()[1].undo(torch.from_numpy(labels)),
            self.image.grid,
            dict(THORAX_LABELS),
            name,
            notes,
        )

    def _labels(self, airways: Bools) -> Ints:
        """The label array of the canonical image."""
        ct, body = self.ct, self.body
        lungs = find_lungs(ct, self.dark & ~airways)
        sides = left_or_right(ct, lungs, self.midline)
        bone = (ct.tissue_fraction > BONE_ABOVE) & body
        closed = close_lungs(ct, sides, body & ~bone & ~airways)
        maybe, surely = _zones(ct, body, closed, airways)
        sharp, smooth = tissue_fractions(self.data, ct, self.uneven, body)
        labels = _tissue_and_air(sharp, maybe, surely, ct, self.lung_below)
        bone = (smooth > BONE_ABOVE) & (labels == SOFT_TISSUE)
        labels[_large_bone(bone, ct, lungs)] = BONE
        labels[~self.fov.numpy()] = 0
        return labels.astype(np.int32)


def _zones(
    ct: DownsampledCt, body: Bools, lungs: Ints, airways: Bools
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Labels on coarse voxels: of dark voxels that may be so, and of voxels that surely are.

    They differ in the boundary zone, one coarse voxel to both sides, where the intensity of each
    full-resolution voxel decides.
    """
    from scipy import ndimage

    maybe = np.zeros(body.shape, np.uint8)
    surely = np.zeros(body.shape, np.uint8)
    maybe[ndimage.binary_dilation(body) & ct.fov] = SOFT_TISSUE
    surely[ndimage.binary_erosion(body, border_value=1)] = SOFT_TISSUE
    for side in (LEFT_LUNG, RIGHT_LUNG):
        mask = lungs == side
        maybe[ndimage.binary_dilation(mask) & body & (lungs == 0)] = side
        surely[ndimage.binary_erosion(mask, border_value=1)] = side
    maybe[ndimage.binary_dilation(airways) & body & (lungs == 0)] = AIRWAYS
    maybe[lungs > 0] = lungs[lungs > 0]
    maybe[airways] = AIRWAYS
    return maybe, surely


def _tissue_and_air(
    fraction: Floats,
    maybe: NDArray[np.uint8],
    surely: NDArray[np.uint8],
    ct: DownsampledCt,
    lung_below: float,
) -> NDArray[np.uint8]:
    """Label soft tissue, lungs and airways at full resolution; intensity decides at boundaries."""
    maybe = enlarged(maybe, ct.factor, fraction.shape)
    surely = enlarged(surely, ct.factor, fraction.shape)
    labels = surely.copy()
    labels[(fraction > SKIN_AT) & (maybe > 0) & (surely == 0)] = SOFT_TISSUE
    np.copyto(labels, maybe, where=(fraction < lung_below) & (maybe > SOFT_TISSUE))
    return labels


def _large_bone(bone: Bools, ct: DownsampledCt, lungs: Bools) -> Bools:
    """Select the bright voxels of pieces of bone, not of noise, calcification or contrast."""
    bone = _without_specks(bone, SMALLEST_SLICE_OF_BONE_ML / ct.voxel_ml * math.prod(ct.factor))
    part = pooled(torch.from_numpy(bone).float(), ct.factor).numpy()
    blood = _enhanced_blood(part > 0.5, ct, lungs)
    part[blood] = 0.0
    labels, count = parts_of(part > 0)
    size = np.bincount(labels.ravel(), part.ravel(), count + 1) * ct.voxel_ml
    size[0] = 0.0
    keep = size >= SMALLEST_BONE_ML
    if blood.any():
        # A part that touches the heart and not the skeleton is a vessel.
        near = distance_to(blood, ct.spacing_mm) <= 2 * max(ct.spacing_mm)
        beside = np.bincount(labels[near], minlength=count + 1) > 0
        beside[int(np.argmax(size))] = False
        keep &= ~beside
    return bone & enlarged(keep[labels], ct.factor, bone.shape)


def _without_specks(mask: Bools, smallest_vox: float) -> Bools:
    """The mask without face-connected parts that are smaller than so many voxels."""
    part = parts_of(mask)[0][mask]
    large = mask.copy()
    large[mask] = (np.bincount(part) >= smallest_vox)[part]
    return large


def _enhanced_blood(bone: Bools, ct: DownsampledCt, lungs: Bools) -> Bools:
    """Find heart and great vessels full of contrast: bright, thick, in front, between the lungs."""
    nothing = np.zeros_like(bone)
    depth = distance_to(~bone, ct.spacing_mm)
    core, count = parts_of(depth > BLOOD_DEPTH_MM)
    if count == 0:
        return nothing
    box = box_of(lungs, 0)
    front = box[1].start + 0.65 * (box[1].stop - box[1].start)
    size = np.maximum(np.bincount(core.ravel(), minlength=count + 1), 1)
    z, y, x = np.nonzero(core)
    number = core[z, y, x]
    at = [np.bincount(number, k, count + 1) / size for k in (z, y, x)]
    inside = (at[2] > box[2].start) & (at[2] < box[2].stop) & (at[0] > box[0].start - 1)
    inside &= (at[0] < box[0].stop) & (at[1] < front)
    inside[0] = False
    if not inside.any():
        return nothing
    reach = BLOOD_DEPTH_MM + max(ct.spacing_mm)
    return bone & (distance_to(inside[core], ct.spacing_mm) <= reach)
