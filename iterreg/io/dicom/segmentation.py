"""DICOM SEG: the segments of a segmentation object, by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from iterreg.errors import GeometryError, ImageReadError
from iterreg.geometry import Grid
from iterreg.image import LabelMap, Mask
from iterreg.io.dicom.files import quiet_pydicom, read_header
from iterreg.io.dicom.frames import Frame, read_frames
from iterreg.io.dicom.pixels import slices
from iterreg.io.dicom.series import heights
from iterreg.io.segments import Segment, is_wanted
from iterreg.texts import without_controls

HALF = 0.5
"""Of a fraction: from here on a voxel belongs to a segment."""

EVEN = 0.02
"""Steps. A slice that is further from its step lies between slices."""


def read_segmentation(
    path: Path, patterns: Sequence[str] = (), image: Grid | None = None
) -> tuple[list[Segment], Grid, tuple[str, ...]]:
    """Read a segmentation object.

    Args:
        path: the file.
        patterns: of the names to read; none reads all.
        image: grid of the image, which tells the step between slices if the file does not.

    Returns:
        Its segments, the grid of the slices that it holds, and notes.

    Raises:
        ImageReadError: the file is damaged.
        GeometryError: its slices do not lie on a lattice.
    """
    dataset = read_header(path)
    with quiet_pydicom(path):
        kind = str(dataset.get("SegmentationType", "BINARY"))
        names = {
            int(item.SegmentNumber): without_controls(str(item.get("SegmentLabel", "")))
            for item in dataset.get("SegmentSequence", ())
        }
        frames = read_frames(path, dataset)
        numbers = [0] * len(frames) if kind == "LABELMAP" else _numbers(dataset, len(frames))
        most = float(dataset.get("MaximumFractionalValue", 1) or 1)
        step = _told_step(dataset)
    if not frames or not names:
        raise ImageReadError(f"{path}: expected segments, got none")
    grid, order = _lattice(path, frames, step, image)
    voxels: dict[int, Any] = defaultdict(lambda: np.zeros(grid.shape_zyx, bool))
    for values, number, z in zip(slices(frames), numbers, order, strict=True):
        if kind == "LABELMAP":
            for found in np.unique(values):
                if int(found) in names and found != 0:
                    voxels[int(found)][z] |= values == found
        else:
            voxels[number][z] |= values >= (HALF * most if kind == "FRACTIONAL" else HALF)
    segments = []
    for number, inside in voxels.items():
        name = names.get(number, "")
        if inside.any() and is_wanted(name, patterns):
            mask = Mask.of(LabelMap(torch.from_numpy(inside).int(), grid, name=str(path)))
            segments.append(Segment(name, number, mask))
    notes: tuple[str, ...] = ()
    if kind == "FRACTIONAL":
        notes = (f"{path}: its segments are fractional: voxels from one half on are taken",)
    return sorted(segments, key=lambda s: s.number), grid, notes


def _numbers(dataset: Any, count: int) -> list[int]:
    """The segment that each frame shows."""
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [None])[0]
    found = []
    for own in dataset.PerFrameFunctionalGroupsSequence:
        group = own if "SegmentIdentificationSequence" in own else shared
        found.append(int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber))
    assert len(found) == count
    return found


def _told_step(dataset: Any) -> float:
    """The step between slices that a file tells; 0 if it does not."""
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [{}])[0]
    measures = (shared.get("PixelMeasuresSequence") or [{}])[0]
    return float(measures.get("SpacingBetweenSlices", 0) or 0)


def _lattice(
    path: Path, frames: Sequence[Frame], step: float, image: Grid | None
) -> tuple[Grid, list[int]]:
    """A grid that holds all frames, and the slice of each."""
    first = frames[0]
    told = first.axes is not None and first.spacing is not None
    if not told or any(f.position is None or f.axes != first.axes for f in frames):
        raise GeometryError(f"{path}: expected slices that say where they are, in one plane")
    assert first.axes is not None and first.spacing is not None
    axes = np.asarray(first.axes, np.float64)
    normal = np.cross(axes[:3], axes[3:])
    along = heights(frames)
    gaps = np.diff(np.unique(np.round(along, 3)))
    candidates = [step] if step > 0 else []
    if image is not None:
        own = np.abs(normal @ np.asarray(image.direction_lps))
        candidates.append(float(image.spacing_xyz_mm[int(np.argmax(own))]))
    candidates += [float(gaps.min())] if len(gaps) else [first.thickness or 1.0]
    for size in candidates:
        places = (along - along.min()) / size
        if np.abs(places - np.rint(places)).max() < EVEN:
            break
    else:
        raise GeometryError(
            f"{path}: expected evenly spaced slices, got steps of {gaps.min():.4g} to "
            f"{gaps.max():.4g} mm"
        )
    order = [int(k) for k in np.rint(places)]
    lowest = frames[int(np.argmin(along))]
    assert lowest.position is not None
    grid = Grid(
        (max(order) + 1, first.rows, first.columns),
        (first.spacing[1], first.spacing[0], size),
        lowest.position,
        tuple(map(tuple, np.column_stack((axes[:3], axes[3:], normal)).tolist())),
    )
    return grid, order
