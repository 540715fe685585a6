"""The regions of interest of one image: every slice segmented once, filtered, located."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.geometry import apply_affine
from iterreg.samreg.cache import RoiCache, key_of
from iterreg.samreg.everything import EverythingSettings, Rois, everything
from iterreg.samreg.filters import RoiFilter, body_voxels, filtered
from iterreg.samreg.matching import MatchSettings
from iterreg.samreg.pictures import PictureStack
from iterreg.samreg.rle import RunLengthMask, decode_mask
from iterreg.samreg.segmenter import Segmenter


@dataclass(frozen=True)
class RoiSettings:
    """Everything that decides which ROI pairs are found, beside the weights.

    Args:
        everything: which masks survive.
        rois: which of them are regions of interest.
        matching: which of these are pairs.
        axis: z, y or x: slices are cut across it; None takes the axis of the thickest voxels.
        window: intensities shown black and white; None decides by the kind of image.
    """

    everything: EverythingSettings = field(default_factory=EverythingSettings)
    rois: RoiFilter = field(default_factory=RoiFilter)
    matching: MatchSettings = field(default_factory=MatchSettings)
    axis: str | None = None
    window: tuple[float, float] | None = None


COUNTED = ("slices", "blank", "cached", "encoded", "points", "candidates", "survivors", "rois")


@dataclass(frozen=True)
class Candidates:
    """The regions of interest of one image, slice after slice.

    Args:
        stack: the pictures they were found in.
        masks: one each, on the voxels of its slice.
        slices: (N,), the slice of each.
        prototypes: (N, C). mean: (C,), of all slices.
        centroids_lps: (N, rank).
        counts: slices that were blank, cached, encoded; points, candidates, survivors, rois.
        seconds: encode, decode, filter.
    """

    stack: PictureStack
    masks: tuple[RunLengthMask, ...]
    slices: NDArray[np.int64]
    prototypes: torch.Tensor
    mean: torch.Tensor
    centroids_lps: NDArray[np.float64]
    counts: dict[str, int]
    seconds: dict[str, float]

    def __len__(self) -> int:
        return len(self.masks)


def candidates(
    stack: PictureStack,
    segmenter: Segmenter,
    settings: RoiSettings,
    cache: RoiCache,
    progress: Callable[[float], None] = lambda share: None,
) -> Candidates:
    """The regions of interest of an image: each slice that shows anything is encoded once."""
    per_slice: list[tuple[int, Rois]] = []
    counts = dict.fromkeys(COUNTED, 0)
    seconds = dict.fromkeys(("encode", "decode", "filter"), 0.0)
    unit = {"picture": float(np.prod(stack.slice_shape)), "mm2": 1 / float(np.prod(stack.pixel_mm))}
    for number, picture in enumerate(stack.pixels):
        counts["slices"] += 1
        share = number / len(stack.pixels)
        if picture is None:
            counts["blank"] += 1
            continue

        def step(part: float, share: float = share) -> None:
            progress(share + part / len(stack.pixels))

        rois = _segmented(picture, stack.slice_shape, segmenter, settings, cache, step)
        begun = time.perf_counter()
        counts["survivors"] += len(rois)
        size = unit.get(settings.rois.area_of) or body_voxels(picture, stack.slice_shape)
        rois = filtered(rois, settings.rois, size)
        seconds["filter"] += time.perf_counter() - begun
        for name, value in rois.seconds.items():
            seconds[name] += value
        counts["encoded" if rois.seconds else "cached"] += 1
        counts["points"] += rois.points
        counts["candidates"] += rois.candidates
        counts["rois"] += len(rois)
        per_slice.append((number, rois))
    return _joined(stack, per_slice, counts, seconds)


def _segmented(
    picture: torch.Tensor,
    shape: tuple[int, int],
    segmenter: Segmenter,
    settings: RoiSettings,
    cache: RoiCache,
    progress: Callable[[float], None],
) -> Rois:
    """The masks of one slice, out of the cache where they are there."""
    progress(0.0)
    key = key_of(picture, shape, segmenter.fingerprint, settings.everything)
    known = cache.find(key)
    if known is not None:
        return known
    begun = time.perf_counter()
    with torch.inference_mode():
        embedding = segmenter.encode([picture])[0]
        encoded = time.perf_counter()
        rois = everything(segmenter, embedding, picture, shape, settings.everything, progress)
    ended = time.perf_counter()
    cache.keep(key, rois)
    rois.seconds.update(encode=encoded - begun, decode=ended - encoded)
    return rois


def _joined(
    stack: PictureStack,
    per_slice: list[tuple[int, Rois]],
    counts: dict[str, int],
    seconds: dict[str, float],
) -> Candidates:
    masks = tuple(m for _, rois in per_slice for m in rois.masks)
    slices = np.array([n for n, rois in per_slice for _ in rois.masks], np.int64)
    empty = torch.zeros(0, 1)
    prototypes = torch.cat([r.prototypes for _, r in per_slice]) if per_slice else empty
    mean = torch.stack([r.mean for _, r in per_slice]).mean(0) if per_slice else empty[:, 0]
    return Candidates(
        stack, masks, slices, prototypes, mean, _centroids(stack, masks, slices), counts, seconds
    )


def _centroids(
    stack: PictureStack, masks: tuple[RunLengthMask, ...], slices: NDArray[np.int64]
) -> NDArray[np.float64]:
    index = np.zeros((len(masks), stack.grid.rank))
    across = [k for k in range(stack.grid.rank) if k != stack.axis]
    for row, mask in enumerate(masks):
        index[row, across] = [where.mean() for where in np.nonzero(decode_mask(mask))]
    if stack.axis is not None:
        index[:, stack.axis] = slices
    return apply_affine(stack.grid.index_to_lps, index)
