"""Find what a picture shows: the round view of a camera or microscope, or a turned tile.

Around it the picture is of one colour. A body in air has such a surround too, and that is measured:
so only a disc or a rectangle counts, and in doubt the whole picture.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]

SURROUND_LEVELS = (0, 6, 16)
"""Colours this close to that of the border belong to the surround: the first that leaves a disc or
a rectangle. Compression makes a surround uneven."""

LEAST_SURROUND = 0.03
LEAST_VIEW = 0.1
"""Least shares of the picture that the surround and the view take."""

LEAST_FILL = 0.965
"""A view fills this share of the disc or rectangle around it. A marker at its edge, as a fundus
camera makes, takes less than 1 %; the smallest disc around an ellipse is filled by the ratio of the
axes, and a head has 0.8."""

MOST_CORNERS = 8
CORNER_SHARE = 0.012
"""A turned tile, cut by the picture, has at most eight corners; between them its edge is straight
to this share of the side. An ellipse needs twice as many."""

LEAST_BORDER = 0.15
"""A surround takes this share of the border: a round view that touches all four sides 0.7."""

LONGEST_SIDE_PX = 512
LEAST_SIDE_PX = 16
"""The view is looked for at this size at most, and in pictures of this size at least."""

MARKER_SHARE = 0.03
"""What sticks out of the view by less than this share of the side is a marker and is shaved off."""

RIM_SHARE = 0.006
"""The view ends this share of the side before its edge, where a lens and compression blur it."""


def picture_view(picture: NDArray[np.generic]) -> Bools:
    """Find the pixels that show something.

    Args:
        picture: (H, W, C) of 0 to 255.

    Returns:
        (H, W), True inside the view; all True unless a surround was found.

    Example:
        >>> y, x = np.mgrid[:100, :100]
        >>> disc = np.where(np.hypot(x - 50, y - 50) < 45, 200, 0)[..., None]
        >>> view = picture_view(disc)
        >>> bool(view[50, 50]), bool(view[2, 2])
        (True, False)
    """
    import cv2

    whole = np.ones(picture.shape[:2], bool)
    if min(picture.shape[:2]) < LEAST_SIDE_PX:
        return whole
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    values, counts = np.unique(border.astype(np.uint8), axis=0, return_counts=True)
    if counts.max() < LEAST_BORDER * counts.sum():
        return whole
    pixels = np.ascontiguousarray(picture, np.uint8)
    scale = min(1.0, LONGEST_SIDE_PX / max(whole.shape))
    if scale < 1:
        rows, columns = (max(1, round(n * scale)) for n in picture.shape[:2])
        small = cv2.resize(pixels, (columns, rows), interpolation=cv2.INTER_AREA)
        pixels = np.asarray(small, np.uint8).reshape(rows, columns, -1)
    far = np.abs(pixels.astype(np.int16) - values[counts.argmax()]).max(2)
    for levels in SURROUND_LEVELS:
        view = _opened(_filled(far > levels), MARKER_SHARE)
        if LEAST_VIEW <= view.mean() <= 1 - LEAST_SURROUND and _is_frame(view):
            view = _eroded(view, max(1, round(RIM_SHARE * max(view.shape))))
            full = cv2.resize(view.astype(np.uint8), whole.shape[::-1], interpolation=0)
            return np.asarray(full > 0, bool)
    return whole


def _filled(content: Bools) -> Bools:
    """The largest connected part of what differs from the surround, its holes filled."""
    import cv2

    count, labels, stats, _ = cv2.connectedComponentsWithStats(content.astype(np.uint8))
    if count < 2:
        return np.zeros(content.shape, bool)
    part = np.asarray(labels == 1 + stats[1:, cv2.CC_STAT_AREA].argmax(), np.uint8)
    outlines, _ = cv2.findContours(part, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(part, outlines, -1, 1, cv2.FILLED) > 0, bool)


def _disc(diameter: int) -> NDArray[np.uint8]:
    import cv2

    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (diameter, diameter))
    return np.asarray(kernel, np.uint8)


def _opened(view: Bools, share: float) -> Bools:
    """A view without what sticks out of it; the edge of the picture is no edge of the view."""
    import cv2

    size = 2 * max(1, round(share * max(view.shape))) + 1
    padded = np.pad(view.astype(np.uint8), size, mode="edge")
    opened = cv2.morphologyEx(padded, cv2.MORPH_OPEN, _disc(size))
    return np.asarray(opened[size:-size, size:-size] > 0, bool)


def _eroded(view: Bools, pixels: int) -> Bools:
    import cv2

    kernel = _disc(2 * pixels + 1)
    return np.asarray(cv2.erode(view.astype(np.uint8), kernel, borderValue=1) > 0, bool)


def _is_frame(view: Bools) -> bool:
    """Whether a view is a disc, or has few corners with straight lines between them."""
    import cv2

    rows, columns = np.nonzero(view)
    hull = cv2.convexHull(np.stack([columns, rows], 1).astype(np.int32))
    (x, y), radius = cv2.minEnclosingCircle(hull)
    disc, tile = np.zeros(view.shape, np.uint8), np.zeros(view.shape, np.uint8)
    cv2.circle(disc, (round(x), round(y)), round(radius), 1, cv2.FILLED)
    corners = cv2.approxPolyDP(hull, CORNER_SHARE * max(view.shape), True)
    cv2.fillConvexPoly(tile, corners, 1)
    shapes = [disc] if len(corners) > MOST_CORNERS else [disc, tile]
    return any(view.sum() >= LEAST_FILL * (shape | view).sum() for shape in shapes)
