"""Points and boxes that a user sets in the fixed image: only the regions there are matched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from iterreg.errors import GeometryError
from iterreg.geometry import Points, apply_affine
from iterreg.io import as_points, read_prompts
from iterreg.samreg.pictures import PictureStack
from iterreg.samreg.rle import RunLengthMask, decode_mask

if TYPE_CHECKING:
    from iterreg.image.kinds import PointsLike

Floats = NDArray[np.float64]

LEAST_BOX_IOU = 0.5
"""The bounding box of a region has to overlap the user's box this much, in one slice at least."""


@dataclass(frozen=True)
class Prompts:
    """What a user points at in the fixed image.

    Args:
        points: LPS mm; None for boxes alone.
        boxes: corners of each box, (corners, rank) LPS mm: two opposite ones of a box along the
            image's own axes, or all corners of any box.

    Example:
        >>> Prompts(boxes=[np.array([[10.0, 20.0], [50.0, 60.0]])])
        Prompts(0 points, 1 boxes)
    """

    points: Points | None = None
    boxes: Sequence[Floats] = field(default=())

    def __repr__(self) -> str:
        return f"Prompts({0 if self.points is None else len(self.points)} points, " + (
            f"{len(self.boxes)} boxes)"
        )


class Place(NamedTuple):
    """A prompt in voxels of the fixed image: slice, row and column.

    Args:
        low, high: its least and largest index, fractions of a voxel; the same for a point.
        is_box: whether it is a box.
    """

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    is_box: bool

    @property
    def slices(self) -> range:
        """The slices that it lies in."""
        return range(round(self.low[0]), round(self.high[0]) + 1)


def as_prompts(value: PointsLike | Prompts, name: str) -> Prompts:
    """Prompts from a file or from points.

    Args:
        value: what the user gives.
        name: of the argument, for messages.

    Raises:
        ImageReadError: a file that cannot be read.
        GeometryError: an array alone, which does not say whether it is LPS or RAS.
        TypeError: anything else.
    """
    if isinstance(value, Prompts):
        return value
    if isinstance(value, str | Path):
        points, boxes = read_prompts(value)
        return Prompts(points, boxes)
    return Prompts(as_points(value, name))


def places_of(prompts: Prompts, stack: PictureStack, name: str) -> list[Place]:
    """Where prompts lie in the slices.

    Args:
        prompts: points and boxes. The part of a box outside the image is cut off.
        stack: the pictures of their image.
        name: of the image, for messages.

    Raises:
        GeometryError: a point or a whole box lies outside the image, a box is thinner than a
            voxel of the slice, or a prompt is of another rank.
    """
    lps = [] if prompts.points is None else [p[None] for p in np.asarray(prompts.points.lps)]
    places = [_place(corners, stack, name, False) for corners in lps]
    return places + [_place(np.asarray(c, np.float64), stack, name, True) for c in prompts.boxes]


def _place(corners_lps: Floats, stack: PictureStack, name: str, is_box: bool) -> Place:
    rank, last = stack.grid.rank, np.array(stack.grid.shape_zyx) - 1.0
    what = "boxes" if is_box else "points"
    if corners_lps.shape[1] != rank:
        got = corners_lps.shape[1]
        less = "; a picture has no z" if rank < got else ""
        raise GeometryError(
            f"prompts: expected {what} of rank {rank} as {name}, got rank {got}{less}"
        )
    index = apply_affine(stack.grid.lps_to_index, corners_lps)
    low, high = index.min(0), index.max(0)
    where = " to ".join(f"({', '.join(f'{v:g}' for v in c)})" for c in corners_lps[[0, -1]])
    if (high < -0.5).any() or (low > last + 0.5).any() or not np.isfinite(index).all():
        got = where if is_box else where.split(" to ")[0]
        raise GeometryError(f"prompts: expected {what} inside {name}, got {got}")
    low, high = (end.clip(-0.5, last + 0.5) for end in (low, high))
    within = [k for k in range(rank) if k != stack.axis]
    if is_box and (high - low)[within].min() < 1:
        raise GeometryError(
            f"prompts: expected boxes of at least a voxel inside {name}, along both axes of a "
            f"slice, got {where}"
        )
    depths = [
        0.0 if stack.axis is None else float(v.clip(0, last)[stack.axis]) for v in (low, high)
    ]
    sides = [tuple(map(float, end[within])) for end in (low, high)]
    (y, x), (y2, x2) = sides
    return Place((depths[0], y, x), (depths[1], y2, x2), is_box)


def pixels_of(
    places: Sequence[Place], number: int, stack: PictureStack, boxes: bool
) -> tuple[tuple[float, ...], ...]:
    """Prompts in pixels of the picture of a slice, those that lie in it.

    Args:
        places: of the prompts.
        number: of the slice.
        stack: the pictures.
        boxes: whether boxes (x, y, x2, y2) are asked for, or points (x, y).
    """
    picture = stack.pixels[number]
    if picture is None:
        return ()
    rows, columns = stack.slice_shape
    scale = (picture.shape[1] / columns, picture.shape[0] / rows) * 2
    ends = [
        (p.low[2], p.low[1], p.high[2], p.high[1]) if boxes else (round(p.low[2]), round(p.low[1]))
        for p in places
        if p.is_box == boxes and number in p.slices
    ]
    return tuple(tuple((v + 0.5) * s for v, s in zip(end, scale, strict=False)) for end in ends)


def chosen_by(
    places: Sequence[Place], groups: Sequence[Sequence[tuple[int, RunLengthMask]]]
) -> list[int | None]:
    """For each point the group with the smallest mask around it, for each box that which fills it.

    Args:
        places: of the prompts.
        groups: (slice, mask) of each region.

    Returns:
        The index of each prompt's group; None for a prompt without a region.
    """
    return [_in_box(p, groups) if p.is_box else _around(p, groups) for p in places]


def _around(place: Place, groups: Sequence[Sequence[tuple[int, RunLengthMask]]]) -> int | None:
    number, y, x = (round(v) for v in place.low)
    around = [
        (mask.area, k)
        for k, group in enumerate(groups)
        for slice_number, mask in group
        if slice_number == number and decode_mask(mask)[y, x]
    ]
    return min(around)[1] if around else None


def _in_box(place: Place, groups: Sequence[Sequence[tuple[int, RunLengthMask]]]) -> int | None:
    """The group whose bounding boxes overlap the user's box most, summed over its slices."""
    best, most = None, 0.0
    for k, group in enumerate(groups):
        overlaps = [_box_iou(place, mask) for number, mask in group if number in place.slices]
        if max(overlaps, default=0.0) >= LEAST_BOX_IOU and sum(overlaps) > most:
            best, most = k, sum(overlaps)
    return best


def _box_iou(place: Place, mask: RunLengthMask) -> float:
    """Intersection over union of the user's box and a mask's bounding box."""
    index = np.stack(np.nonzero(decode_mask(mask)))
    low, high = index.min(1) - 0.5, index.max(1) + 0.5
    ours = np.array(place.low[1:]), np.array(place.high[1:])
    both = np.prod((np.minimum(high, ours[1]) - np.maximum(low, ours[0])).clip(min=0))
    return float(both / (np.prod(high - low) + np.prod(ours[1] - ours[0]) - both))
