"""Compare prototypes with one matrix product, then assign partners.

Source: SAMReg (arXiv 2410.14083), eq. 6-9 and algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iterreg.errors import ConfigError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MatchSettings:
    """Settings that decide how regions of interest are matched.

    Args:
        threshold: least cosine similarity, times the prior, of a pair; 0.8 in the papers.
        rule: ``one-to-one`` repeatedly takes the most similar pair of the regions that are left (as
            the papers do); ``one-to-many`` gives each region of either image its most similar
            partner; ``mutual`` keeps pairs that are each other's most similar partner; ``optimal``
            is one-to-one with the largest sum of similarities above the threshold.
        pairs: most pairs; in volumes, most linked structures. None keeps all.
        slice_range: a partner may lie up to this many slices from the physically nearest one.
        centre: subtract the mean embedding of both images first.
        prior: standard deviation of the distance between partners after a rough alignment, as a
            fraction of the picture's diagonal; 0 compares by appearance alone.
    """

    threshold: float = 0.8
    rule: str = "one-to-one"
    pairs: int | None = None
    slice_range: int = 11
    centre: bool = False
    prior: float = 0.1

    def __post_init__(self) -> None:
        if self.rule not in MATCHING_RULES:
            raise ConfigError(
                f"match: expected one of {', '.join(MATCHING_RULES)}, got {self.rule!r}"
            )
        if not -1 <= self.threshold <= 1:
            raise ConfigError(f"threshold: expected -1 to 1, got {self.threshold}")
        if self.pairs is not None and self.pairs < 1:
            raise ConfigError(f"pairs: expected at least 1, got {self.pairs}")
        if self.slice_range < 0:
            raise ConfigError(f"slice_range: expected at least 0, got {self.slice_range}")


@dataclass(frozen=True)
class Match:
    """A pair: the indices of its fixed and its moving ROI, and their similarity."""

    fixed: int
    moving: int
    similarity: float


def cosine_similarities(fixed: Tensor, moving: Tensor, mean: Tensor | None = None) -> Floats:
    """Compute the cosine similarity of all prototypes: (N, C) and (M, C) to (N, M).

    Args:
        fixed, moving: prototypes.
        mean: (C,), subtracted from both first; None subtracts nothing.

    Example:
        >>> fixed = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> cosine_similarities(fixed, torch.tensor([[0.0, 1.0]])).tolist()
        [[0.0], [1.0]]
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
    """Choose pairs of ROIs.

    Args:
        similarity: (N, M) cosines.
        allowed: (N, M), False for pairs that are excluded.
        settings: the rule and the threshold.
        weight: (N, M) 0 to 1, the prior; scores are similarity times weight.

    Returns:
        Matches, the highest score first.

    Example:
        >>> similarity = np.array([[0.9, 0.85], [0.95, 0.2]])
        >>> matches = assign(similarity, similarity > 0, MatchSettings(rule="one-to-one"))
        >>> [(match.fixed, match.moving) for match in matches]
        [(1, 0), (0, 1)]
    """
    score = similarity if weight is None else similarity * weight
    score = np.where(allowed & (score >= settings.threshold), score, -np.inf)
    if not np.isfinite(score).any():
        return []
    pairs = MATCHING_RULES[settings.rule](score)
    pairs.sort(key=lambda pair: -score[pair])
    return [Match(i, j, float(similarity[i, j])) for i, j in pairs]


def _greedy(score: Floats) -> list[tuple[int, int]]:
    rows, columns = np.nonzero(np.isfinite(score))
    free_rows, free_columns = (np.ones(n, bool) for n in score.shape)
    pairs = []
    for k in np.argsort(-score[rows, columns], kind="stable"):
        i, j = int(rows[k]), int(columns[k])
        if free_rows[i] and free_columns[j]:
            pairs.append((i, j))
            free_rows[i] = free_columns[j] = False
    return pairs


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


MATCHING_RULES: dict[str, Callable[[Floats], list[tuple[int, int]]]] = {
    "one-to-one": _greedy,
    "one-to-many": _many,
    "mutual": _mutual,
    "optimal": _optimal,
}
"""The rules by name: each takes (N, M) scores, -inf for excluded pairs, and gives index pairs."""
