"""The options of ``iterreg samreg`` that decide which regions are matched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from iterreg.cli.options import PATH, POINT_FILES, together
from iterreg.cli.setting import Finite

if TYPE_CHECKING:
    from iterreg.config import Config
    from iterreg.samreg.candidates import RoiSettings


@dataclass(frozen=True)
class MatchRequest:
    """The options that decide which regions are matched: one field per option."""

    variant: str
    checkpoint: Path | None
    axis: str | None
    slice_range: int
    threshold: float
    match: str
    pairs: int | None
    prior: float
    points: int
    matcher: str
    area: tuple[float, float] | None
    area_of: str
    nested: str
    window: tuple[float, float] | None
    mirrored: bool
    prompts: Path | None
    cache: Path | None
    no_cache: bool

    def settings(self) -> RoiSettings:
        """Make the settings of the matching.

        Raises:
            ConfigError: a value out of range.
        """
        from iterreg.samreg.candidates import RoiSettings
        from iterreg.samreg.everything import EverythingSettings
        from iterreg.samreg.filters import RoiFilter
        from iterreg.samreg.matching import MatchSettings

        area = self.area or RoiFilter().area
        return RoiSettings(
            everything=EverythingSettings(points=self.points),
            rois=RoiFilter(area, self.area_of, nested=self.nested),
            matching=MatchSettings(
                self.threshold, self.match, self.pairs, self.slice_range, prior=self.prior
            ),
            axis=self.axis,
            window=self.window,
            mirrored=self.mirrored,
            matcher=self.matcher,
        )


def with_weights_of(request: MatchRequest, config: Config, overrides: Mapping[str, Any]) -> Config:
    """The settings of the fit, whose features come from the weights of the matching.

    Args:
        request: names variant and checkpoint.
        config: of the fit.
        overrides: what the user changed in it: other weights for the features stay.
    """
    if any(key in overrides for key in ("features.variant", "features.checkpoint")):
        return config
    checkpoint = "" if request.checkpoint is None else str(request.checkpoint)
    return replace(
        config, features=replace(config.features, variant=request.variant, checkpoint=checkpoint)
    )


def matching_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of :class:`MatchRequest`."""
    return together(
        click.option(
            "--variant",
            default="mobile_sam",
            show_default=True,
            help="Segment Anything variant (see iterreg weights list).",
        ),
        click.option(
            "--checkpoint",
            type=PATH,
            help="File of its weights.  [default: look in the cache of iterreg weights]",
        ),
        click.option(
            "--axis",
            type=click.Choice(["z", "y", "x"]),
            help="Slice volumes across this axis: z gives axial slices, y coronal, x sagittal.  "
            "[default: the axis along which voxels are longest]",
        ),
        click.option(
            "--slice-range",
            type=click.IntRange(min=0),
            default=11,
            show_default=True,
            help="A partner may lie up to this many slices away.",
        ),
        click.option(
            "--threshold",
            type=Finite(-1, 1),
            default=0.8,
            show_default=True,
            help="Least similarity of matched regions.",
        ),
        click.option(
            "--match",
            default="one-to-one",
            show_default=True,
            type=click.Choice(["one-to-one", "one-to-many", "mutual", "optimal"]),
            help="Matching rule: greedy one-to-one; each region's most similar partner; only "
            "mutually most similar; or one-to-one with the largest sum of similarities.",
        ),
        click.option(
            "--pairs",
            type=click.IntRange(min=1),
            help="Keep at most this many pairs.  [default: all]",
        ),
        click.option(
            "--prior",
            type=Finite(min=0),
            default=0.1,
            show_default=True,
            help="Expected distance between partners after a rough alignment, as a fraction of the "
            "picture's diagonal. 0 compares by appearance alone.",
        ),
        click.option(
            "--points",
            type=click.IntRange(min=1),
            default=16,
            show_default=True,
            help="Segment a grid of this many points along each side.",
        ),
        click.option(
            "--matcher",
            type=click.Choice(["everything", "prompted"]),
            default="everything",
            show_default=True,
            help="Segment everything in both images, or in the moving one only what regions of "
            "the fixed one ask for.",
        ),
        click.option(
            "--area",
            type=Finite(),
            nargs=2,
            metavar="MIN MAX",
            help="Least and largest area of a region.  [default: 0.001 0.3]",
        ),
        click.option(
            "--area-of",
            type=click.Choice(["picture", "body", "mm2"]),
            default="picture",
            show_default=True,
            help="Unit of --area: fraction of the picture, fraction of the body, or mm2.",
        ),
        click.option(
            "--nested",
            type=click.Choice(["keep", "outer", "inner"]),
            default="keep",
            show_default=True,
            help="If one region lies inside another, keep both, the outer or the inner one.",
        ),
        click.option(
            "--window",
            type=Finite(),
            nargs=2,
            metavar="LOW HIGH",
            help="Intensities to show as black and white.  [default: by the kind of image]",
        ),
        click.option(
            "--mirrored",
            is_flag=True,
            help="The moving picture may be a mirror image of the fixed one.",
        ),
        click.option(
            "--prompts",
            type=PATH,
            help="Match only the smallest region around each of these points, and the one that "
            f"fills each of these boxes, of the fixed image: {POINT_FILES} Columns x2,y2,z2 hold "
            "the opposite corner of a box; 3D Slicer's ROI is a box too.",
        ),
        click.option(
            "--cache",
            type=PATH,
            help="Folder for the masks of each slice, which later runs reuse.  [default: in the "
            "user's cache folder]",
        ),
        click.option("--no-cache", is_flag=True, help="Neither read nor write the cache."),
    )(function)
