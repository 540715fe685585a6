"""Where the centres of regions or images lie: a start for a pair whose headers do not agree."""

from __future__ import annotations

import numpy as np

from iterreg.geometry import Matrix, apply_affine
from iterreg.labels import centroids
from iterreg.optimize.pair import Pair
from iterreg.optimize.side import Side

TRIMMED = 0.25
"""Share of region pairs that may disagree with the rest when centres are aligned."""


def centred(level: Pair, base: Matrix) -> tuple[str, Matrix]:
    """The translation that brings centres together: of the regions, or else of the images.

    Args:
        level: the pair at the resolution of the search.
        base: homogeneous, fixed to moving, LPS mm: what the translation is added to.

    Returns:
        How it was found, in words, and the matrix.
    """
    fixed, moving = level.fixed, level.moving
    shifts = _region_shifts(fixed, moving, base)
    if len(shifts):
        keep = max(1, int(np.ceil(len(shifts) * (1 - TRIMMED))))
        middle = np.median(shifts, axis=0)
        order = np.argsort(np.linalg.norm(shifts - middle, axis=1))
        how, shift = "centres of the regions", shifts[order[:keep]].mean(0)
    else:
        how = "centres of the images"
        shift = moving.grid.centre_lps_mm - apply_affine(base, fixed.grid.centre_lps_mm)
    matrix = base.copy()
    matrix[:-1, -1] += shift
    return how, matrix


def _region_shifts(fixed: Side, moving: Side, base: Matrix) -> Matrix:
    """For each region that neither image cuts, moving centroid minus mapped fixed one, LPS mm."""
    shifts = []
    fixed_centroids, moving_centroids = _centroids(fixed), _centroids(moving)
    for value in sorted(fixed_centroids.keys() & moving_centroids.keys()):
        here = apply_affine(fixed.grid.index_to_lps, fixed_centroids[value])
        there = apply_affine(moving.grid.index_to_lps, moving_centroids[value])
        shifts.append(there - apply_affine(base, here))
    return np.array(shifts)


def _centroids(side: Side) -> dict[int, Matrix]:
    """Centroid (array order) of each region that stays inside the field of view."""
    first = 3 - side.grid.rank
    # One transfer from the device for all.
    table = centroids(side.labels, 1 + max(side.boxes, default=0)).cpu().numpy()
    return {value: table[value, first:] for value in side.uncut_regions}
