"""Status, reason and verdict."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

from iterreg.verdict.evidence import Evidence

FAR_OFF = 3.0  # a figure that misses its limit by this factor is enough for ``failed``


class Status(Enum):
    """How far a result can be trusted; the value is the word for a person.

    Example:
        >>> Status.OK.is_ok, Status.DOUBTFUL.is_ok
        (True, False)
    """

    OK = "ok"
    DOUBTFUL = "doubtful"
    FAILED = "failed"

    @property
    def is_ok(self) -> bool:
        """Whether the result can be used as it is."""
        return self is Status.OK


class Kind(Enum):
    """What a reason is about. Two reasons of different kinds confirm each other.

    Example:
        >>> Kind.SIMILARITY.value
        'similarity'
    """

    SIMILARITY = "similarity"
    CONSISTENCY = "consistency"
    AFFINE = "affine"
    VIEW = "view"
    REGIONS = "regions"
    LABELS = "labels"
    LANDMARKS = "landmarks"
    VOLUME = "volume"
    ORIENTATION = "orientation"
    FOLDS = "folds"
    START = "start"
    SUPPORT = "support"


ADVICE = {
    Kind.SIMILARITY: "look at both images: do they show the same anatomy in the same orientation?",
    Kind.CONSISTENCY: "give label maps, landmarks or an initial transform",
    Kind.AFFINE: "check spacing and orientation in both headers, or allow less: start.affine=rigid",
    Kind.VIEW: "check origin and orientation in both headers, or give an initial transform",
    Kind.REGIONS: "look at the regions in the report: is each the same anatomy in both images?",
    Kind.LABELS: "was the label map of one image given for both?",
    Kind.LANDMARKS: "check that both lists are in LPS mm and in the same order",
    Kind.VOLUME: "look at the region in both images: is its outline right?",
    Kind.ORIENTATION: "check how the moving image was exported, and correct its header",
    Kind.FOLDS: "raise smoothness.weight, or check the label maps",
    Kind.START: "check the pair, its headers and the preset",
    Kind.SUPPORT: "look at both images in the report: do structures lie on each other?",
}


@dataclass(frozen=True)
class Reason:
    """Why a result is not ok.

    Args:
        kind: what it is about.
        message: what was found, in one sentence without an end.
        figure, limit: the measure and what the preset allows; NaN if there is no number.
        unit: of both; empty for a ratio.
        advice: what to check or try.

    Example:
        >>> from iterreg.verdict import Kind
        >>> reason = Reason(Kind.VIEW, "12 % of the fixed image has a partner", 0.12, 0.3)
        >>> reason.advice[:12]
        'check origin'
    """

    kind: Kind
    message: str
    figure: float = math.nan
    limit: float = math.nan
    unit: str = ""

    @property
    def advice(self) -> str:
        """What to check or try."""
        return ADVICE[self.kind]

    @property
    def words(self) -> str:
        """The message, with the limit if there is one."""
        if not math.isfinite(self.limit):
            return self.message
        return f"{self.message} (limit {self.limit:.3g}{self.unit and ' '}{self.unit})"

    @property
    def far_off(self) -> bool:
        """Whether the figure misses its limit so far that no second reason is needed."""
        if self.kind is Kind.CONSISTENCY:
            return self.figure > FAR_OFF * self.limit
        return self.kind in (Kind.VIEW, Kind.SIMILARITY) and self.figure < self.limit / FAR_OFF

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in ``run.json``."""
        values = dataclasses.asdict(self)
        return values | {"kind": self.kind.value, "advice": self.advice}


@dataclass(frozen=True)
class Verdict:
    """Whether a result can be trusted, and why not.

    Args:
        status: ok, doubtful or failed.
        reasons: the weightiest first; empty if ok.
        evidence: everything that was measured.

    Example:
        >>> from iterreg.metrics import ImageSimilarity
        >>> alike = ImageSimilarity(0.98, 0.9, 0.3)
        >>> evidence = Evidence(alike, alike, 0.4, 1.0, 1.02, 1.05, 1.0, 0.9, {}, {})
        >>> Verdict(Status.OK, (), evidence).headline
        'ok'
    """

    status: Status
    reasons: tuple[Reason, ...]
    evidence: Evidence

    @property
    def headline(self) -> str:
        """The status, and the first reason if there is one, in one line."""
        if not self.reasons:
            return self.status.value
        return f"{self.status.value}: {self.reasons[0].words}"

    def to_dict(self) -> dict[str, Any]:
        """Plain tables, as in ``run.json``."""
        return {
            "status": self.status.value,
            "reasons": [reason.to_dict() for reason in self.reasons],
            "evidence": self.evidence.to_dict(),
        }
