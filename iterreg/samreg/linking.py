"""From matched regions of slices to matched regions of the volume.

Two pairs of neighbouring slices belong together when they overlap in both images; a volume's ROI
pair is a chain of such pairs, with at most one in each fixed slice. A slice in which the structure
was not found, or went to another partner, is filled from its neighbours: a hole would be taken for
an end of the structure.

Source: SAMReg (arXiv 2410.14083), section 6, "2D ROIs for 3D structures", leaves this open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from iterreg.samreg.matching import Match
from iterreg.samreg.rle import RunLengthMask, stacked

Bools = NDArray[np.bool_]

OVERLAP = 0.5
"""Least intersection over union of what is linked, in both images: the same organ one slice on,
not the organ that holds it."""

GAP = 2
"""Slices in a row that a chain may miss."""

KNOWN = 0.7
"""A region that was found in a missing slice takes its place if it overlaps the interpolated one by
this much."""

THINNED = 128


def link(
    matches: Sequence[Match],
    masks: tuple[Sequence[RunLengthMask], Sequence[RunLengthMask]],
    slices: tuple[NDArray[np.int64], NDArray[np.int64]],
    spacing_mm: tuple[float, float],
) -> list[list[Match]]:
    """Chains of matches that belong to one structure.

    Args:
        matches: pairs of 2-D regions.
        masks: of all fixed and all moving regions.
        slices: the slice of each.
        spacing_mm: distance of fixed and of moving slices.

    Returns:
        Each match in one chain; a match without neighbours is a chain of its own. Chains of several
        slices first, then the most similar first.
    """
    thin = [
        stacked([side[getattr(m, name)] for m in matches], THINNED).reshape(len(matches), -1)
        for side, name in zip(masks, ("fixed", "moving"), strict=True)
    ]
    places = [
        np.array([where[getattr(m, name)] for m in matches])
        for where, name in zip(slices, ("fixed", "moving"), strict=True)
    ]
    chain = list(range(len(matches)))
    for _, a, b in sorted(_links(thin, places, spacing_mm), reverse=True):
        first, second = chain[a], chain[b]
        held = {int(places[0][k]) for k, c in enumerate(chain) if c == first}
        more = {int(places[0][k]) for k, c in enumerate(chain) if c == second}
        if first != second and not held & more:
            chain = [first if c == second else c for c in chain]
    named = list(zip(matches, chain, strict=True))
    chains = [[m for m, c in named if c == k] for k in dict.fromkeys(chain)]
    return sorted(chains, key=lambda c: (len(c) == 1, -similarity(c)))


def similarity(chain: Sequence[Match]) -> float:
    """Of a chain: the mean over its slices."""
    return float(np.mean([m.similarity for m in chain]))


def filled(
    chosen: Mapping[int, Bools], known: Callable[[int], Sequence[Bools]]
) -> dict[int, Bools]:
    """The slices of a structure, those between them included.

    Args:
        chosen: masks by slice.
        known: everything that was found in a slice.

    Returns:
        Masks by slice, without holes.
    """
    whole = dict(chosen)
    slices = sorted(chosen)
    for first, last in pairwise(slices):
        ends = [_signed_distance(chosen[k]) for k in (first, last)]
        for k in range(first + 1, last):
            share = (k - first) / (last - first)
            between = (1 - share) * ends[0] + share * ends[1] > 0
            found = max(known(k), key=lambda mask: _iou(mask, between), default=between)
            whole[k] = found if _iou(found, between) >= KNOWN else between
    return whole


def _signed_distance(mask: Bools) -> NDArray[np.float64]:
    """In voxels of the slice, positive inside."""
    from scipy.ndimage import distance_transform_edt

    inside, outside = distance_transform_edt(mask), distance_transform_edt(~mask)
    return np.asarray(inside - outside, np.float64)


def _links(
    thin: list[Bools], places: list[NDArray[np.int64]], spacing_mm: tuple[float, float]
) -> Iterator[tuple[tuple[int, float], int, int]]:
    """Pairs of matches a few steps apart in both images: nearness, then their lesser overlap."""
    step_mm = max(spacing_mm)
    for a in range(len(places[0])):
        ahead = (places[0] - places[0][a]) * spacing_mm[0]
        beside = (places[1] - places[1][a]) * spacing_mm[1]
        near = (ahead > 0) & (ahead <= (GAP + 1.01) * step_mm)
        near &= (beside >= 0) & (np.abs(beside - ahead) <= 1.01 * step_mm)
        for b in np.flatnonzero(near):
            least = min(_iou(side[a], side[b]) for side in thin)
            if least >= OVERLAP:
                steps = round(float(ahead[b]) / step_mm)
                yield (-steps, least), a, int(b)


def _iou(one: Bools, other: Bools) -> float:
    either = int((one | other).sum())
    return int((one & other).sum()) / either if either else 0.0
