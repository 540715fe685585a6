"""RTSTRUCT: contours in slices, drawn into the voxels of an image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.errors import GeometryError, ImageReadError
from iterreg.geometry import Grid, apply_affine
from iterreg.image import LabelMap, Mask
from iterreg.io.dicom.files import quiet_pydicom, read_header
from iterreg.io.segments import Segment, is_wanted
from iterreg.texts import without_controls

Contour = NDArray[np.float64]

FLAT = 0.25
"""Voxels. A contour that leaves its plane by more is not in a slice."""

KINDS = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")


def read_structures(
    path: Path, grid: Grid, patterns: Sequence[str] = ()
) -> tuple[list[Segment], tuple[str, ...]]:
    """Read the structures of an RTSTRUCT file.

    Args:
        path: the file.
        grid: of the image that they were drawn on.
        patterns: of the names to read; none reads all.

    Returns:
        A segment for each structure with voxels, and notes.

    Raises:
        ImageReadError: the file is damaged, or holds no contour.
        GeometryError: the contours do not lie in the slices of the image, or outside it.
    """
    segments, empty = [], []
    for number, name, contours in _structures(path):
        if not is_wanted(name, patterns):
            continue
        inside = _drawn(path, name, contours, grid) if contours else None
        if inside is None or not inside.any():
            empty.append(name)
            continue
        mask = Mask.of(LabelMap(torch.from_numpy(inside).int(), grid, name=str(path)))
        segments.append(Segment(name, number, mask))
    if not segments:
        named = f" named {', '.join(patterns)}" if patterns else ""
        raise GeometryError(f"{path}: expected contours{named} inside the image, got none")
    notes: tuple[str, ...] = ()
    if empty:
        notes = (f"{path}: no voxel lies inside {', '.join(sorted(empty))}: left out",)
    return segments, notes


def _structures(path: Path) -> list[tuple[int, str, list[Contour]]]:
    """Number, name and contours of each structure, LPS mm."""
    dataset = read_header(path)
    with quiet_pydicom(path):
        names = {
            int(roi.ROINumber): without_controls(str(roi.get("ROIName", "")))
            for roi in dataset.get("StructureSetROISequence", ())
        }
        contours: dict[int, list[Contour]] = defaultdict(list)
        for roi in dataset.get("ROIContourSequence", ()):
            for item in roi.get("ContourSequence") or ():
                if str(item.get("ContourGeometricType", KINDS[0])) in KINDS:
                    contours[int(roi.ReferencedROINumber)].append(_points(path, item))
    if not names:
        raise ImageReadError(f"{path}: expected structures, got none")
    return [(number, name, contours[number]) for number, name in names.items()]


def _points(path: Path, item: Any) -> Contour:
    numbers = np.asarray(item.get("ContourData") or [], np.float64)
    if numbers.size == 0 or numbers.size % 3 or not np.isfinite(numbers).all():
        raise ImageReadError(
            f"{path}: expected contours of finite points, got one of {numbers.size} numbers"
        )
    return numbers.reshape(-1, 3)


def _drawn(path: Path, name: str, contours: list[Contour], grid: Grid) -> NDArray[np.bool_]:
    """The voxels whose centres lie inside the contours of their slice, (*shape).

    A contour inside another one of the same slice is a hole.
    """
    placed = [apply_affine(grid.lps_to_index, contour) for contour in contours]
    spread = np.array([np.ptp(p, axis=0) for p in placed]).max(0)
    axis = int(np.argmin(spread))
    if spread[axis] > FLAT:
        raise GeometryError(
            f"{path}: expected contours in the slices of the image, but those of {name} cross "
            f"{spread[axis]:.2g} slices: they were drawn on another image"
        )
    heights = np.array([p[:, axis].mean() for p in placed])
    planes = np.unique(np.round(heights, 2))
    # Slices between two planes belong to the nearer one, where the planes are further apart.
    reach = max(1.0, float(np.median(np.diff(planes)))) / 2 if len(planes) > 1 else 0.5
    inside = np.zeros(grid.shape_zyx, bool)
    slices = np.moveaxis(inside, axis, 0)
    for k in range(len(slices)):
        gaps = np.abs(planes - k)
        if gaps.min() > reach + 1e-6:
            continue
        plane = planes[int(np.argmin(gaps))]
        chosen = [p for p, h in zip(placed, heights, strict=True) if abs(h - plane) < 0.02]
        slices[k] = _filled([np.delete(p, axis, 1) for p in chosen], slices.shape[1:])
    return inside


def _filled(outlines: list[Contour], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Pixels inside an odd number of closed outlines, whose points are (row, column)."""
    inside = np.zeros(shape, bool)
    points = np.concatenate(outlines)
    low = np.floor(points.min(0)).clip(0, shape).astype(int)
    high = np.ceil(points.max(0) + 1).clip(0, shape).astype(int)
    if np.any(high <= low):
        return inside
    height, width = high - low
    crossings = np.zeros((height, width + 1), np.int32)
    for outline in outlines:
        row, column = (outline - low).T
        next_row, next_column = np.roll(outline - low, -1, axis=0).T
        # Each edge crosses the rows from its lower end up to, but without, its upper one.
        first = np.ceil(np.minimum(row, next_row)).clip(0, height).astype(int)
        count = np.ceil(np.maximum(row, next_row)).clip(0, height).astype(int) - first
        edge = np.repeat(np.arange(len(outline)), count)
        rows = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
        slope = (next_column - column)[edge] / (next_row - row)[edge]
        columns = np.ceil(column[edge] + (rows - row[edge]) * slope).clip(0, width).astype(int)
        np.add.at(crossings, (rows, columns), 1)
    odd = np.cumsum(crossings, axis=1)[:, :width] % 2 == 1
    inside[low[0] : high[0], low[1] : high[1]] = odd
    return inside
