"""Pair the regions of interest of two images: match, align, link slices into volumes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.displacement import DisplacementField, Transform
from iterreg.geometry import Matrix, apply_affine
from iterreg.image import Image, LabelMap, RoiPair
from iterreg.samreg.align import Alignment, align
from iterreg.samreg.candidates import Candidates, RoiSettings
from iterreg.samreg.confidence import Evidence, confidence_of
from iterreg.samreg.hypotheses import Choice
from iterreg.samreg.linking import chain_similarity, fill_gaps, link
from iterreg.samreg.matching import Match, MatchSettings, assign, cosine_similarities
from iterreg.samreg.pictures import nearest_slices
from iterreg.samreg.prompts import Place, chosen_by
from iterreg.samreg.rle import decode_mask
from iterreg.samreg.verifying import overlap_of, verified

INLIER_FRACTION = 0.05
"""A match is an inlier of an alignment within this fraction of the fixed picture's diagonal."""


@dataclass(frozen=True)
class RoiMatching:
    """The result of matching a pair of images.

    Args:
        pairs: those that span several slices first, then the most similar first; may be empty.
        chains: the matched 2-D regions that each pair consists of.
        fixed, moving: all candidates.
        alignment: the transform that most matches agree on, or that is chosen.
        best_similarity: highest similarity of any two ROIs; NaN without ROIs.
        threshold: least similarity of a pair.
        seconds: spent on matching and linking.
        about: the section on matching of ``run.json``: variant, settings, counts, seconds.
        choice: the hypotheses for the alignment, and the one that is supported; None if the
            centroids of the regions alone decided.
        prompted: for each point and box that the user set the number of its pair, from 1; None
            for one without a pair.
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
    choice: Choice | None = None
    prompted: tuple[int | None, ...] = ()

    def __repr__(self) -> str:
        return (
            f"RoiMatching({len(self.pairs)} pairs of {len(self.fixed)} fixed and "
            f"{len(self.moving)} moving ROIs, best similarity {self.best_similarity:.3f})"
        )

    @property
    def is_supported(self) -> bool:
        """Whether patches of the images support the alignment: see :class:`Choice`."""
        return self.choice is not None and self.choice.best is not None

    @property
    def is_refined(self) -> bool:
        """Whether the alignment was also refined by patches, as that of pictures is."""
        return self.is_supported and self.fixed.stack.axis is None

    def evidence(self, match: Match) -> Evidence:
        """What is known of two matched regions, for the confidence that they show the same."""
        overlap = overlap_of(match, self.fixed, self.moving, self.alignment.affine_lps)
        return Evidence(overlap, match.similarity)

    @property
    def is_usable(self) -> bool:
        """Whether there is something to fit to: pairs, or a supported alignment of whole pictures.

        If the user asked for regions around prompts, an alignment is no answer.
        """
        return bool(self.pairs) or (self.is_supported and not self.prompted)

    @property
    def start(self) -> Transform | None:
        """The alignment as an initial transform; None for the identity.

        Without support by patches it takes two pairs to make an alignment.
        """
        if self.alignment.kind == "identity" or not (self.pairs or self.is_supported):
            return None
        grid = self.fixed.stack.grid
        return Transform(self.alignment.affine_lps, DisplacementField.zero(grid))

    @property
    def guidance(self) -> tuple[RoiPair, ...]:
        """The pairs that a field should be fitted to.

        A region of a volume that was matched in one slice alone has no known extent across the
        slices, so such pairs count only if there are no others.
        """
        with_chains = zip(self.pairs, self.chains, strict=True)
        return tuple(pair for pair, chain in with_chains if len(chain) > 1) or self.pairs

    @property
    def reason_for_none(self) -> str:
        """The error message if there are no pairs."""
        for side, found in (("fixed", self.fixed), ("moving", self.moving)):
            if not len(found):
                segmented = found.counts["encoded"] + found.counts["cached"]
                return (
                    f"expected regions of interest in the {side} image, got none: "
                    f"{segmented} slices segmented, {found.counts['survivors']} masks, "
                    "none of an allowed area"
                )
        if self.prompted and self.best_similarity >= self.threshold:
            return f"expected a matched region at a prompt, got none at any of {len(self.prompted)}"
        return (
            f"expected two regions of interest with a similarity of at least {self.threshold:g}, "
            f"got {self.best_similarity:.3f} at best (of {len(self.fixed)} fixed and "
            f"{len(self.moving)} moving ones)"
        )


def match_candidates(
    fixed: Candidates,
    moving: Candidates,
    images: tuple[Image, Image],
    settings: RoiSettings,
    choose: Callable[[Alignment], Choice] | None = None,
    places: Sequence[Place] = (),
) -> RoiMatching:
    """Match, align, match again close to the alignment, and link slices into volumes.

    Args:
        fixed, moving: candidates of the two images.
        images: the two images.
        settings: only those of the matching play a part.
        choose: compares the alignment by the regions' centroids with others; None takes it.
        places: of the user's prompts: only the matched region of each is kept.
    """
    from scipy.spatial.distance import cdist

    begun = time.perf_counter()
    rules = settings.matching
    mean = (fixed.mean + moving.mean) / 2 if rules.centre and len(fixed) and len(moving) else None
    if len(fixed) and len(moving):
        cosine = cosine_similarities(fixed.prototypes, moving.prototypes, mean)
    else:
        cosine = np.zeros((len(fixed), len(moving)))
    allowed = _within_range(fixed, moving, rules.slice_range)
    diagonal = float(np.linalg.norm(np.multiply(fixed.stack.slice_shape, fixed.stack.pixel_mm)))
    inlier_distance_mm = INLIER_FRACTION * diagonal
    alignment = _alignment(cosine, allowed, fixed, moving, rules, inlier_distance_mm)
    choice = None if choose is None else choose(alignment)
    best = None if choice is None else choice.best
    taken = None if choice is None else choice.taken
    if taken is not None:
        alignment = replace(alignment, affine_lps=taken.affine_lps, kind=taken.kind)
        allowed = _within_range(fixed, moving, rules.slice_range, taken.affine_lps)
    weight = None
    if rules.prior:
        aligned_lps = apply_affine(alignment.affine_lps, fixed.centroids_lps)
        distance_mm = cdist(aligned_lps, moving.centroids_lps)
        weight = np.exp(-0.5 * (distance_mm / (rules.prior * diagonal)) ** 2)
    matches = assign(cosine, allowed, rules, weight)
    if not matches and weight is not None and taken is None:
        # No similar region lies close to the alignment, so appearance alone has to decide.
        matches = assign(cosine, allowed, rules)
        centroids = _centroids(matches, fixed, moving)
        alignment = align(*centroids, inlier_distance_mm, "translation", min_extra_inliers=0)
    if best is not None and fixed.stack.axis is None:
        matches = verified(matches, fixed, moving, alignment.affine_lps)
    matched = time.perf_counter()
    chains = _chains(matches, fixed, moving)
    chains, prompted = _asked_for(chains, fixed, places, rules.pairs)
    pairs = tuple(
        _roi_pair(number, chain, fixed, moving, images) for number, chain in enumerate(chains, 1)
    )
    seconds = {"match": matched - begun, "link": time.perf_counter() - matched}
    most = float(cosine[allowed].max()) if allowed.any() else float("nan")
    matching = RoiMatching(
        pairs,
        tuple(map(tuple, chains)),
        fixed,
        moving,
        alignment,
        most,
        rules.threshold,
        seconds,
        choice=choice,
        prompted=prompted,
    )
    if not matching.is_supported:
        return matching
    return replace(matching, pairs=tuple(_with_confidence(matching)))


def _with_confidence(found: RoiMatching) -> Iterator[RoiPair]:
    for pair, chain in zip(found.pairs, found.chains, strict=True):
        confidence = confidence_of([found.evidence(match) for match in chain])
        yield replace(pair, confidence=round(confidence, 3))


def _within_range(
    fixed: Candidates, moving: Candidates, slice_range: int, affine_lps: Matrix | None = None
) -> NDArray[np.bool_]:
    """(N, M), whether the moving ROI lies in a slice close to the physically nearest one."""
    if fixed.stack.axis is None:
        return np.ones((len(fixed), len(moving)), bool)
    nearest = nearest_slices((fixed.stack, moving.stack), affine_lps)
    steps = np.abs(nearest[fixed.slices][:, None] - moving.slices[None])
    return np.asarray(steps <= slice_range)


def _alignment(
    cosine: NDArray[np.float64],
    allowed: NDArray[np.bool_],
    fixed: Candidates,
    moving: Candidates,
    rules: MatchSettings,
    inlier_distance_mm: float,
) -> Alignment:
    """Align by the ROIs that are each other's most similar partner."""
    mutual = assign(cosine, allowed, MatchSettings(rules.threshold, "mutual"))
    kind = "similarity" if fixed.stack.axis is None else "translation"
    return align(*_centroids(mutual, fixed, moving), inlier_distance_mm, kind)


def _centroids(
    matches: list[Match], fixed: Candidates, moving: Candidates
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the fixed and the moving centroids of matches, LPS mm, (N, rank) each."""
    fixed_lps = fixed.centroids_lps[[m.fixed for m in matches]]
    return fixed_lps, moving.centroids_lps[[m.moving for m in matches]]


def _chains(matches: list[Match], fixed: Candidates, moving: Candidates) -> list[list[Match]]:
    if fixed.stack.axis is None:
        return [[m] for m in matches]
    steps = [s.grid.spacing_zyx_mm[s.axis or 0] for s in (fixed.stack, moving.stack)]
    return link(
        matches, (fixed.masks, moving.masks), (fixed.slices, moving.slices), (steps[0], steps[1])
    )


def _asked_for(
    chains: list[list[Match]], fixed: Candidates, places: Sequence[Place], most: int | None
) -> tuple[list[list[Match]], tuple[int | None, ...]]:
    """The chains that prompts ask for, or all, at most so many; each prompt's, counted from 1."""
    if not places:
        return chains[:most], ()
    groups = [[(int(fixed.slices[m.fixed]), fixed.masks[m.fixed]) for m in c] for c in chains]
    asked = chosen_by(places, groups)
    kept = sorted({k for k in asked if k is not None})[:most]
    number_of = {k: number for number, k in enumerate(kept, 1)}
    return [chains[k] for k in kept], tuple(None if k is None else number_of.get(k) for k in asked)


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
    """Draw the union of some regions on the image's own grid, gaps between slices filled."""
    stack = found.stack
    data = torch.zeros(stack.grid.shape_zyx, dtype=torch.int32)
    if stack.axis is None:
        for k in chosen:
            data[torch.from_numpy(decode_mask(found.masks[k]))] = 1
        return LabelMap(stack.order.undo(data), image.grid, name=name)

    def masks_of_slice(number: int) -> list[NDArray[np.bool_]]:
        return [decode_mask(found.masks[k]) for k in np.flatnonzero(found.slices == number)]

    planes: dict[int, NDArray[np.bool_]] = {}
    for k in chosen:
        mask, number = decode_mask(found.masks[k]), int(found.slices[k])
        planes[number] = mask | planes[number] if number in planes else mask
    for number, mask in fill_gaps(planes, masks_of_slice).items():
        data.select(stack.axis, number)[torch.from_numpy(mask)] = 1
    return LabelMap(stack.order.undo(data), image.grid, name=name)
