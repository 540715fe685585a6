"""RANSAC alignment: the transform that most matched regions agree on, from their centroids alone.

Fundus photographs and aerial pictures of one place can differ by a rotation, a scale and a shift
that are too large for an optimiser to cross. Many matches are wrong, so transforms are fitted to
small samples of matches, scored by their inliers, and the best one is refitted on its inliers.

Source: Fischler and Bolles, Random sample consensus, Communications of the ACM 24 (6), 1981.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from iterreg.arguments import seed_of
from iterreg.geometry import Matrix, apply_affine

Floats = NDArray[np.float64]

MIN_EXTRA_INLIERS = 3
"""A transform needs this many inliers in addition to the matches that define it."""

MAX_SAMPLES = 4000
"""Most samples that are tried. If there are fewer subsets, all of them are."""

SCALE_RANGE = (0.5, 2.0)
"""A transform with a scale outside this range comes from wrong matches."""

SCORED_AT_ONCE = 1 << 18
"""Transforms times matches that are scored at once: a few MB."""

MOST_TIES = 32
"""Of transforms with equally many inliers, so many are compared by their residual."""

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
        kind: ``translation``, ``similarity`` (rotation, one scale, shift) or ``affine``.
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
    size = sample_size(kind, rank)
    required = size + min_extra_inliers
    samples = _samples(len(fixed_lps), size, seed)
    for affine_lps in _most_inliers(samples, kind, (fixed_lps, moving_lps), inlier_distance_mm):
        candidate = _score(affine_lps, kind, fixed_lps, moving_lps, inlier_distance_mm)
        if candidate.inlier_count >= required and _is_better(candidate, best, min_extra_inliers):
            best = candidate
    return _refit_on_inliers(best, fixed_lps, moving_lps, inlier_distance_mm)


def sample_size(kind: str, rank: int) -> int:
    """How many matches define a transform.

    Example:
        >>> [sample_size(kind, 3) for kind in ("translation", "similarity", "affine")]
        [1, 3, 4]
    """
    return {"translation": 1, "similarity": rank, "affine": rank + 1}[kind]


def _most_inliers(
    samples: NDArray[np.int64], kind: str, points: tuple[Floats, Floats], inlier_distance_mm: float
) -> NDArray[np.float64]:
    """(K, rank + 1, rank + 1): the transforms of all samples that have most inliers."""
    fixed, moving = points
    transforms = _fit_samples(fixed[samples], moving[samples], kind)
    counts = np.zeros(len(transforms), np.int64)
    step = max(1, SCORED_AT_ONCE // max(1, len(fixed)))
    for first in range(0, len(transforms), step):
        some = transforms[first : first + step]
        apart = some[:, :-1, :-1] @ fixed.T + some[:, :-1, -1:] - moving.T
        squared = np.square(apart, out=apart).sum(1)
        counts[first : first + step] = (squared <= inlier_distance_mm**2).sum(1)
    best = np.flatnonzero(counts == counts.max()) if len(counts) else counts
    return transforms[best[:MOST_TIES]]


def _is_better(candidate: Alignment, best: Alignment, min_extra_inliers: int) -> bool:
    """More inliers win. The identity is replaced only if the gain exceeds the sample size."""
    if best.kind == "identity" and min_extra_inliers:
        size = sample_size(candidate.kind, len(candidate.affine_lps) - 1)
        return candidate.inlier_count > best.inlier_count + size
    return (candidate.inlier_count, -candidate.residual_mm) > (best.inlier_count, -best.residual_mm)


def _refit_on_inliers(
    best: Alignment, fixed: Floats, moving: Floats, inlier_distance_mm: float
) -> Alignment:
    """Repeat least squares on the inliers until an inlier would be lost."""
    if best.kind == "identity":
        return best
    for _ in range(REFITS):
        affine_lps = fit(fixed[best.inliers], moving[best.inliers], best.kind)
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


def _samples(count: int, size: int, seed: int) -> NDArray[np.int64]:
    """(S, size): all subsets of a size if they are few, else random ones."""
    if count < size:
        return np.zeros((0, size), np.int64)
    if comb(count, size) <= MAX_SAMPLES:
        return np.array(list(combinations(range(count), size)), np.int64)
    generator = np.random.default_rng(seed_of(seed))
    return generator.random((MAX_SAMPLES, count)).argpartition(size, 1)[:, :size].astype(np.int64)


def _fit_samples(fixed: Floats, moving: Floats, kind: str) -> NDArray[np.float64]:
    """Fit each sample of as many matches as define a transform: (S, size, rank) each.

    Returns:
        (K, rank + 1, rank + 1), without samples that do not determine a transform or whose scale
        is impossible.
    """
    count, _, rank = fixed.shape
    linear: NDArray[np.float64] = np.tile(np.eye(rank), (count, 1, 1))
    good = np.ones(count, bool)
    if kind == "similarity":
        linear, good = _turned_and_scaled(fixed, moving)
    elif kind == "affine":
        a, b = (p[:, 1:] - p[:, :1] for p in (fixed, moving))
        # Points nearly on one line or plane determine nothing across it.
        good = np.abs(np.linalg.det(a)) > 1e-3 * (a**2).sum((1, 2)) ** (rank / 2)
        a = np.where(good[:, None, None], a, np.eye(rank))
        linear = np.asarray(np.linalg.solve(a, b).transpose(0, 2, 1), np.float64)
    scales = np.linalg.svd(linear, compute_uv=False)
    good &= (scales.min(1) >= SCALE_RANGE[0]) & (scales.max(1) <= SCALE_RANGE[1])
    transforms = np.tile(np.eye(rank + 1), (count, 1, 1))
    transforms[:, :rank, :rank] = linear
    transforms[:, :rank, rank] = moving.mean(1) - np.einsum("sij,sj->si", linear, fixed.mean(1))
    return np.asarray(transforms[good], np.float64)


def _turned_and_scaled(
    fixed: Floats, moving: Floats
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """A rotation times a scale for each sample by least squares, and whether it is determined.

    Source:
        Umeyama, Least-squares estimation of transformation parameters between two point patterns,
        IEEE TPAMI 13 (4), 1991.
    """
    rank = fixed.shape[2]
    a, b = (p - p.mean(1, keepdims=True) for p in (fixed, moving))
    spread = (a**2).sum((1, 2))
    left, stretch, right = np.linalg.svd(np.einsum("sni,snj->sij", b, a))
    sign = np.ones_like(stretch)
    sign[:, -1] = np.sign(np.linalg.det(left @ right))
    scale = (stretch * sign).sum(1) / np.maximum(spread, 1e-12)
    linear = scale[:, None, None] * ((left * sign[:, None]) @ right)
    good = (spread >= 1e-9) & (stretch[:, rank - 2] > 1e-3 * stretch[:, 0])
    return linear, good


def fit(fixed: Floats, moving: Floats, kind: str) -> Matrix | None:
    """Fit by least squares; None if the points do not determine it or its scale is impossible.

    Args:
        fixed, moving: (N, rank) points.
        kind: ``translation``, ``similarity`` or ``affine``.

    Example:
        >>> square = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
        >>> turned = square[:, ::-1] * [-1.0, 1.0]
        >>> fit(square, turned, "similarity").round(6).tolist()[0]
        [0.0, -1.0, 0.0]
    """
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
        linear, good = _turned_and_scaled(fixed[None], moving[None])
        if not good[0]:
            return None
        affine_lps[:rank, :rank] = linear[0]
    else:
        if np.linalg.matrix_rank(a, tol=1e-3 * spread**0.5) < rank:
            return None
        affine_lps[:rank, :rank] = np.linalg.lstsq(a, b, rcond=None)[0].T
    scales = np.linalg.svd(affine_lps[:rank, :rank], compute_uv=False)
    if scales.min() < SCALE_RANGE[0] or scales.max() > SCALE_RANGE[1]:
        return None
    affine_lps[:rank, rank] = moving.mean(0) - affine_lps[:rank, :rank] @ fixed.mean(0)
    return affine_lps
