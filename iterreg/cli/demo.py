"""``iterreg demo``: register a real pair, from its images alone, in a few seconds."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from iterreg.cli.options import PATH, run_options
from iterreg.cli.pair_request import PairRequest

if TYPE_CHECKING:
    from iterreg.displacement import Transform

LUNG = 2
"""Number of the lung in the label maps that come with the pair."""

EXPLANATION = (
    "overlay.png: the lung's lower edges differ before (blue, orange) and agree after (grey).",
    "The grid in its third column jumps at the chest wall, because the lung slides along it.",
    "Now register your own: iterreg thorax --fixed FIXED.nii.gz --moving MOVING.nii.gz --out DIR",
)


@click.command(short_help="Register the chest CT pair that comes with iterreg.")
@click.option(
    "--out",
    type=PATH,
    default=Path("iterreg-demo"),
    show_default=True,
    help="Folder for the results.",
)
@run_options
def demo(out: Path, quiet: bool, **options: Any) -> None:
    """Register the chest CT pair that comes with iterreg: breathing in and breathing out.

    Only the images are used. They are two phases of a patient's 4D-CT at 4 mm, (c) Gregory C.
    Sharp, BSD-3-Clause.
    """
    from iterreg.cli.console import Console
    from iterreg.cli.register import exit_by_verdict, run_pair

    with resources.as_file(resources.files("iterreg") / "data" / "thorax4dct_mini") as pair:
        files = {"fixed": pair / "fixed.nii.gz", "moving": pair / "moving.nii.gz"}
        request = {**files, "out": out, "preset": "thorax", "quiet": quiet, **options}
        summary = run_pair(PairRequest.of(request), "demo")
        before, after = _given_lung_dice(pair, summary.registration.transform)
    console = Console(quiet=quiet)
    console.say(f"lung Dice, from labels that were not used: {before:.3f} -> {after:.3f}")
    for line in ("", *EXPLANATION):
        console.say(line)
    exit_by_verdict(summary.registration.status)


def _given_lung_dice(pair: Path, transform: Transform) -> tuple[float, float]:
    """Compute the lung's Dice before and after, from labels that the run did not use."""
    from iterreg.displacement import warp_labels
    from iterreg.io import read_label_map
    from iterreg.metrics import dice

    fixed = read_label_map(pair / "fixed_labels.nii.gz")
    moving = read_label_map(pair / "moving_labels.nii.gz")
    warped = warp_labels(moving, transform)
    scores = [dice(fixed.data, labels.data.cpu(), [LUNG])[LUNG] for labels in (moving, warped)]
    return scores[0], scores[1]
