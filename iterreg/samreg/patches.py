"""Judge an alignment of two pictures by patches that played no part in finding it, and refine it.

A patch of the fixed picture is looked for around the place where the alignment puts it. Behind a
right alignment most patches are found at one and the same small shift; behind a wrong one they are
found anywhere, and the share of them that agrees by chance is known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import pi
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iterreg.geometry import Matrix
from iterreg.samreg.align import align
from iterreg.samreg.planes import Plane

Floats = NDArray[np.float64]

PATCH_CELLS = 5.0
"""Half a patch's side at the coarse size, in cells of the encoder's grid: whole structures."""

FINE_PATCH_CELLS = 3.0

REACH_CELLS = 2.25
"""How far a patch is looked for: cells that are matched right are at most 1.5 cells off."""

FINE_REACH_CELLS = 1.0

MOST_PATCHES = 250

TOLERANCE = 1 / 6
"""A patch agrees within this share of the reach."""

LEAST_SHARE = 0.3
"""An alignment is supported if this share of the patches agrees. On pairs of one scene the right
alignment has at least 0.45, the best wrong one 0.17; of different people none has more than 0.12.
It was chosen on these pairs."""

LEAST_PATCHES = 20
"""Fewer prove nothing."""

STEP_CELLS = 2.5
"""Distance between patches: half a patch, so that neighbours do not repeat each other."""

LEAST_VARIANCE = 0.05
"""Of an evened patch, whose contrast is about 1: a flat one is found anywhere."""

INSIDE_SHARE = 0.9
"""Share of a patch that both pictures show."""


@dataclass(frozen=True)
class Support:
    """How many patches agree with an alignment.

    Args:
        agree: patches found where the alignment puts them.
        of: patches looked for.
        chance: share that would agree by chance.
        residual_mm: median distance of those that agree; NaN without any.

    Example:
        >>> Support(120, 150, 0.02, 0.4).share
        0.8
    """

    agree: int
    of: int
    chance: float
    residual_mm: float = float("nan")

    @property
    def share(self) -> float:
        """Share of the patches that agrees, 0 to 1."""
        return self.agree / self.of if self.of else 0.0

    @property
    def is_enough(self) -> bool:
        """Whether so many agree that the alignment can be relied on."""
        return self.of >= LEAST_PATCHES and self.share >= LEAST_SHARE

    @property
    def by_chance(self) -> float:
        """How many would agree by chance."""
        return self.chance * self.of

    @property
    def summary(self) -> str:
        """In words."""
        return f"{self.agree} of {self.of} patches agree (by chance {self.by_chance:.0f})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in ``run.json``."""
        return {
            "patches_agree": self.agree,
            "patches": self.of,
            "patches_by_chance": round(self.by_chance, 1),
        }


@dataclass(frozen=True)
class _Found:
    """Where patches of the fixed plane are, and how far from there the warped plane shows them.

    Args:
        places: (N, 2) pixels of the fixed plane, x before y.
        shifts: (N, 2) pixels; NaN for a patch that is found at the edge of the reach.
        reach: pixels.
    """

    places: Floats
    shifts: Floats
    reach: int

    @property
    def tolerance(self) -> float:
        """Pixels within which a patch agrees."""
        return max(1.0, TOLERANCE * self.reach)

    @property
    def chance(self) -> float:
        """Share of the reach within the tolerance."""
        return pi * self.tolerance**2 / (2 * self.reach + 1) ** 2


def support_of(
    fixed: Plane, warped: Plane, patch_cells: float = PATCH_CELLS, reach_cells: float = REACH_CELLS
) -> Support:
    """Judge an alignment.

    Args:
        fixed: the fixed picture.
        warped: the moving one on the pixels of the fixed one, by the alignment.
        patch_cells: half a patch's side.
        reach_cells: how far a patch is looked for.
    """
    return _support(fixed, _look(fixed, warped, patch_cells, reach_cells))


def refine(
    planes: tuple[Plane, Plane], affine_lps: Matrix, kind: str = "similarity", fine: bool = False
) -> tuple[Matrix, Support]:
    """Move an alignment to where most patches are found.

    Args:
        planes: fixed and moving, both at one size.
        affine_lps: from fixed to moving points, at most about a cell off.
        kind: what may change: ``similarity`` or ``affine``.
        fine: whether the planes have the fine size: smaller patches, looked for nearby.

    Returns:
        The refined alignment and its support: the given one if no other is supported better.
    """
    sizes = (FINE_PATCH_CELLS, FINE_REACH_CELLS) if fine else (PATCH_CELLS, REACH_CELLS)
    fixed, moving = planes
    found = _look(fixed, warp_plane(fixed, moving, affine_lps), *sizes)
    best, support = affine_lps, _support(fixed, found)
    for _ in range(3):
        seen = np.isfinite(found.shifts).all(1)
        if seen.sum() < LEAST_PATCHES:
            break
        here = found.places[seen]
        shift = align(here, here + found.shifts[seen], found.tolerance, kind, min_extra_inliers=0)
        candidate = best @ fixed.px_to_lps @ shift.affine_lps @ fixed.lps_to_px
        found = _look(fixed, warp_plane(fixed, moving, candidate), *sizes)
        judged = _support(fixed, found)
        if (judged.agree, -judged.residual_mm) <= (support.agree, -support.residual_mm):
            break
        best, support = candidate, judged
    return best, support


def warp_plane(fixed: Plane, moving: Plane, affine_lps: Matrix) -> Plane:
    """The moving plane on the pixels of the fixed one.

    Args:
        fixed, moving: the planes.
        affine_lps: from fixed to moving points.
    """
    import cv2

    to_moving = (moving.lps_to_px @ affine_lps @ fixed.px_to_lps)[:2]
    size = fixed.grey.shape[::-1]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    grey = cv2.warpAffine(moving.grey, to_moving, size, flags=flags)
    inside = cv2.warpAffine(moving.inside.astype(np.float32), to_moving, size, flags=flags)
    return replace(fixed, grey=np.asarray(grey, np.float32), inside=inside > 0.99)


def _support(fixed: Plane, found: _Found) -> Support:
    distance = np.linalg.norm(found.shifts, axis=1)
    agrees = distance <= found.tolerance
    residual = float(np.median(distance[agrees])) if agrees.any() else float("nan")
    return Support(
        int(agrees.sum()), len(distance), found.chance, round(residual * fixed.pixel_mm, 6)
    )


def _look(fixed: Plane, warped: Plane, patch_cells: float, reach_cells: float) -> _Found:
    """Look for the patches with most structure."""
    import cv2

    half, reach = (max(4, round(c * fixed.cell_px)) for c in (patch_cells, reach_cells))
    places = _places(fixed, warped, half, reach)
    shifts = np.full((len(places), 2), np.nan)
    for row, (x, y) in enumerate(places):
        patch = fixed.grey[y - half : y + half + 1, x - half : x + half + 1]
        wide = half + reach
        window = warped.grey[y - wide : y + wide + 1, x - wide : x + wide + 1]
        scores = cv2.matchTemplate(window, patch, cv2.TM_CCOEFF_NORMED)
        peak = _peak(np.asarray(scores, np.float64))
        if peak is not None:
            shifts[row] = np.array(peak) - reach
    return _Found(places.astype(np.float64), shifts, reach)


def _places(fixed: Plane, warped: Plane, half: int, reach: int) -> NDArray[np.int64]:
    """(N, 2) centres of the patches with most structure that both planes show, x before y."""
    import cv2

    def share(mask: NDArray[np.bool_], radius: int) -> NDArray[np.float32]:
        size = (2 * radius + 1, 2 * radius + 1)
        kind = cv2.BORDER_CONSTANT
        return np.asarray(cv2.boxFilter(mask.astype(np.float32), -1, size, borderType=kind))

    shown = (share(fixed.inside, half) > INSIDE_SHARE) & (share(warped.inside, half) > INSIDE_SHARE)
    mean, square = (cv2.boxFilter(g, -1, (2 * half + 1,) * 2) for g in (fixed.grey, fixed.grey**2))
    shown &= square - mean**2 > LEAST_VARIANCE
    margin = half + reach
    step = max(2, round(STEP_CELLS * fixed.cell_px))
    rows, columns = (np.arange(margin, n - margin, step) for n in fixed.grey.shape)
    x, y = (a.ravel() for a in np.meshgrid(columns, rows))
    x, y = x[shown[y, x]], y[shown[y, x]]
    strength = _structure(fixed, 2 * half + 1)[y, x]
    order = np.argsort(-strength, kind="stable")[:MOST_PATCHES]
    return np.stack([x[order], y[order]], 1)


def _structure(plane: Plane, window: int) -> NDArray[np.float32]:
    """The smaller eigenvalue of the structure tensor: low where a patch can slide along an edge."""
    import cv2

    gx, gy = (cv2.Sobel(plane.grey, cv2.CV_32F, *d) for d in ((1, 0), (0, 1)))
    xx, xy, yy = (cv2.boxFilter(p, -1, (window, window)) for p in (gx * gx, gx * gy, gy * gy))
    return np.asarray((xx + yy - np.sqrt((xx - yy) ** 2 + 4 * xy**2)) / 2, np.float32)


def _peak(scores: Floats) -> tuple[float, float] | None:
    """The place (x, y) of the highest score, to a fraction of a pixel; None at the edge."""
    y, x = (int(k) for k in np.unravel_index(scores.argmax(), scores.shape))
    if not (0 < y < scores.shape[0] - 1 and 0 < x < scores.shape[1] - 1):
        return None
    return (
        x + _vertex(*scores[y, x - 1 : x + 2].tolist()),
        y + _vertex(*scores[y - 1 : y + 2, x].tolist()),
    )


def _vertex(before: float, middle: float, after: float) -> float:
    """Where the parabola through three scores is highest, relative to the middle one."""
    bend = before - 2 * middle + after
    return 0.0 if bend >= 0 else 0.5 * (before - after) / bend
