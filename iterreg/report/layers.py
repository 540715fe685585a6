"""The layers of the slices: what each holds, and how its values become 8-bit numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

SEEN_BEFORE, SEEN_AFTER, SEEN_FIXED, FOLD = 1, 2, 4, 8
"""Bits of the layer ``flags``. The viewer uses the same numbers."""

GREY_LAYERS = ("fixed", "before", "warped")

DISPLAYED_LOG2 = 1.0
"""The Jacobian is shown from half to double the volume."""


@dataclass(frozen=True)
class PlaneStack:
    """The slices of one plane.

    Args:
        name: ``axial``, ``coronal``, ``sagittal`` or ``picture``.
        letters: what lies at the left, right, top and bottom edge; empty for a picture.
        pixel_mm: side of a pixel, which is square.
        positions: where each slice is along the patient's axis, LPS mm.
        layers: (slices, rows, columns) each.
    """

    name: str
    letters: str
    pixel_mm: float
    positions: tuple[float, ...]
    layers: dict[str, Bytes]


@dataclass(frozen=True)
class Stacks:
    """Everything that the viewer shows.

    Args:
        planes: three of a volume, one of a picture.
        motion_mm: a displacement of 127 steps.
        error_mm: the largest expected error that has a colour of its own; None without one.
        windows: intensities shown as black and white, of the fixed and the moving image.
    """

    planes: tuple[PlaneStack, ...]
    motion_mm: float
    error_mm: float | None
    windows: tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class RawPlane:
    """A plane before its values become 8-bit.

    Args:
        name, letters, pixel_mm, positions: as in :class:`PlaneStack`.
        floats: layers of numbers, (slices, rows, columns) each.
        labels, flags: layers that are 8-bit already.
        body: pixels that the windows are chosen from.
    """

    name: str
    letters: str
    pixel_mm: float
    positions: tuple[float, ...]
    floats: dict[str, Floats]
    labels: Bytes
    flags: Bytes
    body: NDArray[np.bool_]


def quantised(planes: list[RawPlane]) -> Stacks:
    """Turn all layers into 8-bit numbers, at scales that the planes share."""
    windows = _window(planes, "fixed", SEEN_FIXED), _window(planes, "warped", SEEN_AFTER)
    motion_mm = max(
        float(np.abs(plane.floats[name]).max()) for plane in planes for name in ("rows", "columns")
    )
    motion_mm = max(motion_mm, 1e-3)
    has_error = all("error" in plane.floats for plane in planes)
    error_mm = None
    if has_error:
        finite = np.concatenate([p.floats["error"][np.isfinite(p.floats["error"])] for p in planes])
        error_mm = float(max(np.percentile(finite, 99), 0.1)) if finite.size else 0.1

    def layers(plane: RawPlane) -> Iterator[tuple[str, Bytes]]:
        for name in GREY_LAYERS:
            yield name, _scaled(plane.floats[name], *windows[name != "fixed"])
        yield "labels", plane.labels
        yield "flags", plane.flags
        yield "jacobian", _signed(plane.floats["jacobian"], DISPLAYED_LOG2)
        for name in ("rows", "columns"):
            yield name, _signed(plane.floats[name], motion_mm)
        if error_mm is not None:
            yield "error", _scaled(np.nan_to_num(plane.floats["error"]), 0.0, error_mm)

    return Stacks(
        tuple(
            PlaneStack(p.name, p.letters, p.pixel_mm, p.positions, dict(layers(p))) for p in planes
        ),
        motion_mm,
        error_mm,
        windows,
    )


def _window(planes: list[RawPlane], name: str, seen: int) -> tuple[float, float]:
    """1st to 99th percentile of an image in the body, where it is seen."""
    values = np.concatenate(
        [p.floats[name][p.body & (p.flags & seen != 0)] for p in planes if p.body.any()]
        or [np.zeros(0, np.float32)]
    )
    if not values.size:
        values = np.concatenate([p.floats[name].ravel() for p in planes])
    low, high = (float(v) for v in np.percentile(values, (1, 99)))
    return low, max(high, low + 1e-6)


def _scaled(values: NDArray[Any], low: float, high: float) -> Bytes:
    """Values as 0 (low) ... 255 (high)."""
    scaled: Bytes = np.clip((values - low) * (255 / (high - low)), 0, 255).round().astype(np.uint8)
    return scaled


def _signed(values: NDArray[Any], scale: float) -> Bytes:
    """Values as 1 (-scale) ... 128 (zero) ... 255 (scale)."""
    steps: Bytes = (128 + np.clip(values / scale, -1, 1) * 127).round().astype(np.uint8)
    return steps
