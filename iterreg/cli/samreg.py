"""``iterreg samreg``: regions of interest that both images show, and a field fitted to them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from iterreg.cli.options import PATH, Setting, both_or_neither, label_options, run_options

if TYPE_CHECKING:
    from iterreg.cli.console import Console, Reporter
    from iterreg.image import Image
    from iterreg.io import OutputFolder
    from iterreg.outputs import RunSummary
    from iterreg.samreg.pairing import RoiMatching

WRITES = """
    DIR gets roi_pairs.json (the result: masks of both images, similarities), the pairs as label
    maps (fixed_roi_pairs.nii.gz, moving_roi_pairs.nii.gz), roi_pairs.png and run.json; with --fit
    also what iterreg thorax writes: warped.nii.gz, displacement_mm.nii.gz, transform.h5, the
    regions, overlay.png.
"""

MATCHING_SHARE = 0.7
"""Of the progress that encoding and matching have when a field is fitted afterwards."""

OPTIMISING_SHARE = 0.2
"""And that the fit has; measuring and writing have the rest."""


@dataclass(frozen=True)
class SamregRequest:
    """What the user asked for: one field per option."""

    fixed: Path
    moving: Path
    out: Path
    variant: str
    checkpoint: Path | None
    axis: str | None
    slice_range: int
    threshold: float
    match: str
    pairs: int | None
    prior: float
    points: int
    area: tuple[float, float] | None
    area_of: str
    nested: str
    window: tuple[float, float] | None
    cache: Path | None
    no_cache: bool
    fit: bool
    preset: str | None
    settings: tuple[tuple[str, Any], ...]
    fixed_labels: Path | None
    moving_labels: Path | None
    label_table: str | None
    device: str
    seed: int
    threads: int | None
    overwrite: bool
    quiet: bool
    verbose: bool


def _matching_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What decides which ROI pairs are found."""
    for option in reversed(
        [
            click.option(
                "--variant",
                default="mobile_sam",
                show_default=True,
                help="Segment Anything variant (see iterreg weights list).",
            ),
            click.option(
                "--checkpoint",
                type=PATH,
                help="Its weights.  [default: the cache of iterreg weights]",
            ),
            click.option(
                "--axis",
                type=click.Choice(["z", "y", "x"]),
                help="Volumes are cut into slices across this axis: z axial, y coronal, x "
                "sagittal.  [default: across the thickest voxels]",
            ),
            click.option(
                "--slice-range",
                type=click.IntRange(min=0),
                default=11,
                show_default=True,
                help="Slices on either side of the nearest one in which a partner may lie.",
            ),
            click.option(
                "--threshold",
                type=click.FloatRange(-1, 1),
                default=0.8,
                show_default=True,
                help="Least similarity of a pair.",
            ),
            click.option(
                "--match",
                default="one-to-one",
                show_default=True,
                type=click.Choice(["one-to-one", "one-to-many", "mutual", "optimal"]),
            ),
            click.option("--pairs", type=click.IntRange(min=1), help="Most pairs.  [default: all]"),
            click.option(
                "--prior",
                type=click.FloatRange(min=0),
                default=0.1,
                show_default=True,
                help="How far partners may lie apart, as a share of the picture's diagonal; "
                "0: appearance alone.",
            ),
            click.option(
                "--points",
                type=click.IntRange(min=1),
                default=16,
                show_default=True,
                help="Points along each side of the grid that is segmented.",
            ),
            click.option(
                "--area",
                type=float,
                nargs=2,
                metavar="LEAST MOST",
                help="Least and most area of a region.  [default: 0.001 0.3]",
            ),
            click.option(
                "--area-of",
                type=click.Choice(["picture", "body", "mm2"]),
                default="picture",
                show_default=True,
                help="What --area is a share of.",
            ),
            click.option(
                "--nested",
                type=click.Choice(["keep", "outer", "inner"]),
                default="keep",
                show_default=True,
                help="Of a region inside another, keep which.",
            ),
            click.option(
                "--window",
                type=float,
                nargs=2,
                metavar="LOW HIGH",
                help="Intensities shown black and white.  [default: by the kind of image]",
            ),
            click.option("--cache", type=PATH, help="Keep what was found in each slice here."),
            click.option(
                "--no-cache", is_flag=True, help="Keep nothing; encode every slice again."
            ),
        ]
    ):
        function = option(function)
    return function


@click.command(
    "samreg",
    help=f"Match regions of interest by a Segment Anything model.\n{WRITES}",
    short_help="Match regions by a Segment Anything model; no labels needed.",
)
@click.option("--fixed", type=PATH, required=True, help="Fixed image: its grid is the result's.")
@click.option("--moving", type=PATH, required=True, help="Moving image: pulled onto the fixed one.")
@click.option("--out", type=PATH, required=True, help="Folder for the results.")
@_matching_options
@click.option(
    "--fit/--no-fit",
    default=True,
    show_default=True,
    help="Also fit a displacement field to the pairs.",
)
@click.option(
    "--preset",
    metavar="NAME|FILE",
    help="Of the fit; photograph for two colour pictures, else samreg.",
)
@click.option(
    "--set",
    "settings",
    type=Setting(),
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a value of the fit's preset, such as similarity.weight=1; may be repeated.",
)
@label_options
@run_options
def samreg(**values: Any) -> None:
    """See :data:`WRITES`."""
    request = SamregRequest(**values)
    both_or_neither(
        "--fixed-labels", "--moving-labels", request.fixed_labels, request.moving_labels
    )
    from iterreg.cli.console import Console

    console = Console(quiet=request.quiet, verbose=request.verbose)
    with console.progress() as report:
        from iterreg.io import OutputFolder

        with OutputFolder(request.out, request.overwrite) as folder:
            found, summary = _match_and_write(request, folder, report)
    _print(console, request, found, summary)


def _match_and_write(
    request: SamregRequest, folder: OutputFolder, report: Reporter
) -> tuple[RoiMatching, RunSummary | None]:
    from iterreg.config import load_config
    from iterreg.devices import threads_used
    from iterreg.io import read_image
    from iterreg.report.roi_overlay import draw_roi_pairs
    from iterreg.samreg.match import find_rois, fit_preset, load
    from iterreg.samreg.roi_files import write_roi_files

    report.stage("reading", 0.0)
    images = read_image(request.fixed), read_image(request.moving)
    config = load_config(request.preset or fit_preset(*images), dict(request.settings))
    share = MATCHING_SHARE if request.fit else 0.95
    with threads_used(request.threads):
        segmenter = load(request.variant, request.checkpoint, request.device)
        cache = request.cache or not request.no_cache
        found = find_rois(
            *images,
            segmenter,
            _settings(request),
            cache,
            lambda stage, done: report.stage(stage, share * done),
        )
    report.stage("writing the ROI pairs", share)
    grids = images[0].grid, images[1].grid
    write_roi_files(folder, found.pairs, grids, found.about)
    draw_roi_pairs(found, images, folder.path("roi_pairs.png"))
    summary = None
    if request.fit and found.pairs:
        summary = _fit(request, config, found, images, folder, report)
    _write_run(folder.path("run.json"), found)
    return found, summary


def _write_run(run: Path, found: RoiMatching) -> None:
    """What the fit wrote there, if any, and a section on the matching."""
    from iterreg.config import SCHEMA

    tables = json.loads(run.read_text("utf-8")) if run.exists() else {"schema": SCHEMA}
    tables["matching"] = found.about
    run.write_text(json.dumps(tables, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _settings(request: SamregRequest) -> Any:
    from iterreg.samreg.candidates import RoiSettings
    from iterreg.samreg.everything import EverythingSettings
    from iterreg.samreg.filters import RoiFilter
    from iterreg.samreg.matching import MatchSettings

    usual = RoiFilter()
    return RoiSettings(
        everything=EverythingSettings(points=request.points),
        rois=RoiFilter(request.area or usual.area, request.area_of, nested=request.nested),
        matching=MatchSettings(
            request.threshold,
            request.match,
            request.pairs,
            request.slice_range,
            prior=request.prior,
        ),
        axis=request.axis,
        window=request.window,
    )


def _fit(
    request: SamregRequest,
    config: Any,
    found: RoiMatching,
    images: tuple[Image, Image],
    folder: OutputFolder,
    report: Reporter,
) -> RunSummary:
    from iterreg.cli.register import label_names
    from iterreg.io import read_label_map
    from iterreg.outputs import write_run
    from iterreg.pair import optimize_pair
    from iterreg.progress import Progress

    names = label_names(request.label_table)
    paths = (request.fixed_labels, request.moving_labels)
    labels = [None if p is None else read_label_map(p, names) for p in paths]

    def optimising(event: Progress) -> None:
        report.stage(event.message, MATCHING_SHARE + OPTIMISING_SHARE * event.fraction)

    def writing(stage: str, done: float) -> None:
        begun = MATCHING_SHARE + OPTIMISING_SHARE
        report.stage(stage, begun + (1 - begun) * done)

    registration = optimize_pair(
        *images,
        fixed_labels=labels[0],
        moving_labels=labels[1],
        roi_pairs=found.guidance,
        initial_transform=found.start,
        preset=config,
        device=request.device,
        seed=request.seed,
        threads=request.threads,
        progress=optimising,
    )
    return write_run(folder, registration, *images, start=found.start, progress=writing)


def _print(
    console: Console, request: SamregRequest, found: RoiMatching, summary: RunSummary | None
) -> None:
    from iterreg.errors import NoRoiPairsError

    counts = [side.counts for side in (found.fixed, found.moving)]
    seconds = found.about["seconds"]
    if summary is not None:
        console.print_run(summary, "samreg", request.out)
    encoded, cached = (sum(c[name] for c in counts) for name in ("encoded", "cached"))
    console.print_facts(
        [
            (
                "pairs",
                f"{len(found.pairs)} ROI pairs, of {counts[0]['rois']} fixed and "
                f"{counts[1]['rois']} moving regions",
            ),
            (
                "slices",
                f"{encoded} encoded, {cached} out of the cache, {sum(seconds.values()):.1f} s",
            ),
            ("aligned", found.alignment.summary),
            ("look at", f"{request.out / 'roi_pairs.png'}"),
        ]
    )
    if not found.pairs:
        raise NoRoiPairsError(found.reason_for_none)
