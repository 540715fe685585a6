"""RANSAC alignment: the transform that most matched regions agree on, from their centroids alone.

Fundus photographs and aerial pictures of one place can differ by a rotation, a scale and a shift
that are too large for an optimiser to cross. Many matches are wrong, so transforms are fitted to
small samples of matches, scored by their inliers, and the best one is refitted on its inliers.

Source: Fischler and Bolles, Random sample consensus, Communications of the ACM 24 (6), 1981.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from iterreg.geometry import Matrix, apply_affine

Floats = NDArray[np.float64]

SAMPLE_SIZE = {"translation": 1, "similarity": 2, "affine": 3}
"""Matches that define a transform of each kind."""

MIN_EXTRA_INLIERS = 3
"""A transform needs this many inliers in addition to the matches that define it."""

MAX_SAMPLES = 4000
"""Most samples that are tried. If there are fewer subsets, all of them are."""

SCALE_RANGE = (0.5, 2.0)
"""A transform with a scale outside this range comes from wrong matches."""

REFITS = 5
"""Most rounds of refitting on the inliers."""


@dataclass(frozen=True)
class Alignment:
    """A transform from fixed to moving points, and its inliers.

    Args:
        affine_lps: homogeneous, (rank + 1, rank + 1).
        kind: translation, similarity, affine, or identity.
        inliers: which matches agree with it, (N,) bool.
        residual_mm: median distance of the inliers.
    """

    affine_lps: Matrix
    kind: str
    inliers: NDArray[np.bool_]
    residual_mm: float

    def __repr__(self) -> str:
        return f"Alignment({self.summary})"

    @property
    def inlier_count(self) -> int:
        """Number of matches that agree."""
        return int(self.inliers.sum())

    @property
    def summary(self) -> str:
        """The kind, the number of inliers, and their residual, in words."""
        return (
            f"{self.kind}: {self.inlier_count} of {self.inliers.size} matches agree within "
            f"{self.residual_mm:.1f} mm"
        )


def align(
    fixed_lps: Floats,
    moving_lps: Floats,
    inlier_distance_mm: float,
    kind: str = "similarity",
    seed: int = 0,
    min_extra_inliers: int = MIN_EXTRA_INLIERS,
) -> Alignment:
    """Find the transform with the most inliers.

    Args:
        fixed_lps, moving_lps: (N, rank), centroids of matched regions.
        inlier_distance_mm: a match is an inlier if its two ends land this close.
        kind: ``translation``, ``similarity`` (rotation, one scale, shift; rank 2 only) or
            ``affine`` (rank 2 only).
        seed: of the random samples.
        min_extra_inliers: inliers that a transform needs in addition to the matches that define
            it. With 0 the identity gets no preference either: use it if there is no other
            evidence.

    Returns:
        The transform, or the identity if that has about as many inliers.

    Example:
        >>> fixed = np.array([[0.0, 0.0], [40.0, 0.0], [0.0, 30.0], [40.0, 30.0], [20.0, 9.0]])
        >>> found = align(fixed, fixed + [100.0, 50.0], inlier_distance_mm=1.0, kind="translation")
        >>> found.kind, found.inlier_count
        ('translation', 5)
    """
    rank = fixed_lps.shape[1]
    best = _score(np.eye(rank + 1), "identity", fixed_lps, moving_lps, inlier_distance_mm)
    required = SAMPLE_SIZE[kind] + min_extra_inliers
    for sample in _samples(len(fixed_lps), SAMPLE_SIZE[kind], seed):
        affine_lps = _fit(fixed_lps[sample], moving_lps[sample], kind)
        if affine_lps is None:
            continue
        candidate = _score(affine_lps, kind, fixed_lps, moving_lps, inlier_distance_mm)
        if candidate.inlier_count >= required and _is_better(candidate, best, min_extra_inliers):
            best = candidate
    return _refit_on_inliers(best, fixed_lps, moving_lps, inlier_distance_mm)


def _is_better(candidate: Alignment, best: Alignment, min_extra_inliers: int) -> bool:
    """More inliers win. The identity is replaced only if the gain exceeds the sample size."""
    if best.kind == "identity" and min_extra_inliers:
        return candidate.inlier_count > best.inlier_count + SAMPLE_SIZE[candidate.kind]
    return (candidate.inlier_count, -candidate.residual_mm) > (best.inlier_count, -best.residual_mm)


def _refit_on_inliers(
    best: Alignment, fixed: Floats, moving: Floats, inlier_distance_mm: float
) -> Alignment:
    """Repeat least squares on the inliers until an inlier would be lost."""
    if best.kind == "identity":
        return best
    for _ in range(REFITS):
        affine_lps = _fit(fixed[best.inliers], moving[best.inliers], best.kind)
        if affine_lps is None:
            break
        refit = _score(affine_lps, best.kind, fixed, moving, inlier_distance_mm)
        if refit.inlier_count < best.inlier_count:
            break
        best = refit
    return best


def _score(
    affine_lps: Matrix, kind: str, fixed: Floats, moving: Floats, inlier_distance_mm: float
) -> Alignment:
    """Find a transform's inliers and their residual."""
    distance_mm = np.linalg.norm(apply_affine(affine_lps, fixed) - moving, axis=1)
    inliers = distance_mm <= inlier_distance_mm
    residual_mm = float(np.median(distance_mm[inliers])) if inliers.any() else float("inf")
    return Alignment(affine_lps, kind, inliers, residual_mm)


def _samples(count: int, size: int, seed: int) -> Iterator[list[int]]:
    """Yield all subsets of a size if they are few, else random ones."""
    if count < size:
        return
    if comb(count, size) <= MAX_SAMPLES:
        yield from (list(c) for c in combinations(range(count), size))
        return
    generator = np.random.default_rng(seed)
    for _ in range(MAX_SAMPLES):
        yield generator.choice(count, size, replace=False).tolist()


def _fit(fixed: Floats, moving: Floats, kind: str) -> Matrix | None:
    """Fit by least squares; None if the points do not determine it or its scale is impossible."""
    rank = fixed.shape[1]
    affine_lps = np.eye(rank + 1)
    if kind == "translation":
        affine_lps[:rank, rank] = (moving - fixed).mean(0)
        return affine_lps
    a, b = fixed - fixed.mean(0), moving - moving.mean(0)
    spread = float((a**2).sum())
    if spread < 1e-9:
        return None
    if kind == "similarity":
        cosine = (a * b).sum() / spread
        sine = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / spread
        affine_lps[:2, :2] = [[cosine, -sine], [sine, cosine]]
    else:
        if np.linalg.matrix_rank(a, tol=1e-3 * spread**0.5) < rank:
            return None
        affine_lps[:rank, :rank] = np.linalg.lstsq(a, b, rcond=None)[0].T
    scales = np.linalg.svd(affine_lps[:rank, :rank], compute_uv=False)
    if scales.min() < SCALE_RANGE[0] or scales.max() > SCALE_RANGE[1]:
        return None
    affine_lps[:rank, rank] = moving.mean(0) - affine_lps[:rank, :rank] @ fixed.mean(0)
    return affine_lps
