"""Cut the slices that the page shows, on three planes, from the pair and its transform."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.devices import side_by_side
from iterreg.displacement import Transform, total_displacement_vox
from iterreg.figures.canonical_pair import CanonicalPair, find_background
from iterreg.geometry import Grid, apply_affine, fixed_to_moving_index
from iterreg.metrics import det_jacobian, folding_mask
from iterreg.neighbourhood import bounding_box
from iterreg.report.layers import (
    FOLD,
    SEEN_AFTER,
    SEEN_BEFORE,
    SEEN_FIXED,
    Bytes,
    Floats,
    RawPlane,
    Stacks,
    quantised,
)
from iterreg.report.source import Source, outlines
from iterreg.sampling import sample, sample_nearest

MARGIN_MM = 8.0
"""Slices are spread over the body and this much around it."""

MOTION_NODES = 64
"""The body is searched on a grid thinned to about this many nodes per axis."""

FINER = 2
"""Slices are cut with up to this many samples per pixel and axis, then averaged."""


class Size(NamedTuple):
    """How large the pictures are.

    Args:
        pixels: most pixels along a side.
        slices: most slices of a plane.
    """

    pixels: int
    slices: int


def cut_stacks(source: Source, size: Size) -> Stacks | None:
    """Cut all slices; None without images.

    Args:
        source: with images.
        size: of the pictures. A flat picture may have twice the pixels along a side.
    """
    if source.images is None or source.fovs is None:
        return None
    pair = CanonicalPair.of(
        source.images, source.transform, outlines(source), source.start, source.fovs
    )
    _, order = source.images[0].to_canonical()
    error = None if source.expected_error is None else order.apply(source.expected_error.data[-1])
    if error is not None and tuple(error.shape) != pair.grid.shape_zyx:
        error = None
    cutter = _Cutter(pair, error)
    flat = pair.grid.rank == 2
    axes: tuple[int | None, ...] = (None,) if flat else (0, 1, 2)
    pixels = 2 * size.pixels if flat else size.pixels
    raw = [cutter.plane(axis, Size(pixels, size.slices)) for axis in axes]
    return quantised(raw)


class _Cutter:
    """Cuts slices from a pair on its canonical grid."""

    def __init__(self, pair: CanonicalPair, error: torch.Tensor | None) -> None:
        self.pair, self.error = pair, error
        self.background = find_background(pair.fixed)
        self.total = total_displacement_vox(pair.transform)
        self.box = self._body_box()
        numbers = {value: k % 255 + 1 for k, value in enumerate(pair.values)}
        self.numbers = numbers

    def plane(self, axis: int | None, size: Size) -> RawPlane:
        """All slices across an axis, resampled to square pixels."""
        grid = self.pair.grid
        in_plane = [a for a in range(grid.rank) if a != axis]
        spacing = [grid.spacing_zyx_mm[a] for a in in_plane]
        lengths = [grid.shape_zyx[a] * s for a, s in zip(in_plane, spacing, strict=True)]
        pixel_mm = max(max(lengths) / size.pixels, min(spacing))
        shape = [max(1, round(length / pixel_mm)) for length in lengths]
        steps = [
            max(1, grid.shape_zyx[a] // (FINER * n)) for a, n in zip(in_plane, shape, strict=True)
        ]
        numbers = [0] if axis is None else self._slice_numbers(axis, size.slices)
        reducer = _Reducer(shape, axis)
        cuts = side_by_side(lambda n: reducer.reduced(self._cut(axis, n, steps)), numbers)
        floats = {name: np.stack([cut[name] for cut in cuts]) for name in cuts[0]}
        labels = floats.pop("labels").astype(np.uint8)
        flags = floats.pop("flags").astype(np.uint8)
        body = np.abs(floats["fixed"] - self.background.value) > self.background.threshold
        return RawPlane(
            name={None: "picture", 0: "axial", 1: "coronal", 2: "sagittal"}[axis],
            letters={None: "", 0: "RLAP", 1: "RLSI", 2: "APSI"}[axis],
            pixel_mm=pixel_mm,
            positions=tuple(self._position_mm(axis, n) for n in numbers),
            floats=floats,
            labels=labels,
            flags=flags,
            body=body,
        )

    def _cut(self, axis: int | None, number: int, steps: list[int]) -> dict[str, NDArray[Any]]:
        """Every layer of one slice, at the fixed grid's own resolution or thinned by steps."""
        pair, grid = self.pair, self.pair.grid
        stride = iter(steps)
        where = tuple(
            slice(number, number + 1) if a == axis else slice(None, None, next(stride))
            for a in range(grid.rank)
        )
        nodes = [np.arange(n)[cut] for n, cut in zip(grid.shape_zyx, where, strict=True)]
        index = np.stack(np.meshgrid(*nodes, indexing="ij"), -1).astype(np.float64)
        before, seen_before = self._pull(pair.start, index, where)
        warped, seen_after = self._pull(pair.transform, index, where)
        layers: dict[str, NDArray[Any]] = {
            "fixed": pair.fixed[where].numpy(),
            "before": before,
            "warped": warped,
            "labels": self._compact(pair.labels.data[where].numpy()),
        }
        det, folds = self._jacobian(axis, number, where)
        layers["jacobian"] = det
        layers["flags"] = (
            SEEN_BEFORE * seen_before
            + SEEN_AFTER * seen_after
            + SEEN_FIXED * pair.fixed_fov[where].numpy()
            + FOLD * folds
        ).astype(np.uint8)
        in_plane = [a for a in range(grid.rank) if a != axis]
        for name, a in zip(("rows", "columns"), in_plane, strict=True):
            sign = -1.0 if name == "rows" and axis in (1, 2) else 1.0
            layers[name] = sign * self.total[a][where].numpy() * grid.spacing_zyx_mm[a]
        if self.error is not None:
            layers["error"] = self.error[where].numpy()
        return {
            name: array if axis is None else array.squeeze(axis) for name, array in layers.items()
        }

    def _pull(
        self, transform: Transform, index: NDArray[np.float64], where: tuple[slice, ...]
    ) -> tuple[Floats, NDArray[np.bool_]]:
        """The moving image on one slice, and where it is seen."""
        moving = self.pair.moving
        matrix = fixed_to_moving_index(self.pair.grid, transform.affine_lps, moving.grid)
        u = np.moveaxis(transform.field.vox[(slice(None), *where)].numpy(), 0, -1)
        landed = torch.from_numpy(np.moveaxis(apply_affine(matrix, index + u), -1, 0)).float()
        values = sample(moving.data, landed, outside=self.pair.lowest)[0]
        return values.numpy(), sample_nearest(self.pair.moving_fov, landed).numpy()

    def _jacobian(
        self, axis: int | None, number: int, where: tuple[slice, ...]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """log2 det J and folds of one slice, from a slab of three slices."""
        slab: list[slice] = [slice(None)] * self.pair.grid.rank
        thin = list(where)
        if axis is not None:
            first = max(0, number - 1)
            slab[axis] = slice(first, number + 2)
            thin[axis] = slice(number - first, number - first + 1)
        total = self.total[(slice(None), *slab)]
        det = det_jacobian(total)[tuple(thin)]
        return torch.log2(det.clamp(min=1e-3)).numpy(), folding_mask(total)[tuple(thin)].numpy()

    def _compact(self, labels: NDArray[np.int32]) -> Bytes:
        """Labels as 0 (background) and 1 ... 255."""
        result = np.zeros(labels.shape, np.uint8)
        for value in np.unique(labels):
            result[labels == value] = self.numbers.get(int(value), 0)
        return result

    def _body_box(self) -> tuple[slice, ...]:
        """The box around the body, found on a thinned grid."""
        shape = self.pair.grid.shape_zyx
        steps = [max(1, n // MOTION_NODES) for n in shape]
        thin = tuple(slice(None, None, s) for s in steps)
        body = (self.pair.fixed[thin] - self.background.value).abs() > self.background.threshold
        box = bounding_box(body | (self.pair.labels.data[thin] != 0))
        if box is None:
            return tuple(slice(0, n) for n in shape)
        margins = [round(MARGIN_MM / s) for s in self.pair.grid.spacing_zyx_mm]
        return tuple(
            slice(max(0, cut.start * step - margin), min(n, cut.stop * step + margin))
            for cut, step, margin, n in zip(box, steps, margins, shape, strict=True)
        )

    def _slice_numbers(self, axis: int, most: int) -> list[int]:
        cut = self.box[axis]
        count = min(most, cut.stop - cut.start)
        # The middle of equal parts, so that no slice is spent on the rim.
        middles = cut.start + (np.arange(count) + 0.5) * (cut.stop - cut.start) / count - 0.5
        return [int(n) for n in np.unique(middles.round().astype(int))]

    def _position_mm(self, axis: int | None, number: int) -> float:
        if axis is None:
            return 0.0
        grid: Grid = self.pair.grid
        index = (np.asarray(grid.shape_zyx) - 1) / 2
        index[axis] = number
        return float(apply_affine(grid.index_to_lps, index)[2 - axis])


class _Reducer:
    """Resamples slices to the shape that is shown, and turns the head upwards."""

    def __init__(self, shape: list[int], axis: int | None) -> None:
        self.shape, self.upwards = shape, axis in (1, 2)

    def reduced(self, layers: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """All layers; flags and labels take the nearest pixel, but no fold is lost."""
        result = {}
        for name, layer in layers.items():
            if name == "flags":
                resampled = self._flags(layer)
            else:
                resampled = self._resized(layer, name in ("labels", "rows", "columns"))
            result[name] = resampled[::-1] if self.upwards else resampled
        return result

    def _resized(self, layer: NDArray[Any], nearest: bool) -> NDArray[Any]:
        import cv2

        size = self.shape[1], self.shape[0]
        smaller = layer.shape[0] >= self.shape[0] and layer.shape[1] >= self.shape[1]
        rule = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
        if nearest:
            rule = cv2.INTER_NEAREST_EXACT
        array = np.ascontiguousarray(layer)
        resized: NDArray[Any] = cv2.resize(array, size, interpolation=rule)
        return resized

    def _flags(self, flags: NDArray[Any]) -> NDArray[Any]:
        seen = self._resized(flags, nearest=True) & ~np.uint8(FOLD)
        folds = self._resized((flags & FOLD != 0).astype(np.float32), nearest=False) > 0
        flagged: NDArray[Any] = seen | (FOLD * folds).astype(np.uint8)
        return flagged
