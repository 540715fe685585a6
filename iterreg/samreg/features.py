"""The encoder's features for ``similarity.kind = sam``: cells of the slices along one or more axes.

An image is cut into slices about as far apart as the cells of a slice are, so a volume takes at
most about as many encodes along an axis as the encoder's grid has cells along a side.

Source: SAMReg (arXiv 2410.14083), eq. 5, with every cell of the encoder's grid as a region.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from iterreg.config import Features
from iterreg.features import FeatureMaps, extent_of, reduce_jointly
from iterreg.image import Image
from iterreg.samreg.cache import RoiCache
from iterreg.samreg.cells import encode, explained, position_terms
from iterreg.samreg.match import load
from iterreg.samreg.pictures import AXES, PictureStack, cut_axis, cut_pictures
from iterreg.samreg.segmenter import Segmenter
from iterreg.samreg.slices import on_share

GRID_CELLS = 64
"""Cells along a side of the encoder's grid, of which slices take their distance."""


@dataclass(frozen=True)
class _Cells:
    """The cells of one image along one axis.

    Args:
        values: (C, slices, h, w); NaN in blank slices.
        span: how many of these cells the image takes along each.
    """

    values: Tensor
    span: tuple[float, float, float]


def load_encoder(settings: Features, device: str) -> Segmenter:
    """The model that the settings name.

    Args:
        settings: variant and checkpoint.
        device: as for :func:`iterreg.optimize_pair`.

    Raises:
        WeightsError: no weights, a damaged file, or the weights of another model.
    """
    checkpoint = Path(settings.checkpoint) if settings.checkpoint else None
    return load(settings.variant, checkpoint, device)


def sam_features(
    images: tuple[Image, Image],
    settings: Features,
    segmenter: Segmenter,
    cache: RoiCache,
    on_fraction: Callable[[float], None] = lambda fraction: None,
) -> tuple[FeatureMaps, FeatureMaps]:
    """Encode both images, and reduce the features of both to the same few channels.

    Args:
        images: fixed and moving, of one rank.
        settings: axes and channels.
        segmenter: encodes.
        cache: of features by slice.
        on_fraction: called with the fraction of the work that is done.

    Returns:
        Maps in canonical axis order, those of each axis beside each other.
    """
    axes = _axes(images, settings)
    share, rest = divmod(settings.channels, len(axes))
    maps: list[tuple[Tensor, Tensor]] = []
    spans: list[tuple[tuple[float, ...], tuple[float, ...]]] = []
    for number, axis in enumerate(axes):
        sides = []
        for side, image in enumerate(images):
            within = partial(on_share, on_fraction, 2 * number + side, 2 * len(axes))
            sides.append(_cells_along(cut_pictures(image, axis), segmenter, cache, within))
        fixed, moving = _without_position(sides[0].values, sides[1].values)
        reduced = reduce_jointly(fixed, moving, share + (number < rest))
        order = _order(axis)
        maps.append((reduced[0].permute(0, *order), reduced[1].permute(0, *order)))
        first, second = ([side.span[k - 1] for k in order] for side in sides)
        spans.append((tuple(first), tuple(second)))
    return (
        FeatureMaps(*_side(maps, spans, 0), extent_of(images[0].grid)),
        FeatureMaps(*_side(maps, spans, 1), extent_of(images[1].grid)),
    )


def _side(
    maps: list[tuple[Tensor, Tensor]],
    spans: list[tuple[tuple[float, ...], tuple[float, ...]]],
    side: int,
) -> tuple[tuple[Tensor, ...], tuple[tuple[float, ...], ...]]:
    return tuple(m[side].contiguous() for m in maps), tuple(s[side] for s in spans)


def _axes(images: tuple[Image, Image], settings: Features) -> list[int | None]:
    """The canonical axes that slices are cut across."""
    if images[0].grid.rank == 2 or not settings.axes:
        return [cut_axis(*images, None)]
    return [AXES.index(name) for name in settings.axes]


def _order(axis: int | None) -> tuple[int, int, int]:
    """Which of (slices, rows, columns), counted from 1, lie along z, y and x."""
    return {None: (1, 2, 3), 0: (1, 2, 3), 1: (2, 1, 3), 2: (2, 3, 1)}[axis]


def _cells_along(
    stack: PictureStack, segmenter: Segmenter, cache: RoiCache, on_fraction: Callable[[float], None]
) -> _Cells:
    """Encode slices as far apart as cells."""
    chosen = _slices(stack)
    encoded: list[Tensor | None] = []
    span = (1.0, 1.0)
    for done, number in enumerate(chosen):
        on_fraction(done / len(chosen))
        picture = stack.pixels[number]
        if picture is None:
            encoded.append(None)
            continue
        values, valid_hw = encode(picture, segmenter, cache)
        span = valid_hw[0] * values.shape[1], valid_hw[1] * values.shape[2]
        shown = [math.ceil(n - 1e-6) for n in span]
        encoded.append(values[:, : shown[0], : shown[1]])
    known = next((x for x in encoded if x is not None), torch.zeros(1, 1, 1))
    blank = torch.full_like(known, torch.nan)
    cells = torch.stack([blank if x is None else x for x in encoded], 1)
    return _Cells(cells, (float(len(chosen)), *span))


def _slices(stack: PictureStack) -> list[int]:
    """Slices about as far apart as the cells of one are, at even distances over the whole image."""
    count = len(stack.pixels)
    if stack.axis is None:
        return [0]
    longest_mm = max(n * mm for n, mm in zip(stack.slice_shape, stack.pixel_mm, strict=True))
    length_mm = count * stack.grid.spacing_zyx_mm[stack.axis]
    kept = max(1, min(count, round(GRID_CELLS * length_mm / longest_mm)))
    return [int((k + 0.5) * count / kept) for k in range(kept)]


def _without_position(fixed: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
    """Both without what a polynomial of the place within a slice explains in them together.

    The embedding carries the position in the picture, which would hold structures where they are.

    Args:
        fixed, moving: (C, slices, h, w); NaN in blank slices.
    """
    flat, terms = [], []
    for cells in (fixed, moving):
        values = cells.flatten(1).T.double()
        flat.append(values - values[values.isfinite().all(1)].mean(0))
        slices, rows, columns = cells.shape[1:]
        y, x = (2 * (np.arange(n) + 0.5) / max(rows, columns) - 1 for n in (rows, columns))
        places = np.stack([a.ravel() for a in np.meshgrid(x, y)], 1)
        basis = torch.from_numpy(np.tile(position_terms(places), (slices, 1)))
        terms.append(basis - basis.mean(0))
    seen = [f.isfinite().all(1) for f in flat]
    basis, both = (
        torch.cat([part[s] for part, s in zip(parts, seen, strict=True)]) for parts in (terms, flat)
    )
    slopes = explained(basis, both)
    kept = [(f - t @ slopes).T.float() for f, t in zip(flat, terms, strict=True)]
    return kept[0].view_as(fixed), kept[1].view_as(moving)
