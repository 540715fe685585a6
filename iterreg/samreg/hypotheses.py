"""Choose the alignment of two pictures: every way to find one makes a hypothesis, patches decide.

The header, the centres of both views, the centroids of matched regions, keypoints and the cells of
the embedding each propose an alignment. Patches, which played no part in any of them, say how well
each is supported; the best supported one is refined to a fraction of a pixel. Without enough
support no hypothesis is chosen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iterreg.geometry import Matrix, apply_affine
from iterreg.samreg.align import Alignment, align
from iterreg.samreg.cache import RoiCache
from iterreg.samreg.cells import Cells, cells_of, encode, match_cells
from iterreg.samreg.keypoints import match_keypoints
from iterreg.samreg.patches import Support, refine
from iterreg.samreg.pictures import PictureStack
from iterreg.samreg.planes import (
    COARSE_PX,
    FINE_LOCAL_SHARE,
    FINE_PX,
    LOCAL_SHARE,
    Plane,
    evened_picture,
    pick_channel,
    plane_of,
)
from iterreg.samreg.segmenter import Segmenter

Floats = NDArray[np.float64]

INLIER_CELLS = 1.5
"""Cells that are matched right land this close."""

KEYPOINT_CELLS = 0.5

LEAST_INLIERS = 8
"""Fewer matches that agree make no hypothesis."""

AFFINE_GAIN = 1.3
"""An affine replaces a similarity if so many times more patches agree: it is fitted to a part of
the picture, and beyond it a wrong shear grows."""

FINE_SHARE = 0.5
"""The fine size is believed if this share of its patches agrees. A retina is no plane: details
agree with one affine in a part of the picture, and with another elsewhere."""


@dataclass(frozen=True)
class Hypothesis:
    """An alignment that something proposes.

    Args:
        source: what proposes it.
        affine_lps: homogeneous, fixed to moving, LPS mm.
        matches: how many matches it was fitted to.
        inliers: how many of them agree.
        support: by patches.
        kind: similarity, affine, translation or identity.
    """

    source: str
    affine_lps: Matrix
    matches: int = 0
    inliers: int = 0
    support: Support = field(default_factory=lambda: Support(0, 0, 0.0))
    kind: str = "similarity"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in ``run.json``."""
        return {
            "source": self.source,
            "kind": self.kind,
            "affine_lps": self.affine_lps.tolist(),
            "matches": self.matches,
            "inliers": self.inliers,
        } | self.support.to_dict()


@dataclass(frozen=True)
class Choice:
    """The hypotheses, and which one is chosen.

    Args:
        best: the best supported one, refined; None if none is supported enough.
        tried: all of them, the best supported first.
        ahead: without a supported one, that which is still far ahead of the others: matching
            begins there, but nothing relies on it.
    """

    best: Hypothesis | None
    tried: tuple[Hypothesis, ...] = ()
    ahead: Hypothesis | None = None

    @property
    def taken(self) -> Hypothesis | None:
        """The one that regions are matched behind, supported or not."""
        return self.best or self.ahead

    @property
    def words(self) -> str:
        """What was chosen."""
        if self.best is not None:
            return f"by {self.best.source}"
        if not self.tried:
            return "no alignment was tried"
        if self.ahead is not None:
            return f"by {self.ahead.source}, hardly supported"
        return "no alignment is supported"

    @property
    def summary(self) -> str:
        """What was chosen, and by how much."""
        if not self.tried:
            return self.words
        if self.taken is not None:
            return f"{self.words}: {self.taken.support.summary}"
        return f"{self.words}: at best {self.tried[0].support.summary}"

    def to_dict(self) -> dict[str, Any]:
        """Plain tables, as in ``run.json``."""
        return {
            "source": None if self.taken is None else self.taken.source,
            "supported": self.best is not None,
            "tried": [hypothesis.to_dict() for hypothesis in self.tried],
        }


@dataclass(frozen=True)
class _Sight:
    """What the encoder and the keypoints see of one picture."""

    picture: Tensor
    inside: NDArray[np.bool_]
    px_to_lps: Matrix

    def turned(self, quarters: int, mirrored: bool) -> _Sight:
        """A copy turned by quarters of a circle, after a reflection if asked."""
        height, width = self.inside.shape
        picture, inside = self.picture, self.inside
        index = np.stack(np.meshgrid(np.arange(width), np.arange(height)), 2)
        if mirrored:
            picture, inside, index = picture.flip(1), inside[:, ::-1], index[:, ::-1]
        picture = torch.rot90(picture, quarters).contiguous()
        inside, index = np.rot90(inside, quarters).copy(), np.rot90(index, quarters)
        # Where three corners of the copy lie in the picture gives the map back.
        corner, right, below = index[0, 0], index[0, 1], index[1, 0]
        back = np.eye(3)
        back[:2] = np.stack([right - corner, below - corner, corner], 1)
        return _Sight(picture, inside, self.px_to_lps @ back)

    def cells(self, segmenter: Segmenter, cache: RoiCache) -> Cells:
        """The cells, by one encode."""
        features = encode(self.picture, segmenter, cache)
        return cells_of(features, self.picture, self.inside, self.px_to_lps)


def choose_alignment(
    stacks: tuple[PictureStack, PictureStack],
    segmenter: Segmenter,
    regions: Alignment,
    cache: RoiCache,
    mirrored: bool = False,
) -> Choice:
    """Try all hypotheses, and choose the best supported one.

    Args:
        stacks: of two pictures.
        segmenter: encodes them.
        regions: the alignment that the centroids of matched regions propose.
        cache: of features.
        mirrored: whether the moving picture may be a mirror image.
    """
    if any(stack.pixels[0] is None for stack in stacks):
        return Choice(None)
    first, second = (stack.pixels[0] for stack in stacks)
    assert first is not None and second is not None
    channel = pick_channel((first, second))
    planes = _planes(stacks, channel, COARSE_PX, LOCAL_SHARE)
    tried = [_judged(h, planes) for h in _cheap(stacks, channel, planes, regions)]
    fixed, moving = (_sight(stack, channel) for stack in stacks)
    ours = fixed.cells(segmenter, cache)
    turns = [(k, m) for m in ((False, True) if mirrored else (False,)) for k in range(4)]
    for quarters, flipped in turns:
        if (quarters or flipped) and any(h.support.is_enough for h in tried):
            break
        theirs = moving.turned(quarters, flipped).cells(segmenter, cache)
        proposed = _from_cells(ours, theirs, quarters, flipped)
        if proposed is not None:
            tried.append(_judged(proposed, planes))
    tried.sort(key=lambda h: (-h.support.is_enough, -h.support.share))
    best = tried[0]
    if not best.support.is_enough:
        return Choice(None, tuple(tried))
    return Choice(_finely(best, stacks, channel, planes), tuple(tried))


def _planes(
    stacks: tuple[PictureStack, PictureStack], channel: int | None, side_px: int, share: float
) -> tuple[Plane, Plane]:
    first, second = (plane_of(stack, channel, side_px, share) for stack in stacks)
    return first, second


def _sight(stack: PictureStack, channel: int | None) -> _Sight:
    picture = stack.pixels[0]
    assert picture is not None
    plane = plane_of(stack, channel, FINE_PX, FINE_LOCAL_SHARE)
    evened, inside = evened_picture(picture, channel)
    return _Sight(evened, inside, plane.px_to_lps)


def _cheap(
    stacks: tuple[PictureStack, PictureStack],
    channel: int | None,
    planes: tuple[Plane, Plane],
    regions: Alignment,
) -> Iterator[Hypothesis]:
    """The hypotheses that need no encoding."""
    yield Hypothesis("header", np.eye(3), kind="identity")
    centres = [apply_affine(p.px_to_lps, _centre_px(p)[None])[0] for p in planes]
    shift = np.eye(3)
    shift[:2, 2] = centres[1] - centres[0]
    if np.linalg.norm(shift[:2, 2]) > planes[0].pixel_mm:
        yield Hypothesis("centres of the views", shift, kind="translation")
    if regions.kind != "identity":
        count, of = regions.inlier_count, int(regions.inliers.size)
        yield Hypothesis("ROI pairs", regions.affine_lps, of, count, kind=regions.kind)
    sights = [_sight(stack, channel) for stack in stacks]
    grey = [(s.picture[..., 0].numpy(), s.inside, s.px_to_lps) for s in sights]
    keypoints = match_keypoints(grey[0], grey[1])
    cell_mm = max(planes[0].cell_px * planes[0].pixel_mm, 1e-9)
    found = _fitted("keypoints", *keypoints, KEYPOINT_CELLS * cell_mm)
    if found is not None:
        yield found


def _centre_px(plane: Plane) -> Floats:
    rows, columns = np.nonzero(plane.inside)
    return np.array([columns.mean(), rows.mean()])


def _from_cells(ours: Cells, theirs: Cells, quarters: int, flipped: bool) -> Hypothesis | None:
    matches = match_cells(ours, theirs)
    turned = [f"turned by {90 * quarters}"] * bool(quarters) + ["mirrored"] * flipped
    source = "cells" + f" ({', '.join(turned)})" * bool(turned)
    reach_mm = INLIER_CELLS * max(ours.size_mm, 1e-9)
    moving_lps = matches.moving_lps
    if not flipped:
        return _fitted(source, matches.fixed_lps, moving_lps, reach_mm)
    mirror = np.diag([-1.0, 1.0, 1.0])
    found = _fitted(source, matches.fixed_lps, apply_affine(mirror, moving_lps), reach_mm)
    return None if found is None else replace(found, affine_lps=mirror @ found.affine_lps)


def _fitted(
    source: str, fixed_lps: Floats, moving_lps: Floats, reach_mm: float
) -> Hypothesis | None:
    """The similarity that most matches agree on."""
    found = align(fixed_lps, moving_lps, reach_mm, "similarity", min_extra_inliers=0)
    if found.inlier_count < LEAST_INLIERS or found.kind == "identity":
        return None
    return Hypothesis(source, found.affine_lps, len(fixed_lps), found.inlier_count)


def _judged(hypothesis: Hypothesis, planes: tuple[Plane, Plane]) -> Hypothesis:
    """A hypothesis refined by patches, and its support."""
    refined, support = refine(planes, hypothesis.affine_lps)
    moved = refined is not hypothesis.affine_lps
    kind = "similarity" if moved else hypothesis.kind
    return replace(hypothesis, affine_lps=refined, support=support, kind=kind)


def _finely(
    best: Hypothesis,
    stacks: tuple[PictureStack, PictureStack],
    channel: int | None,
    coarse: tuple[Plane, Plane],
) -> Hypothesis:
    """The best hypothesis refined at the fine size, as an affine where that has more support."""
    affine_lps, support = refine(coarse, best.affine_lps, "affine")
    if support.agree > AFFINE_GAIN * best.support.agree:
        best = replace(best, affine_lps=affine_lps, support=support, kind="affine")
    planes = _planes(stacks, channel, FINE_PX, FINE_LOCAL_SHARE)
    finer, support = refine(planes, best.affine_lps, "similarity", fine=True)
    affine_lps, affine_support = refine(planes, best.affine_lps, "affine", fine=True)
    kind = best.kind
    if affine_support.agree > AFFINE_GAIN * support.agree:
        finer, support, kind = affine_lps, affine_support, "affine"
    return replace(best, affine_lps=finer, kind=kind) if support.share >= FINE_SHARE else best
