"""Find the view of a cone beam whose axis does not run along an axis of the array.

A scan is often resampled onto the grid of the planning CT, turned and shifted as the patient lay on
the couch. Its cylinder then leans, and lies in one value where the scanner measured nothing, and in
another where the first grid ended. Seen slice by slice it is still a disc, whose middle moves
evenly::

    (x - x0 - a z)^2 + (y - y0 - b z)^2 = r^2        a, b: how far the axis leans

This is linear in its terms, so a few turns of least squares find it; then it is measured exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.regions._cone_ends import COLUMNS_MM, MOST_COLUMNS, ConeEnd, ends_of_columns
from iterreg.regions._ct_volume import Bools, Floats, pooled
from iterreg.regions._round_view import DIRECTIONS, is_cut

Doubles = NDArray[np.float64]

LEAST_OF_IMAGE, LEAST_OF_FACES = 0.03, 0.02
"""What lies around a scan takes this share of the image's voxels, exactly, or of its four faces
beside the body."""

MOST_VALUES = 500_000
"""As many voxels are looked at."""

LEAST_OUTSIDE = 0.003
"""A cylinder that leaves less of the image outside is not looked for."""

WORK_MM = 4.0
"""The cylinder is found on voxels of about this size."""

LEAST_SIDE = 8
"""An image of fewer work voxels along an axis is not looked at."""

TURNS = 8
"""Of the fit; in each, points farther from it than ``FAR`` times the median leave."""

FAR = 3.0

MOST_LEAN = 0.36
"""Tangent of 20 degrees."""

LEAST_RADIUS_MM, LEAST_RADIUS_VOX = 60.0, 30
"""On fewer work voxels a rounded body looks like a circle."""

NEAR_VOX = 1.0
"""Points this close to the cylinder, in work voxels, lie on it."""

LEAST_NEAR = 0.6
"""Of the points, the others being corners of the first grid and what the image's end cuts."""

RIM_VOX = 1.0
"""The rim is mixed with what lies around by the resampling."""

MOST_BEYOND = 0.02
"""Content outside the cylinder, as a share of all content: the mixed faces of the first grid."""


AIR_PERCENTILE = 2
"""What was not measured is taken for air, which is this percentile of what was."""


@dataclass(frozen=True)
class Cylinder:
    """A cylinder whose axis leans; lengths in mm along the array's axes, from its first voxel.

    Args:
        point: z, y, x of a point of the axis.
        along: z, y, x, its unit direction.
        radius: of the cylinder.
    """

    point: Doubles
    along: Doubles
    radius: float

    def places(self, z: Doubles, y: Doubles, x: Doubles) -> tuple[Doubles, Doubles]:
        """The distance of points from the axis, and their height along it."""
        from_point = (z - self.point[0], y - self.point[1], x - self.point[2])
        height = sum(k * a for k, a in zip(from_point, self.along, strict=True))
        square = sum(k * k for k in from_point) - height * height
        return np.sqrt(np.maximum(square, 0.0)), np.asarray(height)

    def rim(self, z_mm: Doubles, inset_mm: float) -> tuple[Doubles, Doubles]:
        """(Z, DIRECTIONS) y and x at which slices meet the cylinder, or a narrower one."""
        angle = np.arange(DIRECTIONS) * (2 * np.pi / DIRECTIONS)
        sine, cosine = np.sin(angle), np.cos(angle)
        length = (self.radius - inset_mm) / np.sqrt(
            1 - (sine * self.along[1] + cosine * self.along[2]) ** 2
        )
        middle = [
            self.point[k] + (z_mm - self.point[0]) * self.along[k] / self.along[0] for k in (1, 2)
        ]
        # A slice cuts the cylinder in an ellipse, whose middle lies on the axis.
        return middle[0][:, None] + length * sine, middle[1][:, None] + length * cosine


def turned_view(volume: Floats, spacing_mm: tuple[float, ...]) -> tuple[Bools, list[str]] | None:
    """Find a leaning cylinder, and the cones that end it; None if there is none.

    Args:
        volume: (Z, Y, X), canonical axes.
        spacing_mm: (z, y, x).

    Returns:
        (Z, Y, X) bool, what the scan saw, and which parts of its view end within the image.
    """
    factor = tuple(max(1, round(WORK_MM / s)) for s in spacing_mm)
    if any(n < LEAST_SIDE * f for n, f in zip(volume.shape, factor, strict=True)):
        return None
    around = np.isin(volume, _surrounds(volume))
    if around.mean() < LEAST_OUTSIDE:
        return None
    content = _thick(pooled(torch.from_numpy(~around).float(), factor).numpy())
    work_mm = tuple(s * f for s, f in zip(spacing_mm, factor, strict=True))
    cylinder = _fitted(content, work_mm)
    if cylinder is None or not _is_cut_by(content, cylinder, work_mm):
        return None
    # The middle of the first work voxel is not that of the first voxel.
    first = np.array([s * (f - 1) / 2 for s, f in zip(spacing_mm, factor, strict=True)])
    cylinder = Cylinder(cylinder.point + first, cylinder.along, cylinder.radius)
    air = np.percentile(volume[~around][:: max(1, around.size // MOST_VALUES)], AIR_PERCENTILE)
    filled = np.where(around, np.float32(air), volume)
    ends = _ends(filled, (content, factor), cylinder, spacing_mm)
    rim_mm = RIM_VOX * max(spacing_mm)
    seen = np.empty(volume.shape, bool)
    y, x = (np.arange(n) * s for n, s in zip(volume.shape[1:], spacing_mm[1:], strict=True))
    for k in range(len(volume)):
        radius_mm, height_mm = cylinder.places(
            np.asarray(k * spacing_mm[0]), y[:, None], x[None, :]
        )
        seen[k] = radius_mm <= cylinder.radius - rim_mm
        for end in ends:
            seen[k] &= end.sees(height_mm / spacing_mm[0], radius_mm / spacing_mm[0])
    return seen, ["cylinder", "cones"] if ends else ["cylinder"]


def _surrounds(volume: Floats) -> Floats:
    """The values that take much of the image: of what was not measured, and of padding."""
    faces = np.concatenate([volume[:, (0, -1)].ravel(), volume[:, :, (0, -1)].ravel()])
    found = []
    for voxels, least in ((volume.ravel(), LEAST_OF_IMAGE), (faces, LEAST_OF_FACES)):
        some = voxels[:: max(1, len(voxels) // MOST_VALUES)]
        values, counts = np.unique(some, return_counts=True)
        found.append(values[counts >= least * len(some)])
    return np.unique(np.concatenate(found))


def _thick(share: Floats) -> Bools:
    """Content without the thin faces at which the first grid's end is mixed with padding."""
    from scipy import ndimage

    content = (share > 0.5).astype(np.float32)
    return np.asarray((ndimage.uniform_filter(content, 3) > 0.5) & (share > 0))


def _fitted(content: Bools, spacing_mm: tuple[float, ...]) -> Cylinder | None:
    """The cylinder through the outermost content of the slices."""
    points = _outermost(content) * spacing_mm
    if len(points) < 50:
        return None
    voxel_mm = max(spacing_mm[1:])
    cylinder = _least_squares(points)
    for _ in range(TURNS):
        if cylinder is None:
            return None
        off = np.abs(cylinder.places(*points.T)[0] - cylinder.radius)
        near = off <= max(FAR * float(np.median(off)), NEAR_VOX * voxel_mm)
        cylinder = _least_squares(points[near])
    if cylinder is None or cylinder.radius < LEAST_RADIUS_VOX * voxel_mm:
        return None
    off = np.abs(cylinder.places(*points.T)[0] - cylinder.radius)
    return cylinder if (off <= NEAR_VOX * voxel_mm).mean() >= LEAST_NEAR else None


def _outermost(content: Bools) -> Doubles:
    """(N, 3): corners of the convex hull of each slice's content, without those at its edge."""
    import cv2

    found = []
    last = np.array(content.shape[1:]) - 1
    for k, plane in enumerate(content):
        y, x = np.nonzero(plane)
        if len(y) < 50:
            continue
        hull = cv2.convexHull(np.stack([x, y], 1).astype(np.int32))[:, 0, ::-1]
        inside = hull[((hull > 0) & (hull < last)).all(1)]
        found.append(np.column_stack([np.full(len(inside), k), inside]))
    return np.concatenate(found).astype(np.float64) if found else np.empty((0, 3))


def _least_squares(points: Doubles) -> Cylinder | None:
    """The cylinder nearest to points: first its lean, then its middle and its radius."""
    if len(points) < 50:
        return None
    middle = points.mean(0)
    z, y, x = (points - middle).T
    one = np.ones_like(z)
    terms = np.column_stack([y, x, y * z, x * z, one, z, z * z])
    y0, x0, lean_y, lean_x, *_ = np.linalg.lstsq(terms, y * y + x * x, rcond=None)[0]
    lean = np.array([1.0, lean_y / 2, lean_x / 2])
    if not np.isfinite(lean).all() or np.hypot(*lean[1:]) > MOST_LEAN:
        return None
    point = middle + np.array([0.0, y0 / 2, x0 / 2])
    along = lean / np.linalg.norm(lean)
    radius_mm = Cylinder(point, along, 0.0).places(*points.T)[0]
    radius = float(np.median(radius_mm))
    return Cylinder(point, along, radius) if radius >= LEAST_RADIUS_MM else None


def _is_cut_by(content: Bools, cylinder: Cylinder, spacing_mm: tuple[float, ...]) -> bool:
    """Whether content runs into the cylinder, and next to none lies beyond it."""
    z_mm = np.arange(len(content), dtype=np.float64) * spacing_mm[0]
    some = content.any((1, 2))
    cut = np.zeros((len(content), DIRECTIONS), bool)
    in_image = np.zeros_like(cut)
    slices = np.arange(len(content))[:, None]
    for inset in (0.5, 1.5):
        y_mm, x_mm = cylinder.rim(z_mm, inset * max(spacing_mm[1:]))
        y, x = (
            np.rint(k / s).astype(int) for k, s in ((y_mm, spacing_mm[1]), (x_mm, spacing_mm[2]))
        )
        inside = (y >= 0) & (x >= 0) & (y < content.shape[1]) & (x < content.shape[2])
        in_image |= inside
        here = content[slices, y.clip(0, content.shape[1] - 1), x.clip(0, content.shape[2] - 1)]
        cut |= inside & here
    radius_mm, _ = cylinder.places(*(np.argwhere(content) * np.array(spacing_mm)).T)
    beyond = float((radius_mm > cylinder.radius + max(spacing_mm[1:])).mean())
    return beyond <= MOST_BEYOND and is_cut(cut[some], in_image[some])


def _ends(
    volume: Floats,
    content: tuple[Bools, tuple[int, ...]],
    cylinder: Cylinder,
    spacing_mm: tuple[float, ...],
) -> list[ConeEnd]:
    """The cones that end a cylinder, seen along its axis; heights from its point, in slices.

    Args:
        volume: (Z, Y, X), air where nothing was measured.
        content: what was measured, on work voxels, and how many voxels each of them is.
        cylinder: of the view.
        spacing_mm: (z, y, x).
    """
    factor = (1, *(max(1, round(COLUMNS_MM / s)) for s in spacing_mm[1:]))
    first, second = _across(cylinder.along)
    steps = np.arange(-cylinder.radius, cylinder.radius, COLUMNS_MM)
    u, v = (k.ravel() for k in np.meshgrid(steps, steps))
    inside = np.flatnonzero(np.hypot(u, v) < cylinder.radius - COLUMNS_MM)
    some = inside[:: -(-len(inside) // MOST_COLUMNS) or 1]
    feet = u[some, None] * first + v[some, None] * second
    low = -round(cylinder.point[0] / spacing_mm[0])
    heights_mm = (np.arange(len(volume)) + low) * spacing_mm[0]
    places = (cylinder.point + feet + heights_mm[:, None, None] * cylinder.along) / spacing_mm
    levels = pooled(torch.from_numpy(volume), factor).numpy()
    columns = _sampled(levels, factor, places, 1)
    measured = _sampled(content[0].view(np.uint8), content[1], places, 0) > 0
    radii_mm = np.hypot(u[some], v[some])
    ends = ends_of_columns(columns, measured, radii_mm, spacing_mm[0], is_cut=True)
    return [ConeEnd(end.apex_vox + low, end.slope, end.upper) for end in ends]


def _sampled(
    blocks: NDArray[Any], factor: tuple[int, ...], places: Doubles, order: int
) -> NDArray[Any]:
    """Block means at places of the image, (..., 3) indices; 0 beyond it."""
    from scipy import ndimage

    index = [(places[..., k] - (f - 1) / 2) / f for k, f in enumerate(factor)]
    return np.asarray(ndimage.map_coordinates(blocks, index, order=order, cval=0))


def _across(along: Doubles) -> tuple[Doubles, Doubles]:
    """Two unit directions across the axis."""
    first = np.cross(along, [0.0, 0.0, 1.0])
    first /= np.linalg.norm(first)
    return first, np.cross(along, first)
