"""Find the patient in a CT, without table, cables and outside air."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from iterreg.errors import SegmentationError
from iterreg.regions._ct_intensity import BODY_ABOVE, BONE_ABOVE, GAS_BELOW, LUNG_BELOW
from iterreg.regions._ct_volume import Bools, DownsampledCt, Ints, distance_to, parts_of

TABLE_MM = 5.0
"""Opening radius that cuts the body off the shell of a table; a chest wall is over 10 mm."""

LIMB_DEPTH_MM = 18.0
"""A second part of the body (an arm, a neck cut off by the field of view) is at least this deep; a
table top is not."""

TABLE_WIDTH_MM = 200.0
"""A part wider than this, and thin, is a table, unless it is the largest."""

TABLE_THICK_MM = 60.0
"""A table top is at most this thick; an arm is thicker."""

TABLE_OVERHANG_MM = 24.0
"""A table that touches the patient is recognised by this much of it at both sides."""

LEAST_AROUND = 0.2
"""Of a lung that the view cuts, this share lies within the convex hull of the wall."""


def find_body(ct: DownsampledCt) -> Bools:
    """Find the patient, with everything inside, without table, cables and outside air.

    Raises:
        SegmentationError: there is no body.
    """
    solid = (ct.tissue_fraction > BODY_ABOVE) & ct.fov
    # Outside the field of view is unknown, not air: a body that leaves it is not eroded there.
    depth = distance_to(~solid & ct.fov, ct.spacing_mm)
    core, count = parts_of((depth > TABLE_MM) & ct.fov)
    if count == 0:
        raise SegmentationError(f"{ct.name}: expected a thorax CT, found no body in it")
    size = np.bincount(core.ravel(), minlength=count + 1)
    size[0] = 0
    deep = np.zeros(count + 1, bool)
    deep[core[depth > LIMB_DEPTH_MM]] = True
    keep = deep & (size > 0.01 * size.max()) & ~_flat(core, count, ct.spacing_mm)
    keep[int(np.argmax(size))] = True
    keep[0] = False
    reach = TABLE_MM + max(ct.spacing_mm)
    wall = solid & (distance_to(keep[core], ct.spacing_mm) <= reach)
    wall &= ~_table_touching(ct, wall)
    return wall | _enclosed(ct, ct.fov & ~wall)


def _flat(parts: Ints, count: int, spacing_mm: tuple[float, float, float]) -> Bools:
    """For each part whether it is shaped like a table top: wide, and much wider than thick."""
    from scipy import ndimage

    flat = np.zeros(count + 1, bool)
    for number, box in enumerate(ndimage.find_objects(parts), 1):
        thick, wide = ((box[k].stop - box[k].start) * spacing_mm[k] for k in (1, 2))
        flat[number] = wide > TABLE_WIDTH_MM and wide > 2.5 * thick
    return flat


def _table_touching(ct: DownsampledCt, wall: Bools) -> Bools:
    """Find a table top that touches the back: the part below the plane of its two overhangs.

    In an overhang the columns from front to back hold only the table top: a thin run whose upper
    end stays at one height. The edge of a body is thin too, but it curves away.
    """
    nothing = np.zeros_like(wall)
    _, dy, dx = ct.spacing_mm
    thin = wall.any(1) & (wall.sum(1) * dy <= TABLE_THICK_MM)
    # A table runs through the whole image.
    columns = thin.mean(0) >= 0.6
    if np.count_nonzero(columns) * dx < 2 * TABLE_OVERHANG_MM:
        return nothing
    top = np.where(thin, wall.argmax(1), np.nan)
    height = np.full(len(columns), np.nan)
    height[columns] = np.nanmedian(top[:, columns], axis=0)
    level = columns & (np.abs(np.gradient(height)) * dy <= 0.35 * dx)
    x = np.flatnonzero(level)
    middle = float(np.mean(np.nonzero(wall)[2]))
    sides = x[x < middle], x[x > middle]
    if min(len(side) for side in sides) * dx < TABLE_OVERHANG_MM:
        return nothing
    # A parabola follows curved table tops too.
    curve = np.polyfit(x - middle, height[x], 2)
    if np.std(np.polyval(curve, x - middle) - height[x]) * dy > TABLE_MM:
        return nothing
    surface = np.polyval(curve, np.arange(wall.shape[2]) - middle)
    below = np.arange(wall.shape[1])[:, None] >= np.rint(surface)[None, :]
    # A plane through the middle of the body is no table: most of the body must lie on it.
    if np.count_nonzero(wall & below[None]) > 0.25 * np.count_nonzero(wall):
        return nothing
    return np.broadcast_to(below[None], wall.shape) & wall


def _enclosed(ct: DownsampledCt, gaps: Bools) -> Bools:
    """Find the gaps in the body wall that lie inside the body: lungs, airways, bowel.

    Each slice is judged alone, because mouth and nose connect the lungs to the outside. A gap that
    the field of view cuts is inside if it looks like lung and the wall lies around it, or if only a
    small part of it is cut.
    """
    wall = ct.fov & ~gaps
    labels, count = parts_of(gaps, in_plane=True)
    flat = labels.ravel()
    area = np.maximum(np.bincount(flat, minlength=count + 1), 1)
    gas = np.bincount(flat, (ct.tissue_fraction < GAS_BELOW).ravel(), count + 1) / area
    airy = (ct.tissue_fraction >= GAS_BELOW) & (ct.tissue_fraction < LUNG_BELOW)
    lung = np.bincount(flat, airy.ravel(), count + 1) / area
    edge = np.bincount(labels[_fov_edge(ct.fov)], minlength=count + 1)
    # Over the perimeter of a disc of this area, in voxels. A lung that lies along the circle of a
    # cone beam as a crescent reaches 1; a sliver along the edge is no gap in the body.
    cut = edge / (2 * np.sqrt(np.pi * area))
    # Half of the voxels of a thin strip of outside air are blurred by the skin into the lung's
    # range; it still holds gas, and it lies along the edge with more than a third of its outline.
    sliver = (edge > 0.6 * area) | ((gas > 0.25) & (cut > 0.35))
    around = np.bincount(flat, _hulls(wall).ravel(), count + 1) / area
    lunglike = (lung > 0.4) & (cut < 1.5) & ~sliver & (around > LEAST_AROUND)
    inside = (edge == 0) | lunglike | (cut < 0.1)
    outside = _carry_outside(labels, ~inside, area, gas > 0.8)
    outside[0] = True
    return ~outside[labels]


def _hulls(wall: Bools) -> Bools:
    """The convex hull of each slice of the wall.

    Air in front of a chest whose sides the view cuts looks like lung; but a body is convex.
    """
    import cv2

    hulls = np.zeros(wall.shape, np.uint8)
    for plane, hull in zip(wall, hulls, strict=True):
        y, x = np.nonzero(plane)
        if len(y):
            corners = cv2.convexHull(np.stack([x, y], 1).astype(np.int32))
            cv2.fillConvexPoly(hull, corners, 1)
    return hulls > 0


def _fov_edge(fov: Bools) -> Bools:
    """Voxels with an in-plane neighbour outside the field of view or the image."""
    padded = np.pad(fov, ((0, 0), (1, 1), (1, 1)))
    around = padded[:, 2:, 1:-1] & padded[:, :-2, 1:-1] & padded[:, 1:-1, 2:] & padded[:, 1:-1, :-2]
    return fov & ~around


def _carry_outside(labels: Ints, outside: Bools, area: NDArray[np.int64], gas: Bools) -> Bools:
    """Mark gas-filled gaps as outside if they lie mostly on an outside gap of the next slice.

    This finds the air between arm and chest, which looks enclosed in a single slice.
    """
    outside = outside.copy()
    below, above = labels[:-1], labels[1:]
    both = (below > 0) & (above > 0)
    code = below[both].astype(np.int64) * len(area) + above[both]
    pairs, contact = np.unique(code, return_counts=True)
    a, b = pairs // len(area), pairs % len(area)
    wide_a, wide_b = contact > 0.5 * area[a], contact > 0.5 * area[b]
    while True:
        found = np.concatenate([a[outside[b] & wide_a], b[outside[a] & wide_b]])
        found = found[gas[found] & ~outside[found]]
        if found.size == 0:
            return outside
        outside[found] = True


def find_midline(ct: DownsampledCt, body: Bools) -> float:
    """Find the index of the spine along x (towards the patient's left)."""
    from scipy import ndimage

    bone = (ct.tissue_fraction > BONE_ABOVE) & body
    columns = body.sum((0, 1))
    middle = float(np.average(np.arange(len(columns)), weights=columns))
    if ct.volume_ml(bone) < 20.0:
        return middle
    profile = ndimage.gaussian_filter1d(bone.sum((0, 1)).astype(float), 10.0 / ct.spacing_mm[2])
    # A scapula or a humerus may hold more bone than the spine; they lie over 80 mm off the middle.
    near = np.abs(np.arange(len(profile)) - middle) * ct.spacing_mm[2] < 80.0
    return float(np.argmax(np.where(near, profile, -1.0)))
