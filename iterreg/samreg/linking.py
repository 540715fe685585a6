"""Link matched regions of slices into matched regions of the volume.

Two matches in neighbouring slices belong to one structure if their regions overlap in both images.
A chain of such matches, at most one per fixed slice, becomes an ROI pair of the volume. If the
structure was not found in a slice, or was matched to something else there, the slice is filled from
its neighbours; otherwise the gap would look like an end of the structure.

Source: SAMReg (arXiv 2410.14083), section 6, "2D ROIs for 3D structures", leaves this open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from iterreg.samreg.matching import Match
from iterreg.samreg.rle import RunLengthMask, stack_masks

Bools = NDArray[np.bool_]

MIN_LINK_IOU = 0.5
"""Least intersection over union of linked regions, in both images. It tells the same organ in the
next slice from an organ that contains it."""

MAX_MISSING_SLICES = 2
"""Most slices in a row that a chain may skip."""

MIN_FILL_IOU = 0.7
"""A gap is filled with a region that was found in its slice if that overlaps the interpolated mask
at least this much; otherwise with the interpolated mask."""

SUBSAMPLED_PX = 128
"""Overlaps are counted on masks subsampled to this many pixels along their longer side."""


def link(
    matches: Sequence[Match],
    masks: tuple[Sequence[RunLengthMask], Sequence[RunLengthMask]],
    slices: tuple[NDArray[np.int64], NDArray[np.int64]],
    spacing_mm: tuple[float, float],
) -> list[list[Match]]:
    """Group matches that belong to one structure into chains.

    Args:
        matches: pairs of 2-D regions.
        masks: of all fixed and of all moving regions.
        slices: slice numbers of all fixed and of all moving regions.
        spacing_mm: distance between fixed and between moving slices.

    Returns:
        Chains: every match is in one of them, alone if it has no neighbours. Chains of several
        slices come first, then the most similar.
    """
    if not matches:
        return []
    subsampled = [
        stack_masks([side[getattr(m, name)] for m in matches], SUBSAMPLED_PX).reshape(
            len(matches), -1
        )
        for side, name in zip(masks, ("fixed", "moving"), strict=True)
    ]
    numbers = [
        np.array([side[getattr(m, name)] for m in matches])
        for side, name in zip(slices, ("fixed", "moving"), strict=True)
    ]
    chain = list(range(len(matches)))
    for _, a, b in sorted(_links(subsampled, numbers, spacing_mm), reverse=True):
        first, second = chain[a], chain[b]
        of_first = {int(numbers[0][k]) for k, c in enumerate(chain) if c == first}
        of_second = {int(numbers[0][k]) for k, c in enumerate(chain) if c == second}
        if first != second and not of_first & of_second:
            chain = [first if c == second else c for c in chain]
    labelled = list(zip(matches, chain, strict=True))
    chains = [[m for m, c in labelled if c == k] for k in dict.fromkeys(chain)]
    return sorted(chains, key=lambda c: (len(c) == 1, -chain_similarity(c)))


def chain_similarity(chain: Sequence[Match]) -> float:
    """Return the mean similarity of a chain's matches."""
    return float(np.mean([m.similarity for m in chain]))


def fill_gaps(
    masks: Mapping[int, Bools], masks_of_slice: Callable[[int], Sequence[Bools]]
) -> dict[int, Bools]:
    """Fill the slices that a structure misses between its first and its last one.

    Args:
        masks: of the structure, by slice number.
        masks_of_slice: gives all masks that were found in a slice.

    Returns:
        Masks by slice number, without gaps.
    """
    whole = dict(masks)
    slices = sorted(masks)
    for first, last in pairwise(slices):
        ends = [_signed_distance(masks[k]) for k in (first, last)]
        for k in range(first + 1, last):
            t = (k - first) / (last - first)
            between = (1 - t) * ends[0] + t * ends[1] > 0
            best = max(masks_of_slice(k), key=lambda mask: _iou(mask, between), default=between)
            whole[k] = best if _iou(best, between) >= MIN_FILL_IOU else between
    return whole


def _signed_distance(mask: Bools) -> NDArray[np.float64]:
    """Distance to the boundary in voxels of the slice, positive inside."""
    from scipy.ndimage import distance_transform_edt

    inside, outside = distance_transform_edt(mask), distance_transform_edt(~mask)
    return np.asarray(inside - outside, np.float64)


def _links(
    masks: list[Bools], numbers: list[NDArray[np.int64]], spacing_mm: tuple[float, float]
) -> Iterator[tuple[tuple[int, float], int, int]]:
    """Yield ((minus their distance in slices, the lesser overlap), one match, another match)."""
    step_mm = max(spacing_mm)
    for a in range(len(numbers[0])):
        fixed_mm = (numbers[0] - numbers[0][a]) * spacing_mm[0]
        moving_mm = (numbers[1] - numbers[1][a]) * spacing_mm[1]
        near = (fixed_mm > 0) & (fixed_mm <= (MAX_MISSING_SLICES + 1.01) * step_mm)
        near &= (moving_mm >= 0) & (np.abs(moving_mm - fixed_mm) <= 1.01 * step_mm)
        for b in np.flatnonzero(near):
            least = min(_iou(side[a], side[b]) for side in masks)
            if least >= MIN_LINK_IOU:
                steps = round(float(fixed_mm[b]) / step_mm)
                yield (-steps, least), a, int(b)


def _iou(one: Bools, other: Bools) -> float:
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 0.0
