"""Applying a transform to whatever a user has: paths, images of other packages, points.

The methods of :class:`iterreg.Transform` and :class:`iterreg.Registration` and the command
``iterreg apply`` all come here.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from iterreg.arguments import number
from iterreg.displacement import Transform, resample_transform, warp_image, warp_labels
from iterreg.errors import GeometryError
from iterreg.geometry import Grid
from iterreg.image import Image, LabelMap
from iterreg.io import as_image, as_label_map, grid_of_file

if TYPE_CHECKING:
    from iterreg.image.kinds import GridLike, ImageLike, LabelsLike


def warp(
    transform: Transform, image: ImageLike, onto: GridLike | None = None, fill: float | None = None
) -> Image:
    """Warp an image of the space that a transform maps to, with linear interpolation.

    Args:
        transform: from the result's space to the image's.
        image: any kind that :func:`iterreg.optimize_pair` takes.
        onto: whose grid the result has; None takes the transform's own.
        fill: intensity outside the image; None takes the image's minimum.

    Raises:
        GeometryError: the ranks differ.
        IterregError: the image cannot be used.
    """
    loaded = as_image(image, "image")
    at = _on(transform, onto, loaded)
    outside = float(loaded.data.min()) if fill is None else number(fill, "fill")
    return warp_image(loaded, at, outside)


def warp_label_map(
    transform: Transform, labels: LabelsLike, onto: GridLike | None = None
) -> LabelMap:
    """Warp a label map of the space that a transform maps to: the nearest voxel's label.

    Args:
        transform: from the result's space to that of the labels.
        labels: any kind that :func:`iterreg.optimize_pair` takes.
        onto: as in :func:`warp`.

    Raises:
        GeometryError, IterregError: as :func:`warp`.
    """
    loaded = as_label_map(labels, "labels")
    return warp_labels(loaded, _on(transform, onto, loaded))


def seen_image(image: Image, seen: Tensor, fill: float) -> Image:
    """Give an image a value wherever another image on its grid sees nothing.

    Args:
        image: (C, *shape).
        seen: (*shape) bool, the other's field of view.
        fill: intensity elsewhere.
    """
    return replace(image, data=torch.where(seen, image.data, fill))


def seen_labels(labels: LabelMap, seen: Tensor, *, mark: bool) -> LabelMap:
    """Clear the labels outside a field of view, or number them anew there.

    Args:
        labels: (*shape).
        seen: (*shape) bool.
        mark: keep what is not seen, under a number of its own: the label's and the least power of
            ten above all labels. Its name ends in "(not seen)".

    Example:
        >>> grid = Grid((1, 3), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> labels = LabelMap(torch.tensor([[1, 1, 0]], dtype=torch.int32), grid, {1: "heart"})
        >>> marked = seen_labels(labels, torch.tensor([[True, False, False]]), mark=True)
        >>> marked.data.tolist(), marked.names
        ([[1, 11, 0]], {1: 'heart', 11: 'heart (not seen)'})
    """
    hidden = (labels.data != 0) & ~seen
    if not mark:
        return replace(labels, data=torch.where(hidden, 0, labels.data))
    further = 10 ** len(str(max(labels.values, default=0)))
    names = {v + further: f"{labels.title(v)} (not seen)" for v in labels.values}
    data = torch.where(hidden, labels.data + further, labels.data)
    return replace(labels, data=data, names=dict(labels.names) | names)


def seen_shares(labels: LabelMap, seen: Tensor) -> str:
    """Say in words which share of each label lies in a field of view.

    Example:
        >>> grid = Grid((1, 4), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> labels = LabelMap(torch.tensor([[1, 1, 1, 1]], dtype=torch.int32), grid, {1: "heart"})
        >>> seen_shares(labels, torch.tensor([[True, True, True, False]]))
        'heart 75 %'
    """
    shares = [
        f"{labels.title(v)} {100 * float(seen[labels.data == v].float().mean()):.0f} %"
        for v in labels.values
    ]
    return ", ".join(shares)


def grid_like(value: GridLike, name: str) -> Grid:
    """The grid of anything that has one.

    Raises:
        IterregError, TypeError: as :func:`iterreg.io.as_image`.
    """
    if isinstance(value, Grid):
        return value
    if isinstance(value, Image | LabelMap):
        return value.grid
    if isinstance(value, str | Path):
        return grid_of_file(value)
    return as_image(value, name).grid


def _on(transform: Transform, onto: GridLike | None, moved: Image | LabelMap) -> Transform:
    """The transform on the grid of the result, which has the rank of what is moved."""
    grid = transform.grid if onto is None else grid_like(onto, "onto")
    other = "the transform" if onto is None else "the grid of the result"
    if isinstance(onto, Image | LabelMap):
        other = onto.name
    if moved.grid.rank != grid.rank:
        raise GeometryError(
            f"{moved.name}: expected rank {grid.rank} as {other}, got {moved.grid.rank}"
        )
    return transform if grid is transform.grid else resample_transform(transform, grid)
