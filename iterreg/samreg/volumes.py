"""Choose the alignment of two volumes: cells of all slices propose, patches of slices decide.

Slices are encoded one by one, but each cell has its place in space. The cells of all slices of both
volumes are matched at once, and an affine is fitted to them. It replaces what the headers and the
centroids of matched regions say only where clearly more patches of the slices agree with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.geometry import Matrix, apply_affine
from iterreg.samreg.align import Alignment, align, fit
from iterreg.samreg.cells import Cells, Features, cells_of, match_cells
from iterreg.samreg.hypotheses import INLIER_CELLS, LEAST_INLIERS, Choice, Hypothesis
from iterreg.samreg.patches import LEAST_PATCHES, Support, support_of
from iterreg.samreg.pictures import PictureStack
from iterreg.samreg.planes import COARSE_PX, LOCAL_SHARE, Plane, even_out

Floats = NDArray[np.float64]

GAIN = 1.15
"""Cells replace the usual alignment if so many times more patches agree with theirs: the usual one
never loses to chance."""

FAR_AHEAD = 3.0
"""Without enough support cells still replace the usual alignment if so many times more patches
agree with theirs than with it, and than by chance. A heart that is turned by 45 degrees and beats
shows hardly a slice twice: 218 of 1250 patches agree with the right alignment, 14 with the header,
24 by chance."""

MOST_JUDGED = 6
"""Slices whose patches are looked for, evenly spaced."""


@dataclass(frozen=True)
class _Slices:
    """The slices of a volume at the size that patches are compared at.

    Args:
        grey: (slices, h, w).
        shown: numbers of those that are not blank.
        to_lps: homogeneous (4, 4), from (slice, row, column) to LPS mm.
        pixel_mm: side of a pixel.
    """

    grey: NDArray[np.float32]
    shown: tuple[int, ...]
    to_lps: Matrix
    pixel_mm: float


def choose_volume_alignment(
    stacks: tuple[PictureStack, PictureStack],
    features: tuple[Sequence[Features | None], Sequence[Features | None]],
    regions: Alignment,
) -> Choice:
    """Try the usual alignment and that of the cells, and choose by the patches that agree.

    Args:
        stacks: of two volumes, cut across the same axis.
        features: of the slices of each; None for one whose cells are left out.
        regions: the alignment by the centroids of matched regions, or the identity.
    """
    fixed, moving = (_slices_of(stack) for stack in stacks)
    if not fixed.shown or not moving.shown:
        return Choice(None)
    tried = [
        replace(h, support=_support(fixed, moving, h.affine_lps))
        for h in _hypotheses(stacks, features, regions)
    ]
    usual, best = tried[0], max(tried, key=lambda h: h.support.agree)
    ahead = best if _is_far_ahead(best.support, usual.support) else None
    if not best.support.is_enough or best.support.agree <= GAIN * usual.support.agree:
        best = usual
    tried.sort(key=lambda h: -h.support.agree)
    if best.support.is_enough:
        return Choice(best, tuple(tried))
    return Choice(None, tuple(tried), ahead)


def _is_far_ahead(best: Support, usual: Support) -> bool:
    by_chance = best.chance * best.of
    return best.of >= LEAST_PATCHES and best.agree > FAR_AHEAD * max(usual.agree, by_chance)


def cells_of_volume(stack: PictureStack, features: Sequence[Features | None]) -> Cells:
    """The cells of all slices, at their places in space.

    Args:
        stack: the slices.
        features: of each; None leaves it out.
    """
    rows, columns = stack.slice_shape
    parts = []
    for number, (picture, known) in enumerate(zip(stack.pixels, features, strict=True)):
        if picture is None or known is None:
            continue
        height, width = picture.shape[:2]
        x, y = columns / width, rows / height
        to_index = np.array([[x, 0, x / 2 - 0.5], [0, y, y / 2 - 0.5], [0, 0, 1]])
        found = cells_of(known, picture, np.ones((height, width), bool), to_index)
        index = np.insert(found.places_lps[:, ::-1], stack.axis or 0, number, axis=1)
        places = apply_affine(stack.grid.index_to_lps, index)
        size_mm = found.size_mm * float(np.sqrt(np.prod(stack.pixel_mm)))
        parts.append(Cells(found.features, places, found.positions, size_mm))
    if not parts:
        return Cells(torch.zeros(0, 1), np.zeros((0, 3)), np.zeros((0, 2)), 0.0)
    return Cells(
        torch.cat([p.features for p in parts]),
        np.concatenate([p.places_lps for p in parts]),
        np.concatenate([p.positions for p in parts]),
        parts[0].size_mm,
    )


def _hypotheses(
    stacks: tuple[PictureStack, PictureStack],
    features: tuple[Sequence[Features | None], Sequence[Features | None]],
    regions: Alignment,
) -> Iterator[Hypothesis]:
    """What may align the volumes, the usual one first."""
    if regions.kind != "identity":
        count, of = regions.inlier_count, int(regions.inliers.size)
        yield Hypothesis("ROI pairs", regions.affine_lps, of, count, kind=regions.kind)
    yield Hypothesis("header", np.eye(4), kind="identity")
    ours, theirs = (cells_of_volume(s, f) for s, f in zip(stacks, features, strict=True))
    matches = match_cells(ours, theirs)
    steps = [s.grid.spacing_zyx_mm[s.axis or 0] for s in stacks]
    reach_mm = INLIER_CELLS * max(ours.size_mm, *steps)
    here, there = matches.fixed_lps, matches.moving_lps
    found = align(here, there, reach_mm, "similarity", min_extra_inliers=0)
    if found.kind == "identity" or found.inlier_count < LEAST_INLIERS:
        return
    counts = (len(here), found.inlier_count)
    yield Hypothesis("cells", found.affine_lps, *counts)
    affine_lps = fit(here[found.inliers], there[found.inliers], "affine")
    if affine_lps is not None:
        yield Hypothesis("cells", affine_lps, *counts, kind="affine")


def _slices_of(stack: PictureStack) -> _Slices:
    import cv2

    shown = stack.shown
    pictures = [stack.pixels[k] for k in shown]
    height, width = pictures[0].shape[:2] if pictures and pictures[0] is not None else (1, 1)
    scale = min(1.0, COARSE_PX / max(height, width))
    h, w = (max(1, round(n * scale)) for n in (height, width))
    grey = np.zeros((len(stack.pixels), h, w), np.float32)
    for number, picture in zip(shown, pictures, strict=True):
        assert picture is not None
        levels = picture.numpy().astype(np.float32).mean(2)
        grey[number] = cv2.resize(levels, (w, h), interpolation=cv2.INTER_AREA)
    axis, (y, x) = stack.axis or 0, (n / m for n, m in zip(stack.slice_shape, (h, w), strict=True))
    to_index = np.eye(4)
    order = [axis, *(k for k in range(3) if k != axis)]
    to_index[order, :] = np.array(
        [[1, 0, 0, 0], [0, y, 0, y / 2 - 0.5], [0, 0, x, x / 2 - 0.5]], np.float64
    )
    to_lps = np.asarray(stack.grid.index_to_lps @ to_index, np.float64)
    return _Slices(grey, shown, to_lps, float(np.sqrt(y * x * np.prod(stack.pixel_mm))))


def _support(fixed: _Slices, moving: _Slices, affine_lps: Matrix) -> Support:
    """Patches of some fixed slices that are found where the alignment puts them."""
    step = max(1, -(-len(fixed.shown) // MOST_JUDGED))
    found = [_slice_support(fixed, moving, affine_lps, k) for k in fixed.shown[step // 2 :: step]]
    residuals = [s.residual_mm for s in found if s.agree]
    return Support(
        sum(s.agree for s in found),
        sum(s.of for s in found),
        found[0].chance,
        float(np.median(residuals)) if residuals else float("nan"),
    )


def _slice_support(fixed: _Slices, moving: _Slices, affine_lps: Matrix, number: int) -> Support:
    from scipy.ndimage import map_coordinates

    grey = fixed.grey[number]
    rows, columns = np.indices(grey.shape, dtype=np.float64)
    here = np.stack([np.full(grey.size, float(number)), rows.ravel(), columns.ravel()], 1)
    there = np.linalg.inv(moving.to_lps) @ affine_lps @ fixed.to_lps
    index = apply_affine(np.asarray(there, np.float64), here)
    last = np.array(moving.grey.shape) - 1.0
    inside = ((index >= -0.5) & (index <= last + 0.5)).all(1).reshape(grey.shape)
    warped = map_coordinates(moving.grey, index.T, order=1, mode="nearest").reshape(grey.shape)
    sigma = LOCAL_SHARE * max(grey.shape)
    to_mm = np.diag([fixed.pixel_mm, fixed.pixel_mm, 1.0])
    everywhere = np.ones(grey.shape, bool)
    plane = Plane(even_out(grey, everywhere, sigma), everywhere, to_mm)
    other = even_out(np.asarray(warped, np.float32), inside, sigma)
    return support_of(plane, replace(plane, grey=other, inside=inside))
