"""Slices to a volume, by the position of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iterreg.errors import GeometryError, ImageReadError
from iterreg.geometry import Grid
from iterreg.io.dicom.frames import Frame
from iterreg.io.dicom.pixels import slices
from iterreg.io.dicom.series import SAME_PLACE_MM, Volume, heights
from iterreg.texts import without_controls

Array = NDArray[np.float64]

EVEN_SHARE = 0.01
"""Steps between slices that differ by less than this share are even."""

STRAIGHT_PIXELS = 0.1
"""A stack whose slices are shifted in their plane by less than this, over its length, is a box."""

NOT_MEASURED_HU, AIR_HU = -2048.0, -1100.0
"""CT: a value that means "not measured", and the least that is."""

MOST_NAMED = 5
MOSAIC = "MOSAIC"
"""Siemens puts all slices of a volume side by side into one picture."""


@dataclass(frozen=True)
class Stacked:
    """A volume, and what was done to its slices.

    Args:
        values: (slices, rows, columns).
        grid: of its voxels.
        notes: what the user should know.
    """

    values: Array
    grid: Grid
    notes: tuple[str, ...]


def stack(place: Path, volume: Volume) -> Stacked:
    """Put slices in order, and resample them to a box where a tilted gantry shifted them.

    Raises:
        GeometryError: slices without a place, missing, doubled, or not in a row.
        ImageReadError, ImageContentError: their pixels cannot be used.
    """
    frames = _ordered(place, volume.frames)
    try:
        step = _step(place, frames)
    except GeometryError as error:
        # What is missing may be what was left out.
        told = "; ".join(without_controls(note) for note in volume.notes)
        raise GeometryError(f"{error}; {told}" if told else str(error)) from error
    first, axes = frames[0], np.asarray(frames[0].axes, np.float64)
    normal = np.cross(axes[:3], axes[3:])
    assert first.position is not None and first.spacing is not None
    height = float(step @ normal)
    positions = np.array([f.position for f in frames], np.float64)
    grid = Grid(
        (len(frames), first.rows, first.columns),
        (first.spacing[1], first.spacing[0], height),
        first.position,
        tuple(map(tuple, np.column_stack((axes[:3], axes[3:], normal)).tolist())),
    )
    # How far each slice is shifted in its plane, in pixels along its columns and rows.
    apart = positions - positions[0]
    shifts = np.column_stack(
        (apart @ axes[3:] / first.spacing[0], apart @ axes[:3] / first.spacing[1])
    )
    values = np.stack(list(slices(frames)))
    notes = [without_controls(f"{place}: {note}") for note in volume.notes]
    if len(frames) == 1 and first.thickness <= 0:
        notes.append(f"{place}: its slice does not say how thick it is: taken as {height:g} mm")
    if len(frames) == 2 and height > 1.5 * first.thickness > 0:
        notes.append(
            f"{place}: its two slices are {height:.4g} mm apart but {first.thickness:.4g} mm "
            "thick: slices between them may be missing"
        )
    if np.abs(shifts).max() < STRAIGHT_PIXELS:
        return Stacked(values, grid, tuple(notes))
    angle = float(np.rad2deg(np.arccos(np.clip(height / np.linalg.norm(step), -1, 1))))
    notes.append(
        f"{place}: its slices are shifted against each other (a gantry tilted by {angle:.1f} "
        "degrees): resampled to a box by their positions"
    )
    least = float(values.min())
    fill = NOT_MEASURED_HU if volume.about.modality == "CT" and least > AIR_HU else least
    return Stacked(*_unsheared(values, grid, shifts, fill), tuple(notes))


def _ordered(place: Path, frames: Sequence[Frame]) -> list[Frame]:
    """The slices from the first to the last along their normal.

    Raises:
        GeometryError: they do not say where they are.
    """
    for frame in frames:
        if MOSAIC in frame.kind:
            raise ImageReadError(
                f"{place}: expected slices, got a mosaic of them ({frame.file.name}): convert it "
                "to NIfTI with dcm2niix"
            )
        if frame.count > 1 and frame.position is None:
            raise ImageReadError(
                f"{place}: expected slices that say where they are, got an older file of "
                f"{frame.count} frames (as nuclear medicine and angiography write them), which "
                f"tells the place of its first one alone ({frame.file.name}): convert it to NIfTI "
                "with dcm2niix"
            )
        for name, value in (
            ("ImagePositionPatient", frame.position),
            ("ImageOrientationPatient", frame.axes),
            ("PixelSpacing", frame.spacing),
        ):
            if value is None:
                raise GeometryError(
                    f"{place}: expected slices that say where they are, but {frame.file.name} has "
                    f"no {name}"
                )
        assert frame.axes is not None and frame.spacing is not None
        axes = np.asarray(frame.axes).reshape(2, 3)
        if not np.allclose(axes @ axes.T, np.eye(2), atol=1e-3):
            raise GeometryError(
                f"{frame.file}: expected perpendicular axes of length 1 as "
                f"ImageOrientationPatient, got {frame.axes}"
            )
        if min(frame.spacing) <= 0:
            raise GeometryError(f"{frame.file}: expected a positive spacing, got {frame.spacing}")
    along = heights(frames)
    ordered = [frames[k] for k in np.argsort(along, kind="stable")]
    # Rounding of their axes must not tilt the box.
    return [replace(f, axes=ordered[0].axes) for f in ordered]


def _step(place: Path, frames: Sequence[Frame]) -> Array:
    """The vector from a slice to the next, the same for all.

    Raises:
        GeometryError: slices are missing, doubled, or out of line.
    """
    axes = np.asarray(frames[0].axes, np.float64)
    normal = np.cross(axes[:3], axes[3:])
    if len(frames) == 1:
        return normal * (frames[0].thickness if frames[0].thickness > 0 else 1.0)
    along = heights(frames)
    steps = np.diff(along)
    doubled = [k for k in range(len(steps)) if steps[k] <= SAME_PLACE_MM]
    if doubled:
        raise GeometryError(
            f"{place}: expected one slice at each position, got doubled slices at "
            f"{_positions([along[k] for k in doubled], normal)}, such as "
            f"{frames[doubled[0]].file.name} and {frames[doubled[0] + 1].file.name}"
        )
    usual = float(np.median(steps))
    uneven = np.abs(steps - usual) > max(SAME_PLACE_MM, EVEN_SHARE * usual)
    if uneven.any():
        missing = [
            float(along[k] + usual * n)
            for k in np.flatnonzero(uneven)
            for n in range(1, min(round(steps[k] / usual), 1000))
        ]
        if missing and np.all(steps[uneven] > 1.5 * usual):
            raise GeometryError(
                f"{place}: expected slices every {usual:.4g} mm, but {len(missing)} of them "
                f"missing at {_positions(missing, normal)}"
            )
        raise GeometryError(
            f"{place}: expected evenly spaced slices, got steps of {steps.min():.4g} to "
            f"{steps.max():.4g} mm: slices are missing or doubled near "
            f"{_positions([float(along[k]) for k in np.flatnonzero(uneven)], normal)}"
        )
    positions = np.array([f.position for f in frames], np.float64)
    step: Array = (positions[-1] - positions[0]) / (len(frames) - 1)
    line = positions[0] + np.outer(np.arange(len(frames)), step)
    apart = np.linalg.norm(positions - line, axis=1)
    assert frames[0].spacing is not None
    if apart.max() > STRAIGHT_PIXELS * min(frames[0].spacing):
        worst = frames[int(np.argmax(apart))]
        raise GeometryError(
            f"{place}: expected slices along a line, but {worst.file.name} lies "
            f"{apart.max():.3g} mm beside it"
        )
    return step


def _positions(along: Sequence[float], normal: Array) -> str:
    """Positions along the normal, named by the axis that it is nearest to."""
    axis = int(np.argmax(np.abs(normal)))
    sign = np.sign(normal[axis]) if abs(normal[axis]) > 0.999 else 1.0
    name = "xyz"[axis] if abs(normal[axis]) > 0.999 else "distance"
    words = [f"{sign * a:.5g}" for a in along[:MOST_NAMED]]
    more = f" and {len(along) - MOST_NAMED} more" if len(along) > MOST_NAMED else ""
    return f"{name} = {', '.join(words)} mm{more}"


def _unsheared(values: Array, grid: Grid, shifts: Array, fill: float) -> tuple[Array, Grid]:
    """Each slice on one lattice of pixels that holds all of them, at its own place.

    The slices keep their planes, so nothing is interpolated between them.
    """
    from scipy.ndimage import shift as shifted

    low = np.floor(shifts.min(0) + 1e-6)
    more = np.ceil(shifts.max(0) - low - 1e-6).astype(int)
    count, *size = values.shape
    filled = np.full((count, size[0] + more[0], size[1] + more[1]), fill)
    for k in range(count):
        moved = shifts[k] - low
        wide = np.pad(values[k], [(0, n) for n in more], mode="edge")
        wide = shifted(wide, moved, order=1, mode="nearest")
        first, last = np.ceil(moved - 1e-6), np.floor(moved + np.array(size) - 1 + 1e-6)
        seen = tuple(slice(int(a), int(b) + 1) for a, b in zip(first, last, strict=True))
        filled[k][seen] = wide[seen]
    axes = np.asarray(grid.direction_lps)
    dx, dy, _ = grid.spacing_xyz_mm
    origin = np.asarray(grid.origin_lps_mm) + axes[:, 1] * low[0] * dy + axes[:, 0] * low[1] * dx
    box = Grid(filled.shape, grid.spacing_xyz_mm, tuple(origin.tolist()), grid.direction_lps)
    return filled, box
