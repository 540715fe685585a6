"""Find the field of view: the voxels that the scanner measured.

Constant voxels at the border of an image are of two kinds. Air (or a masked background) around a
body is measured: there is nothing there. Padding is not: the body went on, and the scanner did not
see it. They differ in shape. Padding cuts through anatomy along a circle or a plane, which may be
slanted, and a body ends by tapering. A cone beam ends by cones, beyond which everything is darker.
In doubt the whole image counts as measured.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.weak import WeakTensorKeyDictionary

from iterreg.image import Image
from iterreg.neighbourhood import dilate
from iterreg.regions._cone_ends import cone_ends
from iterreg.regions._cut_planes import cut_planes
from iterreg.regions._round_view import content_of, round_view
from iterreg.regions._turned_view import turned_view
from iterreg.regions.cone_beam import seen_by
from iterreg.regions.picture_view import picture_view

Bools = NDArray[np.bool_]

Fovs = tuple[torch.Tensor | None, torch.Tensor | None]
"""The fields of view of a pair, fixed and moving; None for an image that is seen whole."""

NO_CT_BELOW_HU = -1100.0
"""Air is -1000 HU and files clip at -1024; -2000, -2048 and -3024 mean "not measured"."""

SMEARED_VOXELS = 2
"""Resampling smears the edge of the padding: voxels below air this close to it belong to it."""

FLAT_CUT_SHARE = 0.8
"""At a padded end, the first measured slice has at least this share of the content of the slice
``FLAT_CUT_DEPTH_MM`` deeper. A sphere of 60 mm radius reaches 0.5 only 2 mm below its tip."""

FLAT_CUT_DEPTH_MM = 8.0
"""Over this distance the end of a head or a limb at least doubles its section."""

FLAT_CUT_CONTENT = 0.2
"""The cut slice has at least this share of content; a fingertip proves nothing."""

FULL_FACE_SHARE = 0.9
"""Within the axial plane, where backs lie flat on tables, a cut fills this share of its box."""

_FOUND: MutableMapping[torch.Tensor, tuple[object, FieldOfView]] = WeakTensorKeyDictionary()
"""Of voxels that are still held: what was found in them, and for which scanner and grid."""


@dataclass(frozen=True)
class FieldOfView:
    """The field of view of an image, and how it was found.

    Args:
        mask: (*shape) bool, True where the scanner measured.
        kind: "whole", or the reasons joined by "+": "non-finite", "padding", "cylinder", "cones",
            "geometry", "surround".
    """

    mask: torch.Tensor = field(repr=False)
    kind: str = "whole"

    def __repr__(self) -> str:
        return f"FieldOfView({self.kind}, {self.share:.1%} of the image measured)"

    @property
    def is_cone_beam(self) -> bool:
        """Whether the view has the shape of a cone-beam scan's."""
        return "cones" in self.kind or "geometry" in self.kind

    @property
    def share(self) -> float:
        """Share of the image that was measured."""
        return int(torch.count_nonzero(self.mask)) / self.mask.numel()


def field_of_view(image: Image) -> FieldOfView:
    """Find the field of view of an image from its voxels, or from the scanner's geometry.

    Looks for voxels that are not finite, for values that no scanner measures (CT below
    ``NO_CT_BELOW_HU``), for constant slices at the ends, for one value beyond slanted planes (what
    a resampled image has outside its first grid), for a constant surround of a circle in the axial
    plane (a cone-beam's cylinder, a picture's round view), and for the cones that end this
    cylinder.

    Args:
        image: rank 2 or 3, any number of channels, any orientation. The view of its ``scanner``, if
            it has one, counts in place of what the voxels say of cylinder and cones.

    Returns:
        The mask on the image's own array, and its kind. The mask is never empty.

    Raises:
        ConfigError: the scanner sees nothing of the image, or the image is a picture.

    Example:
        >>> from iterreg.geometry import Grid
        >>> grid = Grid((30, 30), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> image = Image(torch.rand(1, 30, 30), grid)
        >>> image.data[:, :10] = float("nan")
        >>> field_of_view(image)
        FieldOfView(non-finite, 66.7% of the image measured)
    """
    # It is asked for by the regions, the figures, the report and the expected error.
    key = image.scanner, image.data._version, image.grid.snapped()
    known = _FOUND.get(image.data)
    if known is None or known[0] != key:
        known = _FOUND[image.data] = key, _found(image)
    return known[1]


def partial_views(fixed: Image, moving: Image) -> Fovs:
    """Return the field of view of each image of a pair; None for an image that is seen whole.

    Args:
        fixed, moving: the pair.
    """
    views = field_of_view(fixed), field_of_view(moving)
    ours, theirs = (None if view.kind == "whole" else view.mask for view in views)
    return ours, theirs


def _found(image: Image) -> FieldOfView:
    # Two programs read one header with spacings that differ by rounding.
    canonical, order = replace(image, grid=image.grid.snapped()).to_canonical()
    data = canonical.data.numpy()
    measured = np.ones(data.shape[1:], bool)
    if not np.isfinite(data.sum()):
        measured = np.isfinite(data).all(0)
    kinds = [] if measured.all() else ["non-finite"]
    impossible = _impossible(data, measured)
    if impossible is not None:
        measured &= ~impossible
    spacing_mm = canonical.grid.spacing_zyx_mm
    padding = _padded_ends(data, spacing_mm)
    shapes: tuple[Bools, list[str]]
    if image.scanner is not None:
        shapes = seen_by(image.scanner, canonical)[padding], ["geometry"]
    else:
        shapes = _cylinder_and_cones(data[(slice(None), *padding)], spacing_mm)
    if not shapes[1] and image.dtype == "uint8" and image.grid.rank == 2:
        shapes = _picture_view(data[(slice(None), *padding)])
    measured[padding] &= shapes[0]
    kinds += shapes[1]
    if impossible is not None and not shapes[1]:
        kinds.append("padding")
    box = np.zeros(measured.shape, bool)
    box[padding] = True
    if "surround" not in kinds:
        known = None if impossible is None else NO_CT_BELOW_HU
        slanted = cut_planes(data[(slice(None), *padding)], spacing_mm, known)
        if slanted is not None:
            box[padding] = slanted
    if not box.all():
        measured &= box
        kinds = ["padding", *[kind for kind in kinds if kind != "padding"]]
    if not measured.any() or not kinds:
        return FieldOfView(torch.ones(image.grid.shape_zyx, dtype=torch.bool))
    return FieldOfView(order.undo(torch.from_numpy(measured)), "+".join(kinds))


def _cylinder_and_cones(
    data: NDArray[np.float32], spacing_mm: tuple[float, ...]
) -> tuple[Bools, list[str]]:
    """The view of a cone beam, (*shape) bool, and which parts of it end within the image."""
    shape = data.shape[1:]
    view = round_view(data)
    if view is None and data.ndim == 4 and data.shape[0] == 1:
        turned = turned_view(data[0], spacing_mm)
        if turned is not None:
            return turned
    seen = np.ones(shape, bool) if view is None else view.seen
    kinds = [] if view is None else ["cylinder"]
    if data.ndim == 4 and data.shape[0] == 1 and min(shape) >= 8:
        plane = np.ones(shape[1:], bool) if view is None else view.disc
        row, column = ((n - 1) / 2 for n in shape[1:]) if view is None else view.centre
        y, x = np.indices(shape[1:])
        radius_mm = np.hypot((y - row) * spacing_mm[1], (x - column) * spacing_mm[2])
        ends = cone_ends(data[0], plane, radius_mm, spacing_mm)
        for end in ends:
            seen = seen & end.inside(shape, radius_mm, spacing_mm[0])
        kinds += ["cones"] if ends else []
    return seen, kinds


def _picture_view(data: NDArray[np.float32]) -> tuple[Bools, list[str]]:
    """What an 8-bit picture shows: not the surround of a round view or of a turned tile."""
    seen = picture_view(np.moveaxis(data, 0, 2).clip(0, 255))
    return seen, [] if seen.all() else ["surround"]


def _impossible(data: NDArray[np.float32], finite: Bools) -> Bools | None:
    """Find voxels of a value that CT cannot have: the lowest, far below air, a gap above it."""
    if data.shape[0] != 1 or not finite.any():
        return None
    low = float(data[0].min() if finite.all() else data[0][finite].min())
    if low > NO_CT_BELOW_HU:
        return None
    below = torch.from_numpy(data[0] <= NO_CT_BELOW_HU)
    exact = torch.from_numpy(data[0] == low)
    # A signed, roughly symmetric image (a phase map, say) passes through these values smoothly.
    if exact.sum() < 0.5 * below.sum() or bool(below.all()):
        return None
    # Streaks in the air of a cone-beam scan are as low, and lie anywhere.
    return np.asarray(below & dilate(exact, SMEARED_VOXELS))


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
            content = content_of(data[(slice(None), *box)], border)
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


def _slice(data: NDArray[np.float32], axis: int, index: int) -> NDArray[np.float32]:
    """One slice of every channel."""
    one: NDArray[np.float32] = np.take(data, index, axis + 1)
    return one
