"""Find the regions of interest (ROIs) of one image: segment each slice once, filter, locate."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.errors import ConfigError
from iterreg.geometry import apply_affine
from iterreg.samreg.cache import RoiCache, cache_key
from iterreg.samreg.cells import Features, pooled, pooled_key
from iterreg.samreg.everything import EverythingSettings, Rois, segment_everything
from iterreg.samreg.filters import RoiFilter, body_voxels, filter_rois
from iterreg.samreg.matching import MatchSettings
from iterreg.samreg.pictures import PictureStack
from iterreg.samreg.prompts import Place, pixels_of
from iterreg.samreg.rle import RunLengthMask, decode_mask
from iterreg.samreg.segmenter import Segmenter
from iterreg.samreg.slices import in_threads

MATCHERS = ("everything", "prompted")


@dataclass(frozen=True)
class RoiSettings:
    """All settings that decide which ROI pairs are found; only the weights matter in addition.

    Args:
        everything: decides which masks survive.
        rois: decides which masks are regions of interest.
        matching: decides which regions of interest are pairs.
        axis: z, y or x, the axis that slices are cut across; None takes the axis along which
            voxels are longest.
        window: intensities to show as black and white; None chooses by the kind of image.
        mirrored: whether the moving picture may be a mirror image of the fixed one.
        matcher: ``everything`` segments everything in both images; ``prompted`` segments in the
            moving image only what regions of the fixed image ask for.

    Raises:
        ConfigError: an unknown matcher.
    """

    everything: EverythingSettings = field(default_factory=EverythingSettings)
    rois: RoiFilter = field(default_factory=RoiFilter)
    matching: MatchSettings = field(default_factory=MatchSettings)
    axis: str | None = None
    window: tuple[float, float] | None = None
    mirrored: bool = False
    matcher: str = "everything"

    def __post_init__(self) -> None:
        if self.matcher not in MATCHERS:
            expected = ", ".join(MATCHERS)
            raise ConfigError(f"matcher: expected one of {expected}, got {self.matcher!r}")


MOST_SLICES = 24
"""Features of so many slices of a volume are kept: memory stays flat, and they are enough to align
it."""

COUNT_NAMES = ("slices", "blank", "cached", "encoded", "points", "candidates", "survivors", "rois")


@dataclass(frozen=True)
class Candidates:
    """The regions of interest of one image, slice after slice.

    Args:
        stack: the pictures that they were found in.
        masks: N masks, each on the voxels of its slice.
        slices: (N,), the slice number of each.
        prototypes: (N, C).
        mean: (C,), mean embedding of all slices.
        centroids_lps: (N, rank).
        counts: how many slices there are, and how many were blank, cached or encoded; how many
            points were decoded, and how many masks there were before any filter (candidates),
            after everything mode's (survivors) and after the ROI filter (rois).
        seconds: spent on encode, decode and filter.
        features: of some slices of a volume, at half the resolution; None for the others.
    """

    stack: PictureStack
    masks: tuple[RunLengthMask, ...]
    slices: NDArray[np.int64]
    prototypes: torch.Tensor
    mean: torch.Tensor
    centroids_lps: NDArray[np.float64]
    counts: dict[str, int]
    seconds: dict[str, float]
    features: tuple[Features | None, ...] = ()

    def __len__(self) -> int:
        return len(self.masks)


def find_candidates(
    stack: PictureStack,
    segmenter: Segmenter,
    settings: RoiSettings,
    cache: RoiCache,
    on_fraction: Callable[[float], None] = lambda fraction: None,
    places: Sequence[Place] = (),
) -> Candidates:
    """Find the regions of interest of an image; each slice that is not blank is encoded once.

    Args:
        stack: the image's pictures.
        segmenter: encodes and decodes them.
        settings: which masks to keep; those of the matching play no part.
        cache: of results by slice.
        on_fraction: called with the fraction of the work that is done.
        places: of the user's prompts, decoded beside the grid.
    """
    shown = stack.shown
    kept = set() if stack.axis is None else set(aligning(stack))
    usual = settings.everything
    if usual.glance is None:
        usual = replace(usual, glance=stack.axis is not None)

    def segment(number: int, on_share: Callable[[float], None]) -> tuple[Rois, Features | None]:
        picture = stack.pixels[number]
        assert picture is not None, "blank slices are left out"
        more, boxes = (pixels_of(places, number, stack, boxes) for boxes in (False, True))
        everything = replace(usual, more=more, boxes=boxes)
        asked = _Asked(picture, stack.slice_shape, everything, number in kept)
        return _segment(asked, segmenter, cache, on_share)

    features: list[Features | None] = [None] * len(stack.pixels)
    results = in_threads(segment, shown, workers_for(segmenter, shown), on_fraction)
    per_slice = []
    for number, (rois, features[number]) in zip(shown, results, strict=True):
        per_slice.append((number, rois))
    return replace(gathered(stack, per_slice, settings.rois), features=tuple(features))


def workers_for(segmenter: Segmenter, slices: Sequence[int]) -> int:
    """How many slices are worked on at once: on the CPU one a thread."""
    on_cpu = segmenter.device.type == "cpu"
    return min(torch.get_num_threads(), len(slices)) if on_cpu else 1


def gathered(
    stack: PictureStack, per_slice: Sequence[tuple[int, Rois]], limits: RoiFilter
) -> Candidates:
    """The regions of interest among the masks of slices.

    Args:
        stack: the image's pictures.
        per_slice: number and masks of each slice, with the seconds that they took.
        limits: which masks are regions of interest.
    """
    counts = dict.fromkeys(COUNT_NAMES, 0)
    seconds = dict.fromkeys(("encode", "decode", "filter"), 0.0)
    counts["slices"] = len(stack.pixels)
    counts["blank"] = len(stack.pixels) - len(stack.shown)
    kept = []
    for number, found in per_slice:
        begun = time.perf_counter()
        rois = _filtered(found, stack, number, limits)
        seconds["filter"] += time.perf_counter() - begun
        for name, value in rois.seconds.items():
            seconds[name] += value
        counts["survivors"] += len(found)
        counts["encoded" if rois.seconds else "cached"] += 1
        counts["points"] += rois.points
        counts["candidates"] += rois.candidates
        counts["rois"] += len(rois)
        kept.append((number, rois))
    return _join(stack, kept, counts, seconds)


def aligning(stack: PictureStack) -> Sequence[int]:
    """The slices whose features align the volume, evenly spaced; the one of a picture."""
    step = max(1, -(-len(stack.shown) // MOST_SLICES))
    return stack.shown[step // 2 :: step]


def _filtered(rois: Rois, stack: PictureStack, number: int, limits: RoiFilter) -> Rois:
    """The masks of a slice that pass the limits."""
    picture = stack.pixels[number]
    assert picture is not None, "blank slices are left out"
    if limits.area_of == "picture":
        unit = float(np.prod(stack.slice_shape))
    elif limits.area_of == "mm2":
        unit = 1 / float(np.prod(stack.pixel_mm))
    else:
        unit = body_voxels(picture, stack.slice_shape)
    return filter_rois(rois, limits, unit)


@dataclass(frozen=True)
class _Asked:
    """What is asked of a slice: masks of a shape and, if wanted, features."""

    picture: torch.Tensor
    shape: tuple[int, int]
    settings: EverythingSettings
    features: bool


def _segment(
    asked: _Asked, segmenter: Segmenter, cache: RoiCache, on_fraction: Callable[[float], None]
) -> tuple[Rois, Features | None]:
    """Return the masks and features of one slice, from the cache if they are there."""
    on_fraction(0.0)
    picture, shape = asked.picture, asked.shape
    key = cache_key(picture, shape, segmenter.fingerprint, asked.settings)
    cells_key = pooled_key(picture, segmenter.fingerprint)
    rois = cache.find(key, shape)
    features = cache.find_features(cells_key) if asked.features else None
    if rois is not None and (features is not None or not asked.features):
        return rois, features
    begun = time.perf_counter()
    with torch.inference_mode():
        embedding = segmenter.encode([picture])[0]
        encoded = time.perf_counter()
        if rois is None:
            rois = segment_everything(
                segmenter, embedding, picture, shape, asked.settings, on_fraction
            )
            cache.store(key, rois)
    ended = time.perf_counter()
    if asked.features:
        features = pooled(embedding)
        cache.store_features(cells_key, *features)
    rois.seconds.update(encode=encoded - begun, decode=ended - encoded)
    return rois, features


def _join(
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
        index[row, across] = [along.mean() for along in np.nonzero(decode_mask(mask))]
    if stack.axis is not None:
        index[:, stack.axis] = slices
    return apply_affine(stack.grid.index_to_lps, index)
