"""Segments that a file names one by one, and that may share voxels, as a label map."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from iterreg.errors import ImageContentError
from iterreg.geometry import Grid, apply_affine, canonical
from iterreg.image import LabelMap, Mask, OnGrid
from iterreg.names import fits_any
from iterreg.neighbourhood import Box

ON_LATTICE = 0.02
"""Voxels. Two lattices whose voxels lie nearer to each other than this are one."""


@dataclass(frozen=True)
class Segment:
    """One segment.

    Args:
        name: as the file has it; may be empty.
        number: its label; numbers that are used twice are given anew.
        mask: its voxels.
    """

    name: str
    number: int
    mask: Mask


def labels_of_segments(
    segments: Sequence[Segment], grid: Grid, name: str, overlapping: bool = False
) -> LabelMap:
    """Make a label map; a voxel that several segments share goes to the smallest of them.

    Args:
        segments: on one grid.
        grid: of all.
        name: of the file, for messages.
        overlapping: whether segments may share voxels; the result then also holds each whole.

    Raises:
        ImageContentError: no segment has a voxel, or they share voxels and must not.
    """
    if not segments:
        raise ImageContentError(f"{name}: expected segments with voxels, got none")
    numbers = [segment.number for segment in segments]
    if len(set(numbers)) < len(numbers) or min(numbers) < 1:
        numbers = list(range(1, len(segments) + 1))
    data = torch.zeros(grid.shape_zyx, dtype=torch.int32)
    sizes = [int(segment.mask.inside.sum()) for segment in segments]
    shared: Counter[tuple[int, int]] = Counter()
    for k in sorted(range(len(segments)), key=lambda k: -sizes[k]):
        mask = segments[k].mask
        part = data[_box(mask)]
        for below in torch.unique(part[mask.inside]).tolist():
            if below:
                shared[(below, numbers[k])] = int((part[mask.inside] == below).sum())
        part[mask.inside] = numbers[k]
    hidden = [s.name for n, s in zip(numbers, segments, strict=True) if not bool((data == n).any())]
    names = {n: s.name for n, s in zip(numbers, segments, strict=True) if s.name}
    labels = LabelMap(data, grid, names, name)
    if not shared:
        return labels
    worst, _ = shared.most_common(1)[0]
    both = " and ".join(labels.title(n) for n in worst)
    told = f"{both} share {shared[worst]} voxels"
    if not overlapping:
        raise ImageContentError(
            f"{name}: expected one label per voxel, got overlapping segments: {told}; pick some "
            "with --structures"
        )
    touched = {n for pair in shared for n in pair}
    whole = {n: s.mask for n, s in zip(numbers, segments, strict=True) if n in touched}
    note = (
        f"{name}: its segments overlap ({told}): each is matched as a whole, and a voxel moves "
        "with the smallest that holds it"
    )
    notes = [note]
    if hidden:
        notes.append(f"{name}: every voxel of {', '.join(hidden)} lies in others: left out")
    return replace(labels, whole=whole, notes=tuple(notes))


def _box(mask: Mask) -> Box:
    sizes = zip(mask.first_zyx, mask.inside.shape, strict=True)
    return tuple(slice(first, first + n) for first, n in sizes)


def only_structures(labels: LabelMap, patterns: Sequence[str]) -> LabelMap:
    """Keep the labels whose names fit a pattern; ``*`` stands for any letters.

    Raises:
        ImageContentError: none does.
    """
    kept = [v for v in labels.values if is_wanted(labels.names.get(v, ""), patterns)]
    if not kept:
        known = ", ".join(labels.title(v) for v in labels.values) or "none"
        raise ImageContentError(
            f"{labels.name}: expected structures named {', '.join(patterns)}, got {known}"
        )
    inside = torch.isin(labels.data, torch.tensor(kept, dtype=torch.int32))
    names = {v: n for v, n in labels.names.items() if v in kept}
    return replace(labels, data=labels.data * inside, names=names)


def is_wanted(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name fits one of the patterns; all fit if there are none."""
    return not patterns or fits_any(name, patterns)


def on_lattice_of(labels: LabelMap, image: OnGrid) -> LabelMap:
    """Pad a label map that was cropped, or whose axes are stored in another order.

    Args:
        labels: whose voxels are voxels of the image.
        image: the image that they belong to.

    Returns:
        The labels on the image's grid, with a note; or as they are, if they do not lie on it.
    """
    if labels.grid.rank != image.grid.rank or labels.grid.same_space(image.grid):
        return labels
    ours, order = canonical(labels.grid)
    theirs, back = canonical(image.grid)
    corners = apply_affine(theirs.lps_to_index, ours.corners_lps_mm)
    first = corners[0].round()
    own = apply_affine(ours.lps_to_index, ours.corners_lps_mm)
    apart = abs(corners - first - own).max()
    ends = [int(f) + n for f, n in zip(first, ours.shape_zyx, strict=True)]
    inside = first.min() >= 0 and all(e <= n for e, n in zip(ends, theirs.shape_zyx, strict=True))
    if apart > ON_LATTICE or not inside:
        return labels
    start = [int(f) for f in first]

    def padded(data: torch.Tensor) -> torch.Tensor:
        full = torch.zeros(theirs.shape_zyx, dtype=data.dtype)
        full[tuple(slice(a, b) for a, b in zip(start, ends, strict=True))] = order.apply(data)
        return back.undo(full)

    notes = labels.notes
    if labels.grid.shape_zyx != image.grid.shape_zyx:
        notes = (*notes, f"{labels.name}: padded with background to the size of {image.name}")
    whole = {
        v: Mask.of(LabelMap(padded(m.data.int()), image.grid, name=m.name))
        for v, m in labels.whole.items()
    }
    data = padded(labels.data)
    return replace(labels, data=data, grid=image.grid, notes=notes, whole=whole)
