"""The verdict on a result: ok, doubtful or failed, with reasons, figures, limits and advice.

The energy did not minimise the evidence (:mod:`iterreg.optimize.evidence`). Presets have limits.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from iterreg.config import Limits
from iterreg.metrics import ImageSimilarity

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
class Evidence:
    """Measures of a result that the energy did not minimise.

    Args:
        before, after: similarity of the images without and with the transform, inside the common
            field of view, on a coarse grid.
        inconsistency_median_mm, inconsistency_p95_mm: how far from its start a fixed point ends
            after this registration and a second, coarse one of moving to fixed; over points with
            structure, inside the regions if there are any. NaN without such points.
        affine_volume: determinant of the affine.
        affine_stretch: its longest stretch or strongest compression, at least 1.
        affine_shear_deg: largest change of a right angle between two axes.
        common_view: share of the fixed field of view that lands in the moving one, 0 to 1.
        region_dice: Dice of each region inside the common view, by name.
        region_distance_mm: distance of each region's centres after the registration, by name.
        region_volume: of each region that must keep its volume, the ratio after to before, by name.
        landmarks_mm: mean distance of the landmarks that guided the result; NaN without any.
        interior_folds: voxels that fold inside regions.
        improved: whether the energy is no higher than without any displacement.
        better_flip: which flip of the moving image fits clearly better, in words; else empty.

    Example:
        >>> from iterreg.metrics import ImageSimilarity
        >>> alike = ImageSimilarity(0.98, 0.9, 0.3)
        >>> Evidence(alike, alike, 0.4, 1.0, 1.02, 1.05, 1.0, 0.9, {}, {}).common_view
        0.9
    """

    before: ImageSimilarity
    after: ImageSimilarity
    inconsistency_median_mm: float
    inconsistency_p95_mm: float
    affine_volume: float
    affine_stretch: float
    affine_shear_deg: float
    common_view: float
    region_dice: dict[str, float]
    region_distance_mm: dict[str, float]
    region_volume: dict[str, float] = dataclasses.field(default_factory=dict)
    landmarks_mm: float = math.nan
    interior_folds: int = 0
    improved: bool = True
    better_flip: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain tables, as in ``run.json``."""
        return dataclasses.asdict(self)


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


def judge(evidence: Evidence, limits: Limits) -> Verdict:
    """Judge a result.

    Args:
        evidence: what was measured.
        limits: of the preset.

    Returns:
        ok without a reason; failed if reasons of two kinds confirm each other or one figure is far
        beyond its limit; else doubtful.

    Example:
        >>> alike = ImageSimilarity(0.98, 0.9, 0.3)
        >>> evidence = Evidence(alike, alike, 0.4, 1.0, 1.02, 1.05, 1.0, 0.9, {}, {})
        >>> judge(evidence, Limits()).status.value
        'ok'
        >>> apart = dataclasses.replace(evidence, common_view=0.01)
        >>> judge(apart, Limits()).headline
        'failed: only 1 % of the fixed image has a partner in the moving one (limit 0.25)'
    """
    reasons = tuple(_reasons(evidence, limits))
    kinds = {reason.kind for reason in reasons}
    is_failed = len(kinds) > 1 or any(reason.far_off for reason in reasons)
    status = Status.FAILED if is_failed else Status.DOUBTFUL if reasons else Status.OK
    return Verdict(status, reasons, evidence)


def _reasons(found: Evidence, limits: Limits) -> Iterator[Reason]:
    """Everything that misses its limit, what explains most first."""
    if found.better_flip:
        message = f"the moving image fits better when it is {found.better_flip}"
        yield Reason(Kind.ORIENTATION, message)
    yield from _regions(found, limits)
    if found.common_view < limits.least_common_view:
        share = f"{100 * found.common_view:.0f} %"
        message = f"only {share} of the fixed image has a partner in the moving one"
        yield Reason(Kind.VIEW, message, found.common_view, limits.least_common_view)
    yield from _similarity(found.after, limits)
    error_mm, most_mm = found.inconsistency_median_mm, limits.most_inconsistency_mm
    if error_mm > most_mm:
        message = f"there and back, a point ends {error_mm:.1f} mm from where it began"
        yield Reason(Kind.CONSISTENCY, message, error_mm, most_mm, "mm")
    yield from _affine(found, limits)
    if found.landmarks_mm > limits.most_landmark_error_mm:
        message = f"the landmarks stay {found.landmarks_mm:.1f} mm apart"
        most_mm = limits.most_landmark_error_mm
        yield Reason(Kind.LANDMARKS, message, found.landmarks_mm, most_mm, "mm")
    for name, ratio in found.region_volume.items():
        percent, most = 100 * abs(ratio - 1), limits.most_volume_change_percent
        if percent > most:
            message = f"the volume of {name} changes by {percent:.1f} %"
            yield Reason(Kind.VOLUME, message, percent, most, "%")
    if found.interior_folds:
        message = f"{found.interior_folds} voxels fold inside a region"
        yield Reason(Kind.FOLDS, message, found.interior_folds, 0, "voxels")
    if not found.improved:
        yield Reason(Kind.START, "the result is no better than the start")


def _regions(found: Evidence, limits: Limits) -> Iterator[Reason]:
    """Regions that end apart, the worst first."""
    for name, value in sorted(found.region_dice.items(), key=lambda item: item[1]):
        if value < limits.least_region_dice:
            message = f"the regions {name} have a Dice of {value:.2f} after the registration"
            if math.isfinite(apart_mm := found.region_distance_mm.get(name, math.nan)):
                message += f", their centres are {apart_mm:.0f} mm apart"
            yield Reason(Kind.REGIONS, message, value, limits.least_region_dice)


def _similarity(after: ImageSimilarity, limits: Limits) -> Iterator[Reason]:
    """Images that do not look alike after the registration."""
    names = {"ncc": "correlate by", "lncc": "correlate locally by", "nmi": "share information of"}
    for name, words in names.items():
        value, least = getattr(after, name), getattr(limits, f"least_{name}")
        if value < least:
            message = f"after the registration the images {words} only {value:.2f}"
            yield Reason(Kind.SIMILARITY, message, value, least)


def _affine(found: Evidence, limits: Limits) -> Iterator[Reason]:
    """An affine beyond what bodies do."""
    volume, stretch, shear_deg = found.affine_volume, found.affine_stretch, found.affine_shear_deg
    if not 1 / limits.most_affine_volume <= volume <= limits.most_affine_volume:
        message = f"the affine changes the volume by a factor of {volume:.3g}"
        yield Reason(Kind.AFFINE, message, volume, limits.most_affine_volume)
    if stretch > limits.most_affine_stretch:
        message = f"the affine stretches an axis by a factor of {stretch:.3g}"
        yield Reason(Kind.AFFINE, message, stretch, limits.most_affine_stretch)
    if shear_deg > (most := limits.most_affine_shear_deg):
        message = f"the affine shears by {shear_deg:.0f} degrees"
        yield Reason(Kind.AFFINE, message, shear_deg, most, "degrees")
