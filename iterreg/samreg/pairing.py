"""From the regions of two images to their pairs: matched, aligned, linked into volumes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.displacement import DisplacementField, Transform
from iterreg.geometry import apply_affine
from iterreg.image import Image, LabelMap, RoiPair
from iterreg.samreg.align import Alignment, align
from iterreg.samreg.candidates import Candidates, RoiSettings
from iterreg.samreg.linking import filled, link
from iterreg.samreg.linking import similarity as chain_similarity
from iterreg.samreg.matching import Match, MatchSettings, assign, similarities
from iterreg.samreg.rle import decode_mask

AGREE = 0.05
"""Matches agree on an alignment within this share of the fixed picture's diagonal."""


@dataclass(frozen=True)
class RoiMatching:
    """What matching a pair of images gave.

    Args:
        pairs: those of several slices first, then the most similar first; may be empty.
        chains: the matched 2-D regions that each pair is made of.
        fixed, moving: everything that could have been matched.
        alignment: the transform that the matches agree on.
        best_similarity: the highest that any two ROIs reached; NaN without ROIs.
        seconds: of matching and linking.
        about: what a report says of it: variant, settings, counts, seconds.
    """

    pairs: tuple[RoiPair, ...]
    chains: tuple[tuple[Match, ...], ...]
    fixed: Candidates
    moving: Candidates
    alignment: Alignment
    best_similarity: float
    threshold: float
    seconds: dict[str, float]
    about: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return (
            f"RoiMatching({len(self.pairs)} pairs of {len(self.fixed)} fixed and "
            f"{len(self.moving)} moving ROIs, best similarity {self.best_similarity:.3f})"
        )

    @property
    def start(self) -> Transform | None:
        """The alignment as an initial transform; None where it is the identity or unused."""
        if self.alignment.kind == "identity" or not self.pairs:
            return None
        grid = self.pairs[0].fixed.grid
        return Transform(self.alignment.affine_lps, DisplacementField.zero(grid))

    @property
    def guidance(self) -> tuple[RoiPair, ...]:
        """The pairs that a field should be fitted to.

        A region of a volume that was matched in one slice alone does not say where it lies across
        the slices; such pairs guide only where there are no others.
        """
        several = zip(self.pairs, self.chains, strict=True)
        return tuple(pair for pair, chain in several if len(chain) > 1) or self.pairs

    @property
    def why_none(self) -> str:
        """What to say where there are no pairs."""
        for side, found in (("fixed", self.fixed), ("moving", self.moving)):
            if not len(found):
                seen = found.counts["survivors"]
                return (
                    f"expected regions of interest in the {side} image, got none: "
                    f"{found.counts['encoded'] + found.counts['cached']} slices segmented, "
                    f"{seen} masks, none of an allowed area"
                )
        return (
            f"expected two regions of interest with a similarity of at least {self.threshold:g}, "
            f"got {self.best_similarity:.3f} at best (of {len(self.fixed)} fixed and "
            f"{len(self.moving)} moving ones)"
        )


def match_candidates(
    fixed: Candidates, moving: Candidates, images: tuple[Image, Image], settings: RoiSettings
) -> RoiMatching:
    """Match, align, match again near the alignment, and link slices into volumes."""
    from scipy.spatial.distance import cdist

    begun = time.perf_counter()
    rules = settings.matching
    mean = (fixed.mean + moving.mean) / 2 if rules.centre and len(fixed) and len(moving) else None
    if len(fixed) and len(moving):
        cosine = similarities(fixed.prototypes, moving.prototypes, mean)
    else:
        cosine = np.zeros((len(fixed), len(moving)))
    allowed = _within_range(fixed, moving, rules.slice_range)
    diagonal = float(np.linalg.norm(np.multiply(fixed.stack.slice_shape, fixed.stack.pixel_mm)))
    alignment = _alignment(cosine, allowed, fixed, moving, rules, AGREE * diagonal)
    weight = None
    if rules.prior:
        landed = apply_affine(alignment.affine_lps, fixed.centroids_lps)
        apart = cdist(landed, moving.centroids_lps)
        weight = np.exp(-0.5 * (apart / (rules.prior * diagonal)) ** 2)
    matches = assign(cosine, allowed, rules, weight)
    if not matches and weight is not None:
        # Nothing similar lies near: then it is their looks alone that say where things went.
        matches = assign(cosine, allowed, rules)
        ends = _ends(matches, fixed, moving)
        alignment = align(*ends, AGREE * diagonal, "translation", least_support=0)
    matched = time.perf_counter()
    chains = _chains(matches, fixed, moving)[: rules.pairs]
    pairs = tuple(
        _roi_pair(number, chain, fixed, moving, images) for number, chain in enumerate(chains, 1)
    )
    seconds = {"match": matched - begun, "link": time.perf_counter() - matched}
    best = float(cosine[allowed].max()) if allowed.any() else float("nan")
    return RoiMatching(
        pairs, tuple(map(tuple, chains)), fixed, moving, alignment, best, rules.threshold, seconds
    )


def _within_range(fixed: Candidates, moving: Candidates, slice_range: int) -> NDArray[np.bool_]:
    """(N, M), whether the moving ROI lies within the slices around the physically nearest one."""
    if fixed.stack.axis is None:
        return np.ones((len(fixed), len(moving)), bool)
    normal = fixed.stack.normal_lps
    here, there = fixed.stack.positions_lps_mm @ normal, moving.stack.positions_lps_mm @ normal
    nearest = np.abs(here[:, None] - there[None]).argmin(1)
    steps = np.abs(nearest[fixed.slices][:, None] - moving.slices[None])
    return np.asarray(steps <= slice_range)


def _alignment(
    cosine: NDArray[np.float64],
    allowed: NDArray[np.bool_],
    fixed: Candidates,
    moving: Candidates,
    rules: MatchSettings,
    reach_mm: float,
) -> Alignment:
    """What the ROIs that are each other's most similar agree on."""
    sure = assign(cosine, allowed, MatchSettings(rules.threshold, "mutual"))
    kind = "similarity" if fixed.stack.axis is None else "translation"
    return align(*_ends(sure, fixed, moving), reach_mm, kind)


def _ends(
    matches: list[Match], fixed: Candidates, moving: Candidates
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centroids of both sides of some matches, LPS mm, (N, rank) each."""
    ours = fixed.centroids_lps[[m.fixed for m in matches]]
    return ours, moving.centroids_lps[[m.moving for m in matches]]


def _chains(matches: list[Match], fixed: Candidates, moving: Candidates) -> list[list[Match]]:
    if fixed.stack.axis is None:
        return [[m] for m in matches]
    steps = [s.grid.spacing_zyx_mm[s.axis or 0] for s in (fixed.stack, moving.stack)]
    return link(
        matches, (fixed.masks, moving.masks), (fixed.slices, moving.slices), (steps[0], steps[1])
    )


def _roi_pair(
    number: int,
    chain: list[Match],
    fixed: Candidates,
    moving: Candidates,
    images: tuple[Image, Image],
) -> RoiPair:
    ours = _label_map(fixed, {m.fixed for m in chain}, images[0], f"fixed ROI {number}")
    theirs = _label_map(moving, {m.moving for m in chain}, images[1], f"moving ROI {number}")
    return RoiPair(ours, theirs, min(1.0, max(0.0, chain_similarity(chain))))


def _label_map(found: Candidates, chosen: set[int], image: Image, name: str) -> LabelMap:
    """The union of some regions, on the image's own grid."""
    stack = found.stack
    data = torch.zeros(stack.grid.shape_zyx, dtype=torch.int32)
    if stack.axis is None:
        for k in chosen:
            data[torch.from_numpy(decode_mask(found.masks[k]))] = 1
        return LabelMap(stack.order.undo(data), image.grid, name=name)

    def known(number: int) -> list[NDArray[np.bool_]]:
        return [decode_mask(found.masks[k]) for k in np.flatnonzero(found.slices == number)]

    planes: dict[int, NDArray[np.bool_]] = {}
    for k in chosen:
        mask, number = decode_mask(found.masks[k]), int(found.slices[k])
        planes[number] = mask | planes[number] if number in planes else mask
    for number, mask in filled(planes, known).items():
        data.select(stack.axis, number)[torch.from_numpy(mask)] = 1
    return LabelMap(stack.order.undo(data), image.grid, name=name)
