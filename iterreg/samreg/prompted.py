"""Segment in the moving image only what the regions of the fixed image ask for.

Everything mode decodes a grid of points in both images, and most of what it finds in one has no
partner in the other. Here the moving image is encoded, aligned by its cells, and prompted with the
regions of the fixed image (:mod:`iterreg.samreg.inverting`). What that finds is matched and
verified as the regions of everything mode are.

Source: PromptReg (arXiv 2508.01697).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from iterreg.geometry import Matrix
from iterreg.samreg.align import Alignment
from iterreg.samreg.cache import RoiCache, cache_key
from iterreg.samreg.candidates import Candidates, RoiSettings, aligning, gathered, workers_for
from iterreg.samreg.cells import Features, pooled, pooled_key
from iterreg.samreg.everything import Rois, segment_everything
from iterreg.samreg.hypotheses import Choice
from iterreg.samreg.inverting import Target, invert_prompts
from iterreg.samreg.pictures import PictureStack, nearest_slices
from iterreg.samreg.segmenter import Embedding, Segmenter
from iterreg.samreg.slices import OnFraction, in_threads, on_share

Choose = Callable[[Sequence[Features | None], Alignment], Choice]


class _Look(NamedTuple):
    """What the encoder saw of a slice: no embedding if the cache had the features."""

    features: Features
    embedding: Embedding | None
    seconds: float


class PromptedImage:
    """A moving image that is looked at first, and prompted afterwards.

    The embeddings of the slices that align a volume are kept between the two: 4 MB each.

    Args:
        stack: its pictures.
        segmenter: encodes and decodes them.
        settings: which masks to keep, and how far partners may lie apart.
        cache: of results by slice.
    """

    def __init__(
        self, stack: PictureStack, segmenter: Segmenter, settings: RoiSettings, cache: RoiCache
    ) -> None:
        """Nothing is encoded yet."""
        self._stack, self._segmenter = stack, segmenter
        self._settings, self._cache = settings, cache
        self._seen: dict[int, _Look] = {}

    def find(
        self, fixed: Candidates, choose: Choose, on_fraction: OnFraction
    ) -> tuple[Candidates, Choice]:
        """The regions that those of the fixed image ask for, and the alignment behind which.

        Args:
            fixed: the regions of the fixed image.
            choose: the alignment, from the features of some slices. If it supports none, regions
                are looked for around the place that the header says.
            on_fraction: called with the fraction of the work that is done.
        """
        features = self._features(partial(on_share, on_fraction, 0, 2))
        affine_lps = np.eye(self._stack.grid.rank + 1)
        choice = choose(features, Alignment(affine_lps, "identity", np.zeros(0, bool), 0.0))
        if choice.taken is not None:
            affine_lps = choice.taken.affine_lps
        found = self._segmented(fixed, affine_lps, partial(on_share, on_fraction, 1, 2))
        return replace(found, features=features), choice

    def _features(self, on_fraction: OnFraction) -> tuple[Features | None, ...]:
        """The features of the slices that align the image; None for the others."""
        numbers = aligning(self._stack)
        workers = workers_for(self._segmenter, numbers)
        looks = in_threads(lambda k, _: self._look(k), numbers, workers, on_fraction)
        self._seen = dict(zip(numbers, looks, strict=True))
        seen = map(self._seen.get, range(len(self._stack.pixels)))
        return tuple(None if look is None else look.features for look in seen)

    def _segmented(
        self, fixed: Candidates, affine_lps: Matrix, on_fraction: OnFraction
    ) -> Candidates:
        asking = self._asking(fixed, affine_lps)
        numbers = [k for k in self._stack.shown if asking[k]]
        results = in_threads(
            lambda k, _: self._prompted(k, fixed, asking[k], affine_lps),
            numbers,
            workers_for(self._segmenter, numbers),
            on_fraction,
        )
        per_slice = list(zip(numbers, results, strict=True))
        return gathered(self._stack, per_slice, self._settings.rois)

    def _asking(self, fixed: Candidates, affine_lps: Matrix) -> list[list[int]]:
        """For each moving slice the fixed regions that ask it: those of slices close to it."""
        asking: list[list[int]] = [[] for _ in self._stack.pixels]
        if self._stack.axis is None:
            return [list(range(len(fixed)))]
        nearest = nearest_slices((fixed.stack, self._stack), affine_lps)
        for region, number in enumerate(nearest[fixed.slices]):
            asking[int(number)].append(region)
        return asking

    def _prompted(
        self, number: int, fixed: Candidates, regions: Sequence[int], affine_lps: Matrix
    ) -> Rois:
        """What the prompts of some regions find in a slice, from the cache if it is there."""
        look = self._seen.pop(number, None) or self._look(number)
        stack, picture = self._stack, self._picture(number)
        target = Target(stack, number, look.features, affine_lps, self._spread_mm(fixed))
        more, aimed = invert_prompts(fixed, regions, target)
        asked = replace(self._settings.everything, points=0, more=more, aimed=aimed)
        key = cache_key(picture, stack.slice_shape, self._segmenter.fingerprint, asked)
        rois = self._cache.find(key, stack.slice_shape)
        if rois is not None:
            return rois
        begun = time.perf_counter()
        with torch.inference_mode():
            embedding = look.embedding or self._segmenter.encode([picture])[0]
            encoded = time.perf_counter()
            rois = segment_everything(self._segmenter, embedding, picture, stack.slice_shape, asked)
        self._cache.store(key, rois)
        ended = time.perf_counter()
        rois.seconds.update(encode=look.seconds + encoded - begun, decode=ended - encoded)
        return rois

    def _spread_mm(self, fixed: Candidates) -> float:
        """The prior; without one a region may be anywhere in the picture."""
        extent_mm = np.multiply(fixed.stack.slice_shape, fixed.stack.pixel_mm)
        return (self._settings.matching.prior or 1.0) * float(np.linalg.norm(extent_mm))

    def _look(self, number: int) -> _Look:
        picture = self._picture(number)
        key = pooled_key(picture, self._segmenter.fingerprint)
        known = self._cache.find_features(key)
        if known is not None:
            return _Look(known, None, 0.0)
        begun = time.perf_counter()
        with torch.inference_mode():
            embedding = self._segmenter.encode([picture])[0]
        features = pooled(embedding)
        self._cache.store_features(key, *features)
        return _Look(features, embedding, time.perf_counter() - begun)

    def _picture(self, number: int) -> torch.Tensor:
        picture = self._stack.pixels[number]
        assert picture is not None, "blank slices are left out"
        return picture
