"""``iterreg samreg``: match regions that both images show, and fit a field to them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from iterreg.cli.match_options import MatchRequest, matching_options, with_weights_of
from iterreg.cli.options import pair_options, run_options
from iterreg.cli.pair_request import PairRequest
from iterreg.cli.propagate import WithPropagate

if TYPE_CHECKING:
    from iterreg.atomic import OutputFolder
    from iterreg.cli.console import Console
    from iterreg.image import Image
    from iterreg.outputs import RunSummary
    from iterreg.progress import ProgressCallback
    from iterreg.registration import Registration
    from iterreg.samreg.fit import CheckedFit
    from iterreg.samreg.pairing import RoiMatching

RESULTS = """
    The output folder gets roi_pairs.json (matched regions: masks of both images and their
    similarity), the same regions as label maps (fixed_roi_pairs.nii.gz, moving_roi_pairs.nii.gz),
    roi_pairs.png and run.json. With --fit it also gets what iterreg register writes: warped.nii.gz,
    displacement_mm.nii.gz, transform.h5, regions and overlay.png.

    Labels, masks, landmarks, --rigid, --set, --fill, --save-jacobian and --save-inverse concern
    the fit alone.

    iterreg samreg propagate carries a label map through the pairs, without a field.
"""

MATCHING_FRACTION = 0.7
"""Fraction of the progress bar for the matching, if a field is fitted afterwards."""

FITTED_FRACTION = 0.9
"""Fraction of the progress bar at the end of the fit; measuring and writing get the rest."""

SURE = 0.9
"""Pairs that are surer are counted."""

MATCHING_ALONE_FRACTION = 0.95
"""Fraction of the progress bar for the matching, if no field is fitted."""


@click.command(
    "samreg",
    cls=WithPropagate,
    help=f"Match regions with a Segment Anything model, and fit a field to them.\n{RESULTS}",
    short_help="Match regions with a Segment Anything model; needs no labels.",
)
@pair_options(without=("--initial-transform", "--source", "--roi-pairs", "--segmenter", "run"))
@click.option(
    "--fit/--no-fit",
    default=True,
    show_default=True,
    help="Also fit a displacement field to the pairs.",
)
@click.option(
    "--preset",
    metavar="NAME|FILE",
    help="Preset of the fit.  [default: photograph for two colour pictures, else samreg]",
)
@matching_options
@run_options
def samreg(fit: bool, **values: Any) -> None:
    """Run the command; click shows its ``help`` instead of this text."""
    names = MatchRequest.__dataclass_fields__
    matching = MatchRequest(**{name: values.pop(name) for name in names})
    request = replace(PairRequest.of(values), also_read={"prompts": matching.prompts})
    from iterreg.atomic import OutputFolder
    from iterreg.cli.console import Console

    console = Console(quiet=request.quiet, verbose=request.verbose)
    with console.progress() as report, OutputFolder(request.out, request.overwrite) as folder:
        found, summary, checked = _match_and_write(matching, request, fit, folder, report)
    _print(console, request, found, summary, checked)


def _match_and_write(
    matching: MatchRequest,
    request: PairRequest,
    fit: bool,
    folder: OutputFolder,
    report: ProgressCallback,
) -> tuple[RoiMatching, RunSummary | None, CheckedFit | None]:
    from iterreg.cli.console import portion
    from iterreg.cli.register import read_arguments, register_and_write
    from iterreg.devices import threads_used
    from iterreg.figures.roi_overlay import draw_roi_pairs
    from iterreg.landmarks import check_landmarks, read_landmarks
    from iterreg.memory import limit_memory
    from iterreg.pair import plan
    from iterreg.progress import Progress
    from iterreg.samreg.fit import behind_alignment, fitted_to_size
    from iterreg.samreg.match import find_rois, fit_preset, load
    from iterreg.samreg.prompts import as_prompts
    from iterreg.samreg.roi_files import write_roi_files

    report(Progress("read", 0.0, "reading"))
    if request.memory_gb is not None:
        limit_memory(request.memory_gb)
    arguments = read_arguments(request)
    images: tuple[Image, Image] = arguments["fixed"], arguments["moving"]
    landmarks = read_landmarks(arguments["fixed_landmarks"], arguments["moving_landmarks"])
    check_landmarks(landmarks, (images[0].grid, images[1].grid))
    prompts = None if matching.prompts is None else as_prompts(matching.prompts, "prompts")
    config = with_weights_of(matching, request.config(fit_preset(*images)), request.overrides)
    plan(config, *images, request.memory_gb)
    matched = MATCHING_FRACTION if fit else MATCHING_ALONE_FRACTION
    with threads_used(arguments["threads"]):
        found = find_rois(
            *images,
            load(matching.variant, matching.checkpoint, arguments["device"]),
            matching.settings(),
            matching.cache or not matching.no_cache,
            portion(report, 0.0, matched),
            prompts,
        )
    report(Progress("write pairs", matched, "writing the ROI pairs"))
    write_roi_files(folder, found.pairs, (images[0].grid, images[1].grid), found.about)
    draw_roi_pairs(found, images, folder.path("roi_pairs.png"))
    summary, check = None, _Check(found)
    if fit and found.is_usable:
        arguments |= {"roi_pairs": found.guidance, "initial_transform": found.start}
        if found.is_refined and request.preset is None and not request.overrides:
            # It is refined already, by more evidence than the fit's coarse level has.
            config = behind_alignment(config)
        if request.preset is None and not any(k.startswith("levels.") for k in request.overrides):
            config = fitted_to_size(config, images[0].grid)
        fitting = portion(report, MATCHING_FRACTION, FITTED_FRACTION)
        writing = portion(report, FITTED_FRACTION, 1.0)
        summary = register_and_write(request, config, arguments, folder, (fitting, writing), check)
    _add_matching(folder.path("run.json"), found, request)
    return found, summary, check.fit


class _Check:
    """Names the start of a fit; patches of pictures judge the result, and are kept in ``fit``."""

    def __init__(self, found: RoiMatching) -> None:
        self._found = found
        self.fit: CheckedFit | None = None

    def __call__(self, registration: Registration) -> Registration:
        from iterreg.samreg.fit import check_fit

        found = self._found
        if found.start is not None:
            start = f"alignment by samreg ({found.alignment.kind})"
            registration = replace(registration, start=start)
        if found.choice is None or found.fixed.stack.axis is not None:
            return registration
        self.fit = check_fit((found.fixed.stack, found.moving.stack), registration.transform)
        if self.fit is None:
            return registration
        found.about["support"] = self.fit.to_dict()
        return _judged(registration, self.fit)


def _judged(registration: Registration, fit: CheckedFit) -> Registration:
    """The result of a fit as patches leave it."""
    from iterreg.samreg.fit import unsupported
    from iterreg.samreg.patches import LEAST_PATCHES, LEAST_SHARE
    from iterreg.verdict import judge

    notes = registration.notes if not fit.is_start else (*registration.notes, fit.note)
    verdict = registration.verdict
    if fit.support.of >= LEAST_PATCHES and not fit.support.is_enough:
        verdict = unsupported(verdict, fit.support.share, LEAST_SHARE, fit.support.summary)
    elif verdict.evidence.better_flip and registration.length_scale == 1:
        # Flips are judged by the headers, and the alignment may have turned the picture.
        evidence = replace(verdict.evidence, better_flip="")
        verdict = judge(evidence, registration.config.verdict)
    return replace(registration, transform=fit.transform, verdict=verdict, notes=notes)


def _add_matching(run: Path, found: RoiMatching, request: PairRequest) -> None:
    """Add a section on the matching to ``run.json``, which exists if a field was fitted."""
    from iterreg.atomic import write_json
    from iterreg.outputs import SCHEMA
    from iterreg.texts import parse_json

    if os.path.exists(run):
        tables = parse_json(run.read_text("utf-8"))
    else:
        tables = {"schema": SCHEMA} | request.provenance().tables()
    tables["matching"] = found.about
    write_json(tables, run)


def _print(
    console: Console,
    request: PairRequest,
    found: RoiMatching,
    summary: RunSummary | None,
    checked: CheckedFit | None,
) -> None:
    """Print the tables.

    Raises:
        NoRoiPairsError: no pair was found.
    """
    from iterreg.cli.register import exit_by_verdict
    from iterreg.errors import NoRoiPairsError

    if summary is not None:
        console.print_run(summary, "samreg", request.out)
    counts = [side.counts for side in (found.fixed, found.moving)]
    encoded, cached = (sum(c[name] for c in counts) for name in ("encoded", "cached"))
    seconds = sum(found.about["seconds"].values())
    regions = f"{counts[0]['rois']} fixed and {counts[1]['rois']} moving regions"
    console.print_facts(
        [
            ("pairs", f"{len(found.pairs)} ROI pairs, of {regions}"),
            *([("prompts", _prompted(found.prompted))] if found.prompted else []),
            ("confidence", _confidence(found)),
            ("slices", f"{encoded} encoded, {cached} from the cache, {seconds:.1f} s"),
            *_support(found, checked),
            ("look at", f"{request.out / 'roi_pairs.png'}"),
        ]
    )
    if not found.is_usable:
        raise NoRoiPairsError(found.reason_for_none)
    if summary is not None:
        exit_by_verdict(summary.registration.status)


def _support(found: RoiMatching, checked: CheckedFit | None) -> list[tuple[str, str]]:
    """What was aligned, and the patches that agree with it and with the fit that follows."""
    if found.choice is None:
        return [("aligned", found.alignment.summary)]
    if checked is None:
        return [("aligned", found.choice.summary)]
    return [("aligned", found.choice.words), ("patches", checked.summary)]


def _prompted(prompted: Sequence[int | None]) -> str:
    """Which prompts have no pair, and which share one."""
    without = [str(k) for k, number in enumerate(prompted, 1) if number is None]
    words = f"{len(prompted) - len(without)} of {len(prompted)} have a pair"
    if without:
        words += f"; none at prompt {', '.join(without)} (boxes are counted after points)"
    several = {n for n in prompted if n is not None and prompted.count(n) > 1}
    return words + "".join(f"; {prompted.count(n)} share pair {n}" for n in sorted(several))


def _confidence(found: RoiMatching) -> str:
    """How many pairs are sure."""
    known = [pair.confidence for pair in found.pairs if pair.confidence is not None]
    if found.pairs and not known:
        return "not known: no alignment is supported"
    return f"{sum(value > SURE for value in known)} pairs above {SURE}"
