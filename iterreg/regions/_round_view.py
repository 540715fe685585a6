"""Find a round field of view: a circle in the axial plane, beyond which the image is constant."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]

FULL_DISC_SHARE = 0.9
"""A slice that shows less than the others fills this share of a smaller disc."""

CIRCLE_ARC_SHARE = 0.35
"""Share of the circle along which content must run into it. The smallest circle around an ellipse
of axes 1 : 0.75 and 250 voxels touches it, to a voxel, along 10 %."""

CIRCLE_MOSTLY_HIDDEN = 0.6
CIRCLE_ARC_SHARE_HIDDEN = 0.85
"""If less than the first share of the circle lies in the image, the second share of it must be cut.
Otherwise a few degrees at the ends of a body that fills the image would be enough."""

SLICES_CUT = 0.4
"""A cylinder cuts each slice: on average over the slices with content, so much of the circle. On
scans it is 0.66 or more; a ball of 25 voxels' radius has 0.29, a stripped brain 0.03."""

CIRCLE_TOLERANCE_VOX = 1.0
"""Content ends this close to the circle that cuts it."""

CIRCLE_OUTSIDE_SHARE = 0.03
"""A circle that leaves less than this share of the slice outside cannot be distinguished from a
rounded body; a circle inscribed in the image leaves 0.21."""

DIRECTIONS = 360
"""Points on the circle at which content is looked for: one per degree."""


@dataclass(frozen=True)
class RoundView:
    """A round field of view.

    Args:
        seen: (*shape) bool, the voxels inside it, without narrower slices' corners.
        disc: (Y, X) bool, the circle in the axial plane.
        centre: (row, column) of the circle, voxels.
    """

    seen: Bools
    disc: Bools
    centre: tuple[float, float]


def round_view(data: NDArray[np.float32]) -> RoundView | None:
    """Find a circle in the axial plane that cuts the content; None if there is none.

    Args:
        data: (channels, *shape), canonical axes; its corners lie outside the circle.
    """
    if min(data.shape[-2:]) < 8:
        return None
    corner = data.reshape(data.shape[0], -1, *data.shape[-2:])[:, 0, 0, 0]
    content = content_of(data, corner)
    plane: Bools = np.asarray(content.reshape(-1, *content.shape[-2:]).any(0))
    if not plane.any() or plane.all():
        return None
    circle = _circle_around(plane)
    slices = content.reshape(-1, *plane.shape)
    if circle is None or not _cuts(plane, circle) or _length_cut(slices, circle) < SLICES_CUT:
        return None
    row, column, radius = circle
    y, x = np.indices(plane.shape)
    distance = np.hypot(y - row, x - column)
    disc = distance <= radius + 0.1
    if (~disc).mean() < CIRCLE_OUTSIDE_SHARE:
        return None
    # Voxels at the rim of the circle belong to it only if they hold content.
    rim = distance > radius - 1.5
    seen = (disc & (~rim | content)) & _cone(content, distance, radius)
    return RoundView(np.asarray(seen), disc, (row, column))


def _cone(content: Bools, distance: NDArray[np.float64], radius: float) -> Bools:
    """Narrow the disc slice by slice: a cone beam sees less at both ends of its cylinder.

    A slice is narrower if its content *fills* a smaller disc; a body in air does not.
    """
    keep = np.ones(content.shape, bool)
    if content.ndim == 2:
        return keep
    for z, plane in enumerate(content):
        reach = float(distance[plane].max()) if plane.any() else 0.0
        if reach >= radius - 1.5:
            continue
        disc = distance <= reach + 0.5
        if plane.sum() >= FULL_DISC_SHARE * disc.sum():
            keep[z] = disc
    return keep


def _circle_around(plane: Bools) -> tuple[float, float, float] | None:
    """Find the smallest circle around the content: (row, column, radius) in voxels."""
    import cv2

    rows = np.flatnonzero(plane.any(1))
    left = plane.argmax(1)[rows]
    right = plane.shape[1] - 1 - plane[:, ::-1].argmax(1)[rows]
    points = np.concatenate([np.stack([rows, left], 1), np.stack([rows, right], 1)])
    (column, row), radius = cv2.minEnclosingCircle(points[:, ::-1].astype(np.float32))
    if radius < 4:
        return None
    return float(row), float(column), float(radius)


def _cuts(plane: Bools, circle: tuple[float, float, float]) -> bool:
    """Whether content runs into the circle along enough of the circle that lies in the image."""
    return _is_enough(*_along(plane, circle))


def _is_enough(cut: Bools, in_image: Bools) -> bool:
    hidden = in_image.mean() < CIRCLE_MOSTLY_HIDDEN
    needed = CIRCLE_ARC_SHARE_HIDDEN if hidden else CIRCLE_ARC_SHARE
    return bool(in_image.sum() >= 8 and cut.sum() >= needed * in_image.sum())


def is_cut(cut: Bools, in_image: Bools) -> bool:
    """Whether a cylinder cuts the content, all in all and along its length.

    Args:
        cut: (Z, DIRECTIONS), where content of a slice runs into it.
        in_image: (Z, DIRECTIONS), where the slice reaches it.
    """
    length = cut.sum() / max(1, in_image.sum())
    union, reached = np.asarray(cut.any(0)), np.asarray(in_image.any(0))
    return bool(length >= SLICES_CUT and _is_enough(union, reached))


def _length_cut(slices: Bools, circle: tuple[float, float, float]) -> float:
    """Share of the circle that lies in the image and is cut, averaged over slices with content."""
    some = slices[slices.any((1, 2))]
    cut, in_image = _along(some, circle)
    return float(cut.sum() / (len(some) * in_image.sum()))


def _along(content: Bools, circle: tuple[float, float, float]) -> tuple[Bools, Bools]:
    """Where content runs into a circle, (..., DIRECTIONS), and where that lies in the image."""
    row, column, radius = circle
    angle = np.arange(DIRECTIONS) * (2 * np.pi / DIRECTIONS)
    in_image = np.zeros(DIRECTIONS, bool)
    cut = np.zeros((*content.shape[:-2], DIRECTIONS), bool)
    for inset in (0.0, CIRCLE_TOLERANCE_VOX):
        y = np.rint(row + (radius - inset) * np.sin(angle)).astype(int)
        x = np.rint(column + (radius - inset) * np.cos(angle)).astype(int)
        inside = (y >= 0) & (x >= 0) & (y < content.shape[-2]) & (x < content.shape[-1])
        in_image |= inside
        cut[..., inside] |= content[..., y[inside], x[inside]]
    return cut, in_image


def content_of(data: NDArray[np.float32], value: NDArray[np.float32]) -> Bools:
    """Voxels that differ from a constant in some channel."""
    differs = data != value.reshape(-1, *[1] * (data.ndim - 1))
    return np.asarray(differs[0] if len(differs) == 1 else differs.any(0))
