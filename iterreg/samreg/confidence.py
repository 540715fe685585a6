"""How sure it is that two matched regions show the same structure.

A pair is right if its masks overlap by half (intersection over union) behind the true alignment.
How often that holds was measured on pairs whose true alignment is known, from the overlap behind
the alignment that was found and the similarity of the regions. Without a supported alignment
nothing is known.

Source: ``benchmarks/samreg_confidence.py``, which fits the weights on one half of the pairs of
images and counts on the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

RIGHT_IOU = 0.5
"""Overlap behind the true alignment that makes a pair right."""

WEIGHTS = (-2.14, 7.95, 1.05)
"""Of the constant, the overlap and the similarity, in a logistic regression."""

USUAL_SIMILARITY, SIMILARITY_STEP = 0.95, 0.05
"""Similarities of matched regions lie between 0.8 and 1."""


@dataclass(frozen=True)
class Evidence:
    """What is known of two matched regions.

    Args:
        overlap: intersection over union behind the alignment that was found, 0 to 1.
        similarity: cosine of their prototypes.
    """

    overlap: float
    similarity: float

    @property
    def values(self) -> tuple[float, float, float]:
        """What the weights are multiplied with."""
        similarity = (self.similarity - USUAL_SIMILARITY) / SIMILARITY_STEP
        return 1.0, self.overlap, similarity

    @property
    def confidence(self) -> float:
        """Probability that the pair is right.

        Example:
            >>> Evidence(0.9, 0.99).confidence > 0.9 > 0.5 > Evidence(0.1, 0.85).confidence
            True
        """
        score = sum(w * v for w, v in zip(WEIGHTS, self.values, strict=True))
        return 1 / (1 + math.exp(-score))


def confidence_of(evidence: Sequence[Evidence]) -> float:
    """The confidence of a pair that was matched in one slice or several: their mean."""
    return sum(e.confidence for e in evidence) / len(evidence)
