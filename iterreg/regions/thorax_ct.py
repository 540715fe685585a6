"""Regions of a thorax CT or cone-beam CT, found without weights.

The segmenter reads the image as a share of the way from air (0) to soft tissue (1), two levels
that it finds in the histogram, so a cone-beam CT with another offset and scale is read the same.
Anatomy is decided on voxels of about 4 mm (which dark part is lung, which airway, which bowel);
every boundary is decided at full resolution by the voxel's own intensity.

    levels -> body -> airways -> lungs -> left and right -> bone -> full resolution
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.errors import SegmentationError
from iterreg.image import Image, LabelMap
from iterreg.regions._ct_body import find_body, find_midline
from iterreg.regions._ct_levels import (
    BONE_OVER,
    DARK,
    HALF,
    calibrated,
    denoised,
    find_cupping,
    reduce_to_work,
)
from iterreg.regions._ct_lungs import (
    close_lungs,
    find_airways,
    find_lungs,
    left_or_right,
    rough_lungs,
)
from iterreg.regions._ct_work import (
    AIRWAYS,
    BONE,
    LEFT_LUNG,
    RIGHT_LUNG,
    SOFT_TISSUE,
    Bools,
    Floats,
    Ints,
    Work,
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
"""Labels that :func:`segment_thorax_ct` gives. Left is the patient's left, +x in LPS."""

SMALLEST_BONE_ML = 1.0
"""A piece of rib; smaller bright parts are calcifications, contrast in bowel, noise."""

BLOOD_DEPTH_MM = 12.0
"""A bright part deeper than this between the lungs is contrast in the heart, not a sternum."""


def segment_thorax_ct(image: Image, fov: torch.Tensor | None = None) -> LabelMap:
    """Segment a thorax CT or cone-beam CT into body, lungs, airways and bone.

    Args:
        image: rank 3, one channel, any orientation; HU or any linear scale of it.
        fov: (*shape) bool, True where the scanner measured; found from the image if not given.

    Returns:
        Label map on the image's grid with the labels of ``THORAX_LABELS``; 0 outside the body
        and outside the field of view.

    Raises:
        SegmentationError: the image does not look like a CT, or no lungs were found in it.
    """
    if image.grid.rank != 3 or image.data.shape[0] != 1:
        raise SegmentationError(
            f"{image.name}: expected a thorax CT (3-D, one channel), "
            f"got {image.grid.rank}-D with {image.data.shape[0]} channels"
        )
    canonical, order = image.to_canonical()
    seen = order.apply(field_of_view(image).mask if fov is None else fov.bool())
    seen = seen & torch.isfinite(canonical.data[0])
    data = torch.where(seen, canonical.data[0], 0.0) if not bool(seen.all()) else canonical.data[0]
    labels = _segment(data, seen, canonical)
    return LabelMap(
        order.undo(torch.from_numpy(labels)),
        image.grid,
        dict(THORAX_LABELS),
        f"thorax of {image.name}",
    )


def _segment(data: torch.Tensor, seen: torch.Tensor, canonical: Image) -> Ints:
    """The label array of a canonical image."""
    spacing = canonical.grid.spacing_zyx_mm
    work, air, soft = reduce_to_work(data, seen, spacing, canonical.name)
    work, air, soft = denoised(work, air, soft)
    bias = find_cupping(work)
    if bias is not None:
        work = replace(work, share=work.share / bias.on(work.share.shape))
    body = find_body(work)
    dark = (work.share < DARK) & body
    midline = find_midline(work, body)
    lungs_and_gas = dark & rough_lungs(work, dark)
    airways = find_airways(work, body, lungs_and_gas, midline)
    lungs = find_lungs(work, dark & ~airways)
    sides = left_or_right(work, lungs, midline)
    bone = (work.share > BONE_OVER) & body
    closed = close_lungs(work, sides, body & ~bone & ~airways)
    may, must = _zones(work, body, closed, airways)
    sharp, smooth = calibrated(data, air, soft, bias, work, body)
    labels = _soft_and_air(sharp, may, must, work)
    bone = (smooth > BONE_OVER) & (labels == SOFT_TISSUE)
    labels[_large_bone(bone, work, lungs)] = BONE
    labels[~seen.numpy()] = 0
    return labels.astype(np.int32)


def _zones(
    work: Work, body: Bools, lungs: Ints, airways: Bools
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """What a voxel may be if it is dark, and what it must be whatever it is.

    The boundary zone, one working voxel to both sides, is left to the voxel's own intensity.
    """
    from scipy import ndimage

    may = np.zeros(body.shape, np.uint8)
    must = np.zeros(body.shape, np.uint8)
    may[ndimage.binary_dilation(body) & work.seen] = SOFT_TISSUE
    must[ndimage.binary_erosion(body, border_value=1)] = SOFT_TISSUE
    for side in (LEFT_LUNG, RIGHT_LUNG):
        mask = lungs == side
        may[ndimage.binary_dilation(mask) & body & (lungs == 0)] = side
        must[ndimage.binary_erosion(mask, border_value=1)] = side
    may[ndimage.binary_dilation(airways) & body & (lungs == 0)] = AIRWAYS
    may[lungs > 0] = lungs[lungs > 0]
    may[airways] = AIRWAYS
    return may, must


def _soft_and_air(
    share: Floats, may: NDArray[np.uint8], must: NDArray[np.uint8], work: Work
) -> NDArray[np.uint8]:
    """Labels but bone at full resolution, boundaries where the voxel's own intensity puts them."""
    may = enlarged(may, work.factor, share.shape)
    must = enlarged(must, work.factor, share.shape)
    labels = must.copy()
    labels[(share > HALF) & (may > 0) & (must == 0)] = SOFT_TISSUE
    np.copyto(labels, may, where=(share < DARK) & (may > SOFT_TISSUE))
    return labels


def _large_bone(bone: Bools, work: Work, lungs: Bools) -> Bools:
    """Bright voxels that belong to a piece of bone, not to noise, calcification or contrast."""
    part = pooled(torch.from_numpy(bone).float(), work.factor).numpy()
    blood = _enhanced_blood(part > 0.5, work, lungs)
    part[blood] = 0.0
    labels, count = parts_of(part > 0)
    size = np.bincount(labels.ravel(), part.ravel(), count + 1) * work.voxel_ml
    size[0] = 0.0
    keep = size >= SMALLEST_BONE_ML
    if blood.any():
        # What hangs on the heart and not on the skeleton is a vessel.
        near = distance_to(blood, work.spacing_mm) <= 2 * max(work.spacing_mm)
        beside = np.bincount(labels[near], minlength=count + 1) > 0
        beside[int(np.argmax(size))] = False
        keep &= ~beside
    return bone & enlarged(keep[labels], work.factor, bone.shape)


def _enhanced_blood(bone: Bools, work: Work, lungs: Bools) -> Bools:
    """Heart and great vessels full of contrast: bright, thick, and in front between the lungs."""
    nothing = np.zeros_like(bone)
    depth = distance_to(~bone, work.spacing_mm)
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
    reach = BLOOD_DEPTH_MM + max(work.spacing_mm)
    return bone & (distance_to(inside[core], work.spacing_mm) <= reach)
