"""Verify matched regions of two pictures: behind a supported alignment partners lie on each other.

The part of a region that the other picture does not show does not count.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from iterreg.geometry import Matrix
from iterreg.samreg.candidates import Candidates
from iterreg.samreg.matching import Match
from iterreg.samreg.pictures import PictureStack
from iterreg.samreg.rle import decode_mask

Bools = NDArray[np.bool_]

LEAST_IOU = 0.6
"""Least intersection over union of partners behind a supported alignment. The boundary of a region
is sure to a few pixels; half a disc on a whole one has 0.5."""

LEAST_SHOWN = 0.5
"""Share of either region that the other picture has to show."""


def verified(
    matches: list[Match], fixed: Candidates, moving: Candidates, affine_lps: Matrix
) -> list[Match]:
    """Keep the matches whose regions lie on each other.

    Args:
        matches: of two pictures.
        fixed, moving: the regions.
        affine_lps: a supported alignment, from fixed to moving points.
    """
    return [m for m in matches if overlap_of(m, fixed, moving, affine_lps) >= LEAST_IOU]


def overlap_of(match: Match, fixed: Candidates, moving: Candidates, affine_lps: Matrix) -> float:
    """Intersection over union of two matched regions behind an alignment, where both are shown.

    Args:
        match: its regions.
        fixed, moving: the regions of two pictures, or of the slices of two volumes.
        affine_lps: from fixed to moving points.

    Returns:
        0 to 1; 0 if less than ``LEAST_SHOWN`` of a region can be compared.
    """
    ours = decode_mask(fixed.masks[match.fixed])
    theirs = decode_mask(moving.masks[match.moving])
    number = int(fixed.slices[match.fixed])
    to_moving = within_slices((fixed.stack, moving.stack), affine_lps, number)
    to_fixed = np.linalg.inv(to_moving)
    warped = _warped(theirs, to_moving, ours.shape)
    seen_there = _warped(np.ones_like(theirs), to_moving, ours.shape)
    seen_here = _warped(np.ones_like(ours), np.asarray(to_fixed, np.float64), theirs.shape)
    shown = ((ours & seen_there).sum() / ours.sum(), (theirs & seen_here).sum() / theirs.sum())
    union = ((ours | warped) & seen_there).sum()
    if min(shown) < LEAST_SHOWN or not union:
        return 0.0
    return float((ours & warped).sum() / union)


def within_slices(
    stacks: tuple[PictureStack, PictureStack], affine_lps: Matrix, number: int
) -> Matrix:
    """From voxels (x, y) of a fixed slice to those of a moving one, homogeneous.

    How far the slices lie apart after the alignment plays no part.

    Args:
        stacks: fixed and moving, cut across the same axis.
        affine_lps: from fixed to moving points.
        number: of the fixed slice.
    """
    grids, axis = (stacks[0].grid, stacks[1].grid), stacks[0].axis
    whole = np.linalg.inv(grids[1].index_to_lps) @ affine_lps @ grids[0].index_to_lps
    xy = [k for k in reversed(range(grids[0].rank)) if k != axis]
    result = np.eye(3)
    result[:2, :2], result[:2, 2] = whole[np.ix_(xy, xy)], whole[xy, -1]
    if axis is not None:
        result[:2, 2] += whole[xy, axis] * number
    return result


def _warped(mask: Bools, to_mask: Matrix, shape: tuple[int, ...]) -> Bools:
    """A mask on other pixels, (x, y) to (x, y) by ``to_mask``."""
    import cv2

    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(mask.astype(np.uint8), to_mask[:2], shape[::-1], flags=flags)
    return np.asarray(warped > 0, bool)
