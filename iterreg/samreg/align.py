"""The transform that most matched regions agree on: large offsets, found from centroids alone.

Fundus photographs and aerial pictures of one place differ by a rotation, a scale and a shift that
no optimiser should have to cross. Wrong matches are many, so the transform is the one with the most
matches near it, refined on these.
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

KINDS = ("translation", "similarity", "affine")
NEEDED = {"translation": 1, "similarity": 2, "affine": 3}

LEAST_SUPPORT = 3
"""Matches beyond those that define a transform, which must agree with it."""

TRIALS = 4000
"""Most samples; all of them where there are fewer."""

SCALES = (0.5, 2.0)
"""A scale outside this is a wrong match."""


@dataclass(frozen=True)
class Alignment:
    """A transform from fixed to moving points, and how well it is supported.

    Args:
        affine_lps: homogeneous, (rank + 1, rank + 1).
        kind: translation, similarity, affine, or identity.
        inliers: which matches agree, (N,) bool.
        residual_mm: their median distance.
    """

    affine_lps: Matrix
    kind: str
    inliers: NDArray[np.bool_]
    residual_mm: float

    def __repr__(self) -> str:
        return f"Alignment({self.summary})"

    @property
    def summary(self) -> str:
        """The kind, and how many matches agree how well."""
        return (
            f"{self.kind}: {int(self.inliers.sum())} of {self.inliers.size} matches agree within "
            f"{self.residual_mm:.1f} mm"
        )


def align(
    fixed_lps: Floats,
    moving_lps: Floats,
    reach_mm: float,
    kind: str = "similarity",
    seed: int = 0,
    least_support: int = LEAST_SUPPORT,
) -> Alignment:
    """The transform that most pairs of points agree on.

    Args:
        fixed_lps, moving_lps: (N, rank), centroids of matched regions.
        reach_mm: how near a pair must land to agree.
        kind: ``translation``, ``similarity`` (rotation, one scale, shift; rank 2) or ``affine``
            (rank 2).
        seed: of the samples.
        least_support: pairs beyond those that define the transform, which must agree with it; 0
            where there is no other evidence, so that even the identity is no better.

    Returns:
        The transform; the identity where it is supported as well, or nothing is.
    """
    rank = fixed_lps.shape[1]
    best = _judged(np.eye(rank + 1), "identity", fixed_lps, moving_lps, reach_mm)
    needed = NEEDED[kind]
    for sample in _samples(len(fixed_lps), needed, seed):
        model = _fit(fixed_lps[sample], moving_lps[sample], kind)
        if model is None:
            continue
        found = _judged(model, kind, fixed_lps, moving_lps, reach_mm)
        if _support(found) >= needed + least_support and _better(found, best, least_support):
            best = found
    return _polished(best, fixed_lps, moving_lps, reach_mm)


def _support(found: Alignment) -> int:
    return int(found.inliers.sum())


def _better(one: Alignment, other: Alignment, least_support: int) -> bool:
    """More agree; the identity is only given up for more than the pairs that define the rest."""
    own, theirs = _support(one), _support(other)
    if other.kind == "identity" and least_support:
        return own > theirs + NEEDED[one.kind]
    return (own, -one.residual_mm) > (theirs, -other.residual_mm)


def _polished(found: Alignment, fixed: Floats, moving: Floats, reach_mm: float) -> Alignment:
    """Least squares on those that agree, a few times, as long as no support is lost."""
    if found.kind == "identity":
        return found
    for _ in range(5):
        model = _fit(fixed[found.inliers], moving[found.inliers], found.kind)
        if model is None:
            break
        again = _judged(model, found.kind, fixed, moving, reach_mm)
        if _support(again) < _support(found):
            break
        found = again
    return found


def _judged(model: Matrix, kind: str, fixed: Floats, moving: Floats, reach_mm: float) -> Alignment:
    distance = np.linalg.norm(apply_affine(model, fixed) - moving, axis=1)
    inliers = distance <= reach_mm
    residual = float(np.median(distance[inliers])) if inliers.any() else float("inf")
    return Alignment(model, kind, inliers, residual)


def _samples(count: int, needed: int, seed: int) -> Iterator[list[int]]:
    """All subsets where they are few, random ones otherwise."""
    if count < needed:
        return
    if comb(count, needed) <= TRIALS:
        yield from (list(c) for c in combinations(range(count), needed))
        return
    generator = np.random.default_rng(seed)
    for _ in range(TRIALS):
        yield generator.choice(count, needed, replace=False).tolist()


def _fit(fixed: Floats, moving: Floats, kind: str) -> Matrix | None:
    """Least squares; None where the points do not say, or say a scale that cannot be."""
    rank = fixed.shape[1]
    model = np.eye(rank + 1)
    if kind == "translation":
        model[:rank, rank] = (moving - fixed).mean(0)
        return model
    a, b = fixed - fixed.mean(0), moving - moving.mean(0)
    spread = float((a**2).sum())
    if spread < 1e-9:
        return None
    if kind == "similarity":
        cosine = (a * b).sum() / spread
        sine = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / spread
        model[:2, :2] = [[cosine, -sine], [sine, cosine]]
    else:
        if np.linalg.matrix_rank(a, tol=1e-3 * spread**0.5) < rank:
            return None
        model[:rank, :rank] = np.linalg.lstsq(a, b, rcond=None)[0].T
    scale = np.linalg.svd(model[:rank, :rank], compute_uv=False)
    if scale.min() < SCALES[0] or scale.max() > SCALES[1]:
        return None
    model[:rank, rank] = moving.mean(0) - model[:rank, :rank] @ fixed.mean(0)
    return model
