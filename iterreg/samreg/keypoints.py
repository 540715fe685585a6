"""Match keypoints of two pictures whose illumination is removed.

Source: Lowe, Distinctive image features from scale-invariant keypoints, IJCV 60 (2), 2004, as
OpenCV has it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from iterreg.geometry import Matrix, apply_affine

Floats = NDArray[np.float64]

RATIO = 0.8
"""A match is kept if the second-best one is at least this many times farther away."""

MOST_KEYPOINTS = 4000


def match_keypoints(
    fixed: tuple[NDArray[np.uint8], NDArray[np.bool_], Matrix],
    moving: tuple[NDArray[np.uint8], NDArray[np.bool_], Matrix],
) -> tuple[Floats, Floats]:
    """Match keypoints.

    Args:
        fixed, moving: grey picture (H, W) uint8; where it shows something; from its pixels (x, y)
            to LPS mm, homogeneous.

    Returns:
        (N, 2) fixed and (N, 2) moving points, LPS mm.

    Example:
        >>> flat = np.zeros((64, 64), np.uint8), np.ones((64, 64), bool), np.eye(3)
        >>> match_keypoints(flat, flat)[0].shape
        (0, 2)
    """
    import cv2

    # OpenCV's stubs leave its keypoints out.
    finder = getattr(cv2, "SIFT_create")(MOST_KEYPOINTS)  # noqa: B009
    found = [finder.detectAndCompute(g, m.astype(np.uint8)) for g, m, _ in (fixed, moving)]
    none = np.zeros((0, 2)), np.zeros((0, 2))
    if any(described is None or len(described) < 2 for _, described in found):
        return none
    nearest = cv2.BFMatcher(cv2.NORM_L2).knnMatch(found[0][1], found[1][1], k=2)
    kept = [a for a, b in nearest if a.distance < RATIO * b.distance]
    if not kept:
        return none
    here = np.array([found[0][0][m.queryIdx].pt for m in kept], np.float64)
    there = np.array([found[1][0][m.trainIdx].pt for m in kept], np.float64)
    return apply_affine(fixed[2], here), apply_affine(moving[2], there)
