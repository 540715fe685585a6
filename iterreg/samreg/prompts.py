"""Points that a user sets in the fixed image: only the regions around them are matched."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from iterreg.errors import GeometryError
from iterreg.geometry import Points, apply_affine
from iterreg.samreg.pictures import PictureStack
from iterreg.samreg.rle import RunLengthMask, decode_mask

Place = tuple[int, int, int]
"""Slice, row and column of a voxel."""


def places_of(points: Points, stack: PictureStack, name: str) -> list[Place]:
    """The voxel that each point lies in.

    Args:
        points: LPS mm.
        stack: the pictures of their image.
        name: of the image, for messages.

    Raises:
        GeometryError: a point lies outside the image, or is of another rank.
    """
    rank, shape = stack.grid.rank, np.array(stack.grid.shape_zyx)
    lps = np.asarray(points.lps, np.float64)
    if lps.shape[1] != rank:
        raise GeometryError(f"prompts: expected points of rank {rank}, got rank {lps.shape[1]}")
    index = np.rint(apply_affine(stack.grid.lps_to_index, lps)).astype(int)
    outside = ~((index >= 0) & (index < shape)).all(1)
    if outside.any():
        first = int(outside.argmax())
        where = ", ".join(f"{v:g}" for v in lps[first])
        raise GeometryError(f"prompts: expected points inside {name}, got ({where})")
    if stack.axis is None:
        return [(0, int(y), int(x)) for y, x in index]
    across = np.delete(index, stack.axis, axis=1)
    slices = index[:, stack.axis]
    return [(int(s), int(y), int(x)) for s, (y, x) in zip(slices, across, strict=True)]


def pixels_of(
    places: Sequence[Place], number: int, stack: PictureStack
) -> tuple[tuple[float, float], ...]:
    """Pixels (x, y) of the picture of a slice, at the places that lie in it."""
    picture = stack.pixels[number]
    if picture is None:
        return ()
    rows, columns = stack.slice_shape
    tall, wide = picture.shape[0] / rows, picture.shape[1] / columns
    return tuple(((x + 0.5) * wide, (y + 0.5) * tall) for s, y, x in places if s == number)


def smallest_around(
    places: Sequence[Place], groups: Sequence[Sequence[tuple[int, RunLengthMask]]]
) -> list[int]:
    """For each place the group whose mask around it is the smallest.

    Args:
        places: of the points.
        groups: (slice, mask) of each region.

    Returns:
        Indices of groups in their order, each once; a place in no region has none.
    """
    chosen = set()
    for number, y, x in places:
        around = [
            (mask.area, k)
            for k, group in enumerate(groups)
            for slice_number, mask in group
            if slice_number == number and decode_mask(mask)[y, x]
        ]
        if around:
            chosen.add(min(around)[1])
    return sorted(chosen)
