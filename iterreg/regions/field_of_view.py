"""Find the field of view: the voxels that the scanner measured.

Constant voxels at the border of an image are of two kinds. Air (or a masked background) around a
body is measured: there is nothing there. Padding is not: the body went on, and the scanner did not
see it. They differ in shape. Padding cuts through anatomy along a plane or a circle, and a body
ends by tapering. In doubt the whole image counts as measured.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.image import Image

Bools = NDArray[np.bool_]

NO_CT_BELOW_HU = -1100.0
"""Air is -1000 HU and files clip at -1024; -2000, -2048 and -3024 mean "not measured"."""

FLAT_CUT_SHARE = 0.8
"""At a padded end, the first measured slice has at least this share of the content of the slice
``FLAT_CUT_DEPTH_MM`` deeper. A sphere of 60 mm radius reaches 0.5 only 2 mm below its tip."""

FLAT_CUT_DEPTH_MM = 8.0
"""Over this distance the end of a head or a limb at least doubles its section."""

FLAT_CUT_CONTENT = 0.2
"""The cut slice has at least this share of content; a fingertip proves nothing."""

FULL_FACE_SHARE = 0.9
"""Within the axial plane, where backs lie flat on tables, a cut fills this share of its box."""

CIRCLE_ARC_SHARE = 0.35
"""Share of the circle along which content must run into it. The smallest circle around an ellipse
of axes 1 : 0.75 and 250 voxels touches it, to a voxel, along 10 %."""

CIRCLE_MOSTLY_HIDDEN = 0.6
CIRCLE_ARC_SHARE_HIDDEN = 0.85
"""If less than the first share of the circle lies in the image, the second share of it must be cut.
Otherwise a few degrees at the ends of a body that fills the image would be enough."""

CIRCLE_TOLERANCE_VOX = 1.0
"""Content ends this close to the circle that cuts it."""

CIRCLE_OUTSIDE_SHARE = 0.03
"""A circle that leaves less than this share of the slice outside cannot be distinguished from a
rounded body; a circle inscribed in the image leaves 0.21."""

DIRECTIONS = 360
"""Points on the circle at which content is looked for: one per degree."""


@dataclass(frozen=True)
class FieldOfView:
    """The field of view of an image, and how it was found.

    Args:
        mask: (*shape) bool, True where the scanner measured.
        kind: "whole", or the reasons joined by "+": "padding", "cylinder", "non-finite".
    """

    mask: torch.Tensor = field(repr=False)
    kind: str = "whole"

    def __repr__(self) -> str:
        return f"FieldOfView({self.kind}, {self.share:.1%} of the image measured)"

    @property
    def share(self) -> float:
        """Share of the image that was measured."""
        return float(self.mask.float().mean())


def field_of_view(image: Image) -> FieldOfView:
    """Find the field of view of an image from its voxels.

    Looks for voxels that are not finite, for values that no scanner measures (CT below
    ``NO_CT_BELOW_HU``), for constant slices at the ends, and for a constant surround of a circle
    in the axial plane (a cone-beam's cylinder, a picture's round view).

    Args:
        image: rank 2 or 3, any number of channels, any orientation.

    Returns:
        The mask on the image's own array, and its kind. The mask is never empty.

    Example:
        >>> from iterreg.geometry import Grid
        >>> grid = Grid((30, 30), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> image = Image(torch.rand(1, 30, 30), grid)
        >>> image.data[:, :10] = float("nan")
        >>> field_of_view(image)
        FieldOfView(non-finite, 66.7% of the image measured)
    """
    canonical, order = image.to_canonical()
    finite = torch.isfinite(canonical.data).all(0)
    data = canonical.data.numpy()
    measured = finite.numpy().copy()
    kinds = [] if measured.all() else ["non-finite"]
    impossible = _impossible(data, measured)
    if impossible is not None:
        measured &= ~impossible
    padding = _padded_ends(data, canonical.grid.spacing_zyx_mm)
    inner = data[(slice(None), *padding)]
    disc = _round_view(inner)
    if disc is not None:
        measured[padding] &= disc
        kinds.append("cylinder")
    elif impossible is not None:
        kinds.append("padding")
    box = np.zeros(measured.shape, bool)
    box[padding] = True
    if not box.all():
        measured &= box
        kinds = ["padding", *[kind for kind in kinds if kind != "padding"]]
    if not measured.any() or not kinds:
        return FieldOfView(torch.ones(image.grid.shape_zyx, dtype=torch.bool))
    return FieldOfView(order.undo(torch.from_numpy(measured)), "+".join(kinds))


def _impossible(data: NDArray[np.float32], finite: Bools) -> Bools | None:
    """Find voxels of a value that CT cannot have: the lowest, far below air, a gap above it."""
    if data.shape[0] != 1 or not finite.any():
        return None
    low = float(data[0].min() if finite.all() else data[0][finite].min())
    if low > NO_CT_BELOW_HU:
        return None
    # Resampling smears the edge of the padding, so everything below air belongs to it.
    below = data[0] <= NO_CT_BELOW_HU
    exact = np.count_nonzero(data[0] == low)
    # A signed, roughly symmetric image (a phase map, say) passes through these values smoothly.
    if exact < 0.5 * np.count_nonzero(below) or below.all():
        return None
    return np.asarray(below)


def _padded_ends(data: NDArray[np.float32], spacing_mm: tuple[float, ...]) -> tuple[slice, ...]:
    """Take padded constant slices off the ends of every axis; the box that is left."""
    rank = len(spacing_mm)
    box = [slice(0, n) for n in data.shape[1:]]
    for axis in range(rank):
        for end in (0, -1):
            count = _constant_slices(data[(slice(None), *box)], axis, end)
            length = box[axis].stop - box[axis].start
            if count == 0 or count >= length:
                continue
            border = _slice(data[(slice(None), *box)], axis, end).reshape(data.shape[0], -1)[:, 0]
            content = _content(data[(slice(None), *box)], border)
            # The body's own axis may be cut anywhere; across it only a full face is a cut.
            along_body = rank == 3 and axis == 0
            if _is_cut(content, axis, end, count, spacing_mm[axis], along_body):
                start, stop = box[axis].start, box[axis].stop
                box[axis] = slice(start + count, stop) if end == 0 else slice(start, stop - count)
    return tuple(box)


def _constant_slices(data: NDArray[np.float32], axis: int, end: int) -> int:
    """Count the slices at one end that hold a single value (per channel), the same in all."""
    border = _slice(data, axis, end).reshape(data.shape[0], -1)[:, :1]
    length = int(data.shape[axis + 1])
    for count in range(length):
        here = _slice(data, axis, count if end == 0 else -1 - count)
        if not np.array_equal(here.reshape(data.shape[0], -1), border.repeat(here[0].size, 1)):
            return count
    return length


def _is_cut(
    content: Bools, axis: int, end: int, count: int, spacing_mm: float, along_body: bool
) -> bool:
    """Whether content begins after ``count`` empty slices as if cut by a plane."""
    deeper = max(1, round(FLAT_CUT_DEPTH_MM / spacing_mm))
    last = content.shape[axis] - 1
    first_at = count if end == 0 else last - count
    deep_at = min(count + deeper, last) if end == 0 else max(last - count - deeper, 0)
    first = content.take(first_at, axis)
    deep = content.take(deep_at, axis)
    if along_body:
        cut = first.sum() >= FLAT_CUT_SHARE * deep.sum()
        return bool(cut and first.mean() >= FLAT_CUT_CONTENT)
    spans = [
        np.flatnonzero(content.any(tuple(j for j in range(content.ndim) if j != k)))
        for k in range(content.ndim)
    ]
    box = [int(span[-1] - span[0] + 1) for span in spans]
    face = int(np.prod(box)) // box[axis]
    # A table fills a face of its box too; measured noise fills the whole box.
    return bool(
        first.sum() >= FULL_FACE_SHARE * face and content.sum() >= FULL_FACE_SHARE * np.prod(box)
    )


def _round_view(data: NDArray[np.float32]) -> Bools | None:
    """The disc of a round field of view: (*shape) bool, or None if no circle cuts the content."""
    if min(data.shape[-2:]) < 8:
        return None
    corner = data.reshape(data.shape[0], -1, *data.shape[-2:])[:, 0, 0, 0]
    content = _content(data, corner)
    plane: Bools = np.asarray(content.reshape(-1, *content.shape[-2:]).any(0))
    if not plane.any() or plane.all():
        return None
    circle = _circle_around(plane)
    if circle is None or not _cuts(plane, circle):
        return None
    row, column, radius = circle
    y, x = np.indices(plane.shape)
    distance = np.hypot(y - row, x - column)
    disc = distance <= radius + 0.1
    if (~disc).mean() < CIRCLE_OUTSIDE_SHARE:
        return None
    # Voxels at the rim of the circle belong to it only if they hold content.
    rim = distance > radius - 1.5
    return np.asarray((disc & (~rim | content)) & _cone(content, distance, radius))


def _cone(content: Bools, distance: NDArray[np.float64], radius: float) -> Bools:
    """Narrow the disc slice by slice: a cone beam sees less at both ends of its cylinder.

    A slice is narrower if its content *fills* a smaller disc; a body in air does not.
    """
    keep = np.ones(content.shape, bool)
    if content.ndim == 2:
        return keep
    for z, plane in enumerate(content):
        reach = float(distance[plane].max()) if plane.any() else 0.0
        if reach >= radius - 1.5:
            continue
        disc = distance <= reach + 0.5
        if plane.sum() >= FULL_FACE_SHARE * disc.sum():
            keep[z] = disc
    return keep


def _circle_around(plane: Bools) -> tuple[float, float, float] | None:
    """Find the smallest circle around the content: (row, column, radius) in voxels."""
    import cv2

    rows = np.flatnonzero(plane.any(1))
    left = plane.argmax(1)[rows]
    right = plane.shape[1] - 1 - plane[:, ::-1].argmax(1)[rows]
    points = np.concatenate([np.stack([rows, left], 1), np.stack([rows, right], 1)])
    (column, row), radius = cv2.minEnclosingCircle(points[:, ::-1].astype(np.float32))
    if radius < 4:
        return None
    return float(row), float(column), float(radius)


def _cuts(plane: Bools, circle: tuple[float, float, float]) -> bool:
    """Whether content runs into the circle along enough of the circle that lies in the image."""
    row, column, radius = circle
    angle = np.arange(DIRECTIONS) * (2 * np.pi / DIRECTIONS)
    in_image, cut = np.zeros(DIRECTIONS, bool), np.zeros(DIRECTIONS, bool)
    for inset in (0.0, CIRCLE_TOLERANCE_VOX):
        y = np.rint(row + (radius - inset) * np.sin(angle)).astype(int)
        x = np.rint(column + (radius - inset) * np.cos(angle)).astype(int)
        inside = (y >= 0) & (x >= 0) & (y < plane.shape[0]) & (x < plane.shape[1])
        in_image |= inside
        cut[inside] |= plane[y[inside], x[inside]]
    hidden = in_image.mean() < CIRCLE_MOSTLY_HIDDEN
    needed = CIRCLE_ARC_SHARE_HIDDEN if hidden else CIRCLE_ARC_SHARE
    return bool(in_image.sum() >= 8 and cut.sum() >= needed * in_image.sum())


def _content(data: NDArray[np.float32], value: NDArray[np.float32]) -> Bools:
    """Voxels that differ from a constant in some channel."""
    return np.asarray((data != value.reshape(-1, *[1] * (data.ndim - 1))).any(0))


def _slice(data: NDArray[np.float32], axis: int, index: int) -> NDArray[np.float32]:
    """One slice of every channel."""
    one: NDArray[np.float32] = np.take(data, index, axis + 1)
    return one
