"""Landmarks: read in pairs, and held against their images before any work is done.

Points in RAS where LPS is expected are the usual mistake. It shows where the points leave their
image, or where the two landmarks of a pair lie far apart, and both heal if x and y change sign.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from iterreg.displacement import Transform
from iterreg.errors import GeometryError, ImageContentError
from iterreg.geometry import Grid, Matrix, Points, apply_affine
from iterreg.io import as_points

if TYPE_CHECKING:
    from iterreg.image.kinds import PointsLike

MARGIN_VOX = 1.5
"""A point so far from the outer voxel centres still counts as inside."""

MOST_OUTSIDE = 0.5
"""If a larger share of the points lies outside their image, they are not of that image."""

MUCH_CLOSER = 0.25
"""Landmarks that come this much closer with x and y negated are in two coordinate systems."""

FAR_APART = 0.05
"""That is asked only of landmarks farther apart than this share of their extent or image."""

ASK_RAS = "are they RAS instead of LPS?"


class PointsWarning(UserWarning):
    """Points can be used, but some of them are not where one would expect."""


def read_landmarks(
    fixed: PointsLike | None, moving: PointsLike | None, rank: int | None = None
) -> tuple[Points, Points] | None:
    """Read both sets of landmarks, or None if there are none.

    Args:
        fixed, moving: as many points in both, or None for both.
        rank: of the images; None if it does not matter.

    Raises:
        ImageContentError: only one of them is given, or one is empty.
        GeometryError: their numbers or ranks differ.
    """
    if fixed is None and moving is None:
        return None
    if fixed is None or moving is None:
        missing = "fixed_landmarks" if fixed is None else "moving_landmarks"
        raise ImageContentError(f"{missing}: expected landmarks of both images or of none")
    first, second = as_points(fixed, "fixed_landmarks"), as_points(moving, "moving_landmarks")
    fixed_name = _name(first, "fixed_landmarks")
    for points, side in ((first, "fixed"), (second, "moving")):
        if not len(points):
            raise ImageContentError(f"{_name(points, f'{side}_landmarks')}: expected points")
    if first.lps.shape != second.lps.shape:
        raise GeometryError(
            f"{_name(second, 'moving_landmarks')}: expected as many landmarks as {fixed_name}, "
            f"{first!r}, got {second!r}"
        )
    if rank is not None:
        require_rank(first, rank, "the images", "fixed_landmarks")
    return first, second


def require_rank(points: Points, rank: int, other: str, name: str = "points") -> None:
    """Refuse points of another rank than the images or the transform that they belong to.

    Args:
        points: to check.
        rank: expected.
        other: what has this rank, in words.
        name: of the points, if they have none.

    Raises:
        GeometryError: naming both.
    """
    got = points.lps.shape[1]
    if got != rank:
        missing = "; a column z is missing" if got < rank else ""
        raise GeometryError(
            f"{_name(points, name)}: expected {rank}-D points as {other}, got {points!r}{missing}"
        )


def check_inside(points: Points, grid: Grid, image: str, name: str = "points") -> str:
    """Refuse points that belong to another image, and warn of single ones that lie outside.

    Args:
        points: to check.
        grid: of their image.
        image: what the grid belongs to, in words.
        name: of the points, if they have none.

    Returns:
        What the warning said; empty if all lie inside.

    Raises:
        GeometryError: the ranks differ, most points lie outside, or all lie inside once x and y
            change sign.

    Example:
        >>> grid = Grid((4, 5), (1.0, 1.0), (10.0, 10.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> check_inside(Points(np.array([[-12.0, -12.0]])), grid, "the picture")
        Traceback (most recent call last):
        ...
        iterreg.errors.GeometryError: points: expected points inside the picture, which spans \
10...14 x 10...13 (LPS mm); 1 of 1 lies outside, the first at -12, -12; with x and y negated all \
lie inside: are they RAS instead of LPS?
    """
    require_rank(points, grid.rank, image, name)
    outside = _outside(points.lps, grid)
    count = int(outside.sum())
    if not count:
        return ""
    first = ", ".join(f"{v:g}" for v in points.lps[int(np.argmax(outside))])
    text = (
        f"{_name(points, name)}: expected points inside {image}, which spans {span(grid)} (LPS "
        f"mm); {count} of {len(points)} {'lies' if count == 1 else 'lie'} outside, the first at "
        f"{first}"
    )
    if not _outside(_mirrored(points.lps), grid).any():
        raise GeometryError(f"{text}; with x and y negated all lie inside: {ASK_RAS}")
    if count > MOST_OUTSIDE * len(points):
        raise GeometryError(text + _other_reading(points.lps, grid))
    warnings.warn(PointsWarning(text), stacklevel=2)
    return text


def check_landmarks(
    landmarks: tuple[Points, Points] | None,
    grids: tuple[Grid | None, Grid | None],
    start: Transform | None = None,
) -> tuple[str, ...]:
    """Hold both sets of landmarks against their images and against each other.

    Args:
        landmarks: fixed and moving, in the same order; None checks nothing.
        grids: of the fixed and of the moving image; None is not checked.
        start: where the fixed landmarks are expected before a registration; None is the identity.

    Returns:
        What was warned of.

    Raises:
        GeometryError: as :func:`check_inside`, or one of the two sets is in RAS.
    """
    if landmarks is None:
        return ()
    notes = []
    for points, grid, side in zip(landmarks, grids, ("fixed", "moving"), strict=True):
        if grid is not None:
            notes.append(check_inside(points, grid, f"the {side} image", f"{side}_landmarks"))
    fixed, moving = landmarks
    if start is not None:
        fixed = Points(start.map_points(fixed).lps, fixed.name)
    require_one_system(fixed, moving, grids[0])
    return tuple(note for note in notes if note)


def require_one_system(fixed: Points, moving: Points, grid: Grid | None = None) -> None:
    """Refuse landmarks of which one set is in RAS and the other in LPS.

    Args:
        fixed: mapped to where their partners are expected.
        moving: their partners.
        grid: of the fixed image, for its size; None takes the landmarks' own extent.

    Raises:
        GeometryError: the pairs lie far apart, and near each other once x and y change sign.
    """
    corners = moving.lps if grid is None else grid.corners_lps_mm
    size = float(np.linalg.norm(np.ptp(corners, axis=0)))
    apart = float(np.median(np.linalg.norm(fixed.lps - moving.lps, axis=1)))
    turned = float(np.median(np.linalg.norm(fixed.lps - _mirrored(moving.lps), axis=1)))
    if apart > FAR_APART * size and turned < MUCH_CLOSER * apart:
        raise GeometryError(
            f"{_name(moving, 'moving_landmarks')}: expected the partners of "
            f"{_name(fixed, 'fixed_landmarks')} in LPS mm, got points {apart:.0f} mm from them, "
            f"and {turned:.0f} mm with x and y negated: one of the two files is RAS; if it is "
            "right so, give the transform between them"
        )


def span(grid: Grid) -> str:
    """Return what a grid spans, in LPS mm, x first.

    Example:
        >>> span(Grid((4, 5), (2.0, 2.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0))))
        '0...8 x 0...6'
    """
    low, high = grid.corners_lps_mm.min(0), grid.corners_lps_mm.max(0)
    return " x ".join(f"{a:.0f}...{b:.0f}" for a, b in zip(low, high, strict=True))


def _name(points: Points, otherwise: str) -> str:
    return points.name or otherwise


def _mirrored(lps: Matrix) -> Matrix:
    return np.asarray(lps * np.array([-1.0, -1.0, 1.0])[: lps.shape[1]], np.float64)


def _outside(lps: Matrix, grid: Grid) -> NDArray[np.bool_]:
    index = apply_affine(grid.lps_to_index, lps)
    last = np.asarray(grid.shape_zyx) - 1
    return np.asarray(((index < -MARGIN_VOX) | (index > last + MARGIN_VOX)).any(1), np.bool_)


def _other_reading(lps: Matrix, grid: Grid) -> str:
    """Say so if the numbers would fit as voxel indices."""
    last = np.asarray(grid.shape_zyx[::-1]) - 1
    if bool(((lps >= 0) & (lps <= last)).all()):
        return "; as voxel indices all would lie inside: convert them to LPS mm"
    return ""
