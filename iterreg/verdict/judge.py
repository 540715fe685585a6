"""Which measures miss the limits of the preset, and what follows."""

from __future__ import annotations

import math
from collections.abc import Iterator

from iterreg.config import Limits
from iterreg.metrics import ImageSimilarity
from iterreg.verdict.evidence import Evidence
from iterreg.verdict.types import Kind, Reason, Status, Verdict

PART_OFF = 4.0
"""The median hides a fault at the ends of an image, where one point in ten lies. Then the 95th
percentile is 4.7 to 6.1 times the median. It is 2.5 to 3.9 times as large where all points are
equally unsure, as on a cone-beam scan."""

MOST_DIGITS = 6
"""After the point, of a figure that just misses its limit."""

ALIKE_DICE = 0.998
"""Two people's contours, or two phases', never lie on each other so well before a registration."""

ALIKE_LNCC = 0.95
"""Images of one moment, which may have the same contours, correlate locally at least so well."""


def judge(evidence: Evidence, limits: Limits) -> Verdict:
    """Judge a result.

    Args:
        evidence: what was measured.
        limits: of the preset.

    Returns:
        ok without a reason; failed if reasons of two kinds confirm each other or one figure is far
        beyond its limit; else doubtful.

    Example:
        >>> from dataclasses import replace
        >>> from iterreg.metrics import ImageSimilarity
        >>> alike = ImageSimilarity(0.98, 0.9, 0.3)
        >>> evidence = Evidence(alike, alike, 0.4, 1.0, 1.02, 1.05, 1.0, 0.9, {}, {})
        >>> judge(evidence, Limits()).status.value
        'ok'
        >>> apart = replace(evidence, common_view=0.01)
        >>> judge(apart, Limits()).headline
        'failed: only 1 % of the fixed image has a partner in the moving one (limit 0.25)'
    """
    reasons = tuple(_reasons(evidence, limits))
    kinds = {reason.kind for reason in reasons}
    if not reasons:
        status = Status.OK
    elif len(kinds) > 1 or any(reason.far_off for reason in reasons):
        status = Status.FAILED
    else:
        status = Status.DOUBTFUL
    return Verdict(status, reasons, evidence)


def _reasons(found: Evidence, limits: Limits) -> Iterator[Reason]:
    """Everything that misses its limit, what explains most first."""
    if found.better_flip:
        message = f"the moving image fits better when it is {found.better_flip}"
        yield Reason(Kind.ORIENTATION, message)
    yield from _same_labels(found)
    yield from _regions(found, limits)
    if found.common_view < limits.least_common_view:
        share = f"{_told(100 * found.common_view, 100 * limits.least_common_view, 0)} %"
        message = f"only {share} of the fixed image has a partner in the moving one"
        yield Reason(Kind.VIEW, message, found.common_view, limits.least_common_view)
    yield from _similarity(found.after, limits)
    error_mm, most_mm = found.inconsistency_median_mm, limits.most_inconsistency_mm
    if error_mm > most_mm:
        message = (
            f"there and back, a point ends {_told(error_mm, most_mm, 1)} mm from where it began"
        )
        yield Reason(Kind.CONSISTENCY, message, error_mm, most_mm, "mm")
    part_mm, most_mm = found.inconsistency_p95_mm, limits.most_inconsistency_p95_mm
    if part_mm > most_mm and part_mm > PART_OFF * error_mm:
        part = _told(part_mm, most_mm, 1)
        message = f"there and back, a part of the points ends {part} mm from where it began"
        yield Reason(Kind.CONSISTENCY, message, part_mm, most_mm, "mm")
    yield from _affine(found, limits)
    if found.landmarks_mm > limits.most_landmark_error_mm:
        limit_mm = limits.most_landmark_error_mm
        message = f"the landmarks stay {_told(found.landmarks_mm, limit_mm, 1)} mm apart"
        yield Reason(Kind.LANDMARKS, message, found.landmarks_mm, limit_mm, "mm")
    for name, ratio in found.region_volume.items():
        percent, most = 100 * abs(ratio - 1), limits.most_volume_change_percent
        if percent > most:
            message = f"the volume of {name} changes by {_told(percent, most, 1)} %"
            yield Reason(Kind.VOLUME, message, percent, most, "%")
    if found.interior_folds:
        message = f"{found.interior_folds} voxels fold inside a region"
        yield Reason(Kind.FOLDS, message, found.interior_folds, 0, "voxels")
    yield from _worse(found, limits)


def _told(value: float, limit: float, digits: int) -> str:
    """A value in so many digits after the point, or in as many as tell it from its limit."""
    while digits < MOST_DIGITS and f"{value:.{digits}f}" == f"{limit:.{digits}f}":
        digits += 1
    return f"{value:.{digits}f}"


def _same_labels(found: Evidence) -> Iterator[Reason]:
    """Labels of one image that were given for both: they hold the field where it begins."""
    least = min(found.region_dice_before.values(), default=0.0)
    alike = found.before.lncc
    if least >= ALIKE_DICE and alike < ALIKE_LNCC:
        message = (
            "the regions of both images are the same before the registration, and the images are "
            f"not: they correlate locally by {alike:.2f}"
        )
        yield Reason(Kind.LABELS, message, alike, ALIKE_LNCC)


def _regions(found: Evidence, limits: Limits) -> Iterator[Reason]:
    """Regions that end apart, the worst first."""
    by_dice = sorted(found.region_dice.items(), key=lambda item: item[1])
    for name, value in by_dice:
        if value < limits.least_region_dice:
            apart_mm = found.region_distance_mm.get(name, math.nan)
            dice = _told(value, limits.least_region_dice, 2)
            message = f"the regions {name} have a Dice of {dice} after the registration"
            if math.isfinite(apart_mm):
                message += f", their centres are {apart_mm:.0f} mm apart"
            yield Reason(Kind.REGIONS, message, value, limits.least_region_dice)


def _worse(found: Evidence, limits: Limits) -> Iterator[Reason]:
    """What the registration made worse than it was."""
    if not found.improved:
        yield Reason(Kind.START, "the result is no better than the start")
    for name, value in found.region_dice.items():
        before = found.region_dice_before.get(name, 0.0)
        if value < before - limits.most_dice_loss:
            message = (
                f"the regions {name} overlap less than before: Dice {before:.3f} to {value:.3f}"
            )
            yield Reason(Kind.START, message, before - value, limits.most_dice_loss)
    before, after = found.before.lncc, found.after.lncc
    if after < before - limits.most_lncc_loss:
        message = f"the images correlate locally less than before: {before:.2f} to {after:.2f}"
        yield Reason(Kind.START, message, before - after, limits.most_lncc_loss)


def _similarity(after: ImageSimilarity, limits: Limits) -> Iterator[Reason]:
    """Images that do not look alike after the registration."""
    names = {"ncc": "correlate by", "lncc": "correlate locally by", "nmi": "share information of"}
    for name, words in names.items():
        value, least = getattr(after, name), getattr(limits, f"least_{name}")
        if value < least:
            message = f"after the registration the images {words} only {_told(value, least, 2)}"
            yield Reason(Kind.SIMILARITY, message, value, least)


def _affine(found: Evidence, limits: Limits) -> Iterator[Reason]:
    """An affine beyond what bodies do."""
    volume = found.affine_volume
    if not 1 / limits.most_affine_volume <= volume <= limits.most_affine_volume:
        message = f"the affine changes the volume by a factor of {volume:.3g}"
        yield Reason(Kind.AFFINE, message, volume, limits.most_affine_volume)
    if found.affine_stretch > limits.most_affine_stretch:
        message = f"the affine stretches an axis by a factor of {found.affine_stretch:.3g}"
        yield Reason(Kind.AFFINE, message, found.affine_stretch, limits.most_affine_stretch)
    if found.affine_shear_deg > limits.most_affine_shear_deg:
        degrees = _told(found.affine_shear_deg, limits.most_affine_shear_deg, 0)
        message = f"the affine shears by {degrees} degrees"
        yield Reason(
            Kind.AFFINE, message, found.affine_shear_deg, limits.most_affine_shear_deg, "degrees"
        )
