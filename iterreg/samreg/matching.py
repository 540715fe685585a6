"""Prototypes compared and matched: one matrix product, then an assignment.

Source: SAMReg (arXiv 2410.14083), eq. 6-9 and algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iterreg.errors import ConfigError

Floats = NDArray[np.float64]

RULES = ("one-to-one", "one-to-many", "mutual", "optimal")


@dataclass(frozen=True)
class MatchSettings:
    """How regions of interest are matched.

    Args:
        threshold: least cosine similarity of a pair, times its prior; the papers' 0.8.
        rule: ``one-to-one`` takes the most similar pair, then the most similar of what is left
            (the papers'); ``one-to-many`` gives each ROI of either image its most similar partner;
            ``mutual`` keeps those that are each other's; ``optimal`` is one to one with the largest
            sum of similarities above the threshold.
        pairs: most pairs, of structures where slices are linked to such; None: all.
        slice_range: slices on either side of the nearest one in which a partner may lie.
        centre: subtract the mean embedding of both images first.
        prior: standard deviation of how far partners lie apart once the images are roughly
            aligned, as a share of the picture's diagonal; 0: no such prior.
    """

    threshold: float = 0.8
    rule: str = "one-to-one"
    pairs: int | None = None
    slice_range: int = 11
    centre: bool = False
    prior: float = 0.1

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ConfigError(f"match: expected one of {', '.join(RULES)}, got {self.rule!r}")
        if not -1 <= self.threshold <= 1:
            raise ConfigError(f"threshold: expected -1 to 1, got {self.threshold}")
        if self.pairs is not None and self.pairs < 1:
            raise ConfigError(f"pairs: expected at least 1, got {self.pairs}")
        if self.slice_range < 0:
            raise ConfigError(f"slice_range: expected at least 0, got {self.slice_range}")


@dataclass(frozen=True)
class Match:
    """A pair: which fixed ROI, which moving ROI, how similar."""

    fixed: int
    moving: int
    similarity: float


def similarities(fixed: Tensor, moving: Tensor, mean: Tensor | None = None) -> Floats:
    """Cosine similarity of all prototypes: (N, C) and (M, C) to (N, M).

    Args:
        fixed, moving: prototypes.
        mean: (C,), subtracted first; None leaves them as they are.
    """
    if mean is not None:
        fixed, moving = fixed - mean, moving - mean
    a, b = (torch.nn.functional.normalize(p.double(), dim=1) for p in (fixed, moving))
    return np.asarray((a @ b.T).clamp(-1, 1).numpy(), np.float64)


def assign(
    similarity: Floats,
    allowed: NDArray[np.bool_],
    settings: MatchSettings,
    weight: Floats | None = None,
) -> list[Match]:
    """Pairs of ROIs.

    Args:
        similarity: (N, M) cosines.
        allowed: (N, M), whether a pair may be at all.
        settings: the rule and the threshold.
        weight: (N, M) 0 to 1, the prior: multiplied into the similarity.

    Returns:
        Matches, the most similar first.
    """
    score = similarity if weight is None else similarity * weight
    score = np.where(allowed & (score >= settings.threshold), score, -np.inf)
    if not np.isfinite(score).any():
        return []
    found = _RULES[settings.rule](score)
    found.sort(key=lambda pair: -score[pair])
    return [Match(i, j, float(similarity[i, j])) for i, j in found]


def _greedy(score: Floats) -> list[tuple[int, int]]:
    rows, columns = np.nonzero(np.isfinite(score))
    free_rows, free_columns = (np.ones(n, bool) for n in score.shape)
    found = []
    for k in np.argsort(-score[rows, columns], kind="stable"):
        i, j = int(rows[k]), int(columns[k])
        if free_rows[i] and free_columns[j]:
            found.append((i, j))
            free_rows[i] = free_columns[j] = False
    return found


def _best_of_rows(score: Floats) -> set[tuple[int, int]]:
    best = score.argmax(1)
    return {(i, int(j)) for i, j in enumerate(best) if np.isfinite(score[i, j])}


def _best_of_both(score: Floats) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
    return _best_of_rows(score), {(i, j) for j, i in _best_of_rows(score.T)}


def _many(score: Floats) -> list[tuple[int, int]]:
    rows, columns = _best_of_both(score)
    return sorted(rows | columns)


def _mutual(score: Floats) -> list[tuple[int, int]]:
    rows, columns = _best_of_both(score)
    return sorted(rows & columns)


def _optimal(score: Floats) -> list[tuple[int, int]]:
    from scipy.optimize import linear_sum_assignment

    finite = np.isfinite(score)
    low = score[finite].min()
    gain = np.where(finite, score - low + 1e-6, 0.0)
    rows, columns = linear_sum_assignment(gain, maximize=True)
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if finite[i, j]]


_RULES = {"one-to-one": _greedy, "one-to-many": _many, "mutual": _mutual, "optimal": _optimal}
