"""Find padding beyond planes of any orientation: what lies outside a turned box of voxels.

An image that is resampled onto a turned grid is padded with one value where the first grid ends.
Its ends are planes that run slantwise through the new array, and through the anatomy that went on
beyond them::

    . . . . . . . . .
    x x . . . . . . .        .  the value of the padding
    x x x x x . . . .        x  anything else
    x x x x x x x x .

A body in air of one value has an outside too. But it tapers: a few millimetres deeper it is wider.
Anatomy that was cut is as wide there as at the cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from iterreg.regions._hull_planes import STAIR_VOX, Plane, hull_planes
from iterreg.regions._round_view import content_of

Bools = NDArray[np.bool_]
Doubles = NDArray[np.float64]

LEAST_PADDING = 0.005
"""Less padding, as a share of the image, is not looked for."""

LEAST_SIDE = 3
"""Nor is any in an image that is shorter along an axis."""

LEAST_CUT = 0.04
"""The content that a plane cuts takes this share of the image's face: no fingertip."""

FLAT_CUT_SHARE = 0.8
FLAT_CUT_DEPTH_MM = 8.0
"""At the plane, content has begun on this share of the lines on which it has this much deeper. A
sphere of 60 mm radius reaches 0.5 only 2 mm below its tip."""

LEAST_CONTENT = 0.2
LEAST_SLANT_VOX = 1.5
"""A plane across the body cuts content on this share of its lines. One that rises by less is an end
slice, which is looked for elsewhere."""

FULL_SHARE = 0.9
LEAST_RISE_VOX = 0.5
"""Any other plane cuts content on this share of its lines, for backs lie flat on tables. And all
that lies within the planes is content to this share, as only measured noise is."""

SMEARED_SHARE = 0.8
MOST_SMEARED_VOX = 6
"""An image that is resampled once more mixes content with padding at the cut. There, on most lines,
a voxel differs from padding by less than this share of what the next one does."""


def cut_planes(
    data: NDArray[np.float32], spacing_mm: tuple[float, ...], known_below: float | None = None
) -> Bools | None:
    """Find slanted planes that cut the content; None if there are none.

    Args:
        data: (channels, *shape), canonical axes.
        spacing_mm: along the array's axes.
        known_below: padding of a value up to this is known voxel by voxel, and not looked for.

    Returns:
        (*shape) bool, True on the measured side of all planes.
    """
    shape = data.shape[1:]
    if min(shape) < LEAST_SIDE:
        return None
    for value in np.unique(_corners(data), axis=1).T:
        content = content_of(data, value)
        if not np.isfinite(value).all() or 1 - content.mean() < LEAST_PADDING:
            continue
        if known_below is not None and value.max() <= known_below:
            continue
        planes = _cutting(hull_planes(content, spacing_mm), content, spacing_mm)
        inside = _inside(planes, shape)
        if 1 - inside.mean() >= LEAST_PADDING:
            return _inside(planes, shape, [_smeared(plane, data, value) for plane in planes])
    return None


def _corners(data: NDArray[np.float32]) -> NDArray[np.float32]:
    """The values at the corners of an image: (channels, corners)."""
    for axis in range(1, data.ndim):
        data = data.take((0, -1), axis)
    return data.reshape(data.shape[0], -1)


@dataclass(frozen=True)
class _Cut:
    """How a plane meets the content.

    Args:
        lines: of its face, that meet the plane inside the image and inside the other planes.
        near: of these, those on which content begins at the plane. deep: or a little deeper.
        slant_vox: how much the plane rises over the near lines.
    """

    lines: int
    near: int
    deep: int
    slant_vox: float

    @classmethod
    def of(cls, plane: Plane, among: list[Plane], spacing_mm: tuple[float, ...]) -> _Cut:
        """Measure a plane among others."""
        axis, rise, behind = plane.face.axis, plane.rise, plane.behind
        lines = (rise > 0) & (rise <= plane.face.length - 1)
        for other in among:
            if other is not plane:
                lines &= other.depth(plane.index) >= 0
        deep_vox = FLAT_CUT_DEPTH_MM / (spacing_mm[axis] * plane.normal_mm(spacing_mm)[axis])
        near = lines & (behind <= STAIR_VOX)
        deep = lines & (behind <= max(deep_vox, 2 * STAIR_VOX))
        slant_vox = float(np.ptp(rise[near])) if near.any() else 0.0
        return cls(int(lines.sum()), int(near.sum()), int(deep.sum()), slant_vox)

    def is_flat(self, face: int) -> bool:
        """Whether content ends at the plane without tapering, on enough of a face of lines."""
        return self.near >= LEAST_CUT * face and self.near >= FLAT_CUT_SHARE * self.deep

    @property
    def is_full(self) -> bool:
        """Whether content ends at the plane all over."""
        return self.slant_vox >= LEAST_RISE_VOX and self.near >= FULL_SHARE * self.lines

    @property
    def is_wide(self) -> bool:
        """Whether content ends at much of it."""
        return self.slant_vox >= LEAST_SLANT_VOX and self.near >= LEAST_CONTENT * self.lines


def _cutting(planes: list[Plane], content: Bools, spacing_mm: tuple[float, ...]) -> list[Plane]:
    """The planes at which padding begins."""

    def flat(plane: Plane, among: list[Plane]) -> bool:
        return _Cut.of(plane, among, spacing_mm).is_flat(plane.face.height.size)

    def across_body(plane: Plane) -> bool:
        return content.ndim == 3 and int(np.abs(plane.normal_mm(spacing_mm)).argmax()) == 0

    alone = [plane for plane in planes if flat(plane, [])]
    # Outside one face of the box content begins deeper, behind another.
    kept = [plane for plane in planes if plane in alone or flat(plane, alone)]
    cuts = {plane: _Cut.of(plane, kept, spacing_mm) for plane in kept}
    across = [plane for plane in kept if across_body(plane) and cuts[plane].is_wide]
    full = [plane for plane in kept if cuts[plane].is_full]
    # A table fills a plane too; measured noise fills the whole box.
    if full and _enclosed(content)[_inside(full, content.shape)].mean() >= FULL_SHARE:
        return [plane for plane in kept if plane in full or plane in across]
    return across


def _enclosed(content: Bools) -> Bools:
    """Voxels from which content lies in both directions along every axis."""
    enclosed = np.ones(content.shape, bool)
    for axis in range(content.ndim):
        enclosed &= np.logical_or.accumulate(content, axis)
        enclosed &= np.flip(np.logical_or.accumulate(np.flip(content, axis), axis), axis)
    return enclosed


def _inside(
    planes: list[Plane], shape: tuple[int, ...], margins: list[float] | None = None
) -> Bools:
    """(*shape) bool, on the measured side of all planes, some voxels away from each."""
    index = tuple(np.ogrid[tuple(map(slice, shape))])
    inside = np.ones(shape, bool)
    for plane, margin in zip(planes, margins or [0.0] * len(planes), strict=True):
        inside &= plane.depth(index) >= margin - 1e-6
    return inside


def _smeared(plane: Plane, data: NDArray[np.float32], value: NDArray[np.float32]) -> float:
    """How many voxels behind a plane, along its axis, padding is mixed with content."""
    face = plane.face
    near = (plane.behind <= STAIR_VOX) & (face.height > 0)
    places, first = np.argwhere(near).T, face.height[near]
    differs = []
    for deeper in range(MOST_SMEARED_VOX + 1):
        index = face.index(np.minimum(first + deeper, face.length - 1), places)
        values = np.stack([channel[tuple(at.astype(int) for at in index)] for channel in data])
        differs.append(np.abs(values - value[:, None]).max(0))
    mixed = 0
    for here, deeper_in in pairwise(differs):
        if np.median(here[deeper_in > 0] / deeper_in[deeper_in > 0]) >= SMEARED_SHARE:
            break
        mixed += 1
    return mixed + float(np.abs(plane.slope).sum()) if mixed else 0.0
