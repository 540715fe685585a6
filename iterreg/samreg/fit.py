"""The fit of a field to two pictures: at the size they need, and never worse than its start.

The same patches judge the start and the fitted field. They drove neither.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from iterreg.config import Config
from iterreg.displacement import DisplacementField, Transform
from iterreg.geometry import Grid, Points, apply_affine
from iterreg.samreg.patches import FINE_PATCH_CELLS, FINE_REACH_CELLS, Support, support_of
from iterreg.samreg.pictures import PictureStack
from iterreg.samreg.planes import (
    COARSE_PX,
    FINE_LOCAL_SHARE,
    FINE_PX,
    LOCAL_SHARE,
    Plane,
    pick_channel,
    plane_of,
)
from iterreg.verdict import Kind, Reason, Status, Verdict

USUAL_PX = 1024
"""Presets for pictures are made for pictures of at most about this size."""

STIFFER = 20.0
"""The smoothness of photographs is multiplied by this behind a supported alignment, which leaves
only what a lens, a curved surface or a section bends. Two retinas 10.2 and 3.5 of 1024 pixels off
end 21 and 10.6 off with the preset's own weight, 6.5 and 4.7 with 20 times it, 9.5 and 4.0 with 200
times it, and then the verdict of one is doubtful."""

TOO_LARGE = 1.25
"""A picture so many times larger is fitted at coarser levels."""

LEAST_KEPT = 0.97
"""A field stays if at least this share of the patches that agree with its start agrees with it: of
whole structures, and of details at the fine size, where the start is supported there. Of a retina
whose field ended 5.3 of 1024 pixels off, from a start 3.6 off, structures agreed more with the
field (99 to 125 of 250), details less (137 to 81)."""


@dataclass(frozen=True)
class CheckedFit:
    """A fit and what patches say of it.

    Args:
        transform: the fitted one, or its start if that is supported better.
        before: support of the start.
        after: support of the fitted one, even if its field was dropped.
        is_start: whether the field was dropped.

    Example:
        >>> from iterreg.geometry import Grid
        >>> grid = Grid((16, 16), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> still = Transform(np.eye(3), DisplacementField.zero(grid))
        >>> CheckedFit(still, Support(50, 90, 0.02), Support(70, 90, 0.02), False).summary
        '50 of 90 agree with the alignment, 70 with the fitted field (by chance 2)'
    """

    transform: Transform
    before: Support
    after: Support
    is_start: bool

    @property
    def support(self) -> Support:
        """Support of the transform."""
        return self.before if self.is_start else self.after

    @property
    def summary(self) -> str:
        """Both in words."""
        before, after = self.before, self.after
        of = "" if after.of == before.of else f" of {after.of}"
        dropped = ", which was dropped" if self.is_start else ""
        return (
            f"{before.agree} of {before.of} agree with the alignment, {after.agree}{of} with the "
            f"fitted field{dropped} (by chance {self.support.by_chance:.0f})"
        )

    @property
    def note(self) -> str:
        """What the user should know if the field was dropped."""
        return (
            f"the fitted field was dropped: {self.before.summary} without it, so the alignment "
            "alone is the result"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in ``run.json``."""
        return {
            "before_fit": self.before.to_dict(),
            "after_fit": self.after.to_dict(),
            "field_dropped": self.is_start,
        }


def behind_alignment(config: Config) -> Config:
    """The settings of a fit behind a supported alignment: no other affine.

    In photographs the field is stiffer too; a heart beats behind any alignment.

    Args:
        config: of a preset.

    Example:
        >>> from iterreg.config import load_config
        >>> behind_alignment(load_config("photograph")).start.affine
        'none'
    """
    stiffer = STIFFER if config.name == "photograph" else 1.0
    return replace(
        config,
        start=replace(config.start, affine="none"),
        smoothness=replace(config.smoothness, weight=stiffer * config.smoothness.weight),
    )


def fitted_to_size(config: Config, grid: Grid) -> Config:
    """The settings of a fit with all lengths multiplied for a large picture.

    Args:
        config: of a preset.
        grid: of the fixed image. Volumes, and pictures of the usual size, change nothing.

    Example:
        >>> from iterreg.config import load_config
        >>> grid = Grid((3072, 3072), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> fitted_to_size(load_config("photograph"), grid).levels.spacing_mm
        (96.0, 48.0, 24.0, 12.0, 6.0)
    """
    factor = max(grid.shape_zyx) / USUAL_PX
    if grid.rank != 2 or factor < TOO_LARGE:
        return config
    factor *= min(grid.spacing_zyx_mm)
    longer = tuple(s * factor for s in config.levels.spacing_mm)
    return replace(
        config,
        levels=replace(config.levels, spacing_mm=longer),
        similarity=replace(
            config.similarity, radius_mm=tuple(r * factor for r in config.similarity.radius_mm)
        ),
        overlap=replace(config.overlap, band_mm=config.overlap.band_mm * factor),
        verdict=replace(
            config.verdict, most_inconsistency_mm=config.verdict.most_inconsistency_mm * factor
        ),
    )


def check_fit(stacks: tuple[PictureStack, PictureStack], transform: Transform) -> CheckedFit | None:
    """Compare a fit with its start, and keep the better one.

    Args:
        stacks: of two pictures.
        transform: the fitted one; its affine alone is the start.

    Returns:
        None if a picture is blank.
    """
    first, second = (stack.pixels[0] for stack in stacks)
    if first is None or second is None:
        return None
    channel = pick_channel((first, second))
    start = replace(transform, field=DisplacementField.zero(transform.grid))

    def both(side_px: int, local_share: float, *sizes: float) -> tuple[Support, Support]:
        fixed, moving = (plane_of(stack, channel, side_px, local_share) for stack in stacks)
        return (
            support_of(fixed, _warped(fixed, moving, start), *sizes),
            support_of(fixed, _warped(fixed, moving, transform), *sizes),
        )

    before, after = both(COARSE_PX, LOCAL_SHARE)
    fine = both(FINE_PX, FINE_LOCAL_SHARE, FINE_PATCH_CELLS, FINE_REACH_CELLS)
    if _is_worse(before, after) or _is_worse(*fine):
        return CheckedFit(start, before, after, True)
    return CheckedFit(transform, before, after, False)


def _is_worse(before: Support, after: Support) -> bool:
    """Whether a field loses patches that agree with its start, if that is supported at all."""
    return before.is_enough and after.agree < LEAST_KEPT * before.agree


def _warped(fixed: Plane, moving: Plane, transform: Transform) -> Plane:
    """The moving plane on the pixels of the fixed one, by any transform."""
    import cv2

    rows, columns = fixed.grey.shape
    x, y = np.meshgrid(np.arange(columns, dtype=np.float64), np.arange(rows, dtype=np.float64))
    here = apply_affine(fixed.px_to_lps, np.stack([x.ravel(), y.ravel()], 1))
    there = apply_affine(moving.lps_to_px, transform.map_points(Points(here)).lps)
    maps = [there[:, k].reshape(rows, columns).astype(np.float32) for k in (0, 1)]
    grey = cv2.remap(moving.grey, maps[0], maps[1], cv2.INTER_LINEAR)
    inside = cv2.remap(moving.inside.astype(np.float32), maps[0], maps[1], cv2.INTER_LINEAR)
    return replace(fixed, grey=np.asarray(grey, np.float32), inside=inside > 0.99)


def unsupported(verdict: Verdict, share: float, least: float, words: str) -> Verdict:
    """A verdict with the reason that patches of the images do not agree with the result.

    Args:
        verdict: as it was.
        share: of the patches that agrees.
        least: that has to.
        words: what was counted.

    Example:
        >>> from iterreg.metrics import ImageSimilarity
        >>> from iterreg.verdict import Evidence
        >>> alike = ImageSimilarity(0.98, 0.9, 0.3)
        >>> evidence = Evidence(alike, alike, 0.4, 1.0, 1.02, 1.05, 1.0, 0.9, {}, {})
        >>> unsupported(Verdict(Status.OK, (), evidence), 0.1, 0.3, "1 of 10 agree").status.value
        'doubtful'
    """
    reason = Reason(Kind.SUPPORT, f"after the registration {words}", share, least)
    status = Status.DOUBTFUL if verdict.status is Status.OK else verdict.status
    return Verdict(status, (*verdict.reasons, reason), verdict.evidence)
