"""``iterreg demo``: a real pair, from images alone, in a few seconds."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from iterreg.cli.options import PATH, PairRequest, run_options

if TYPE_CHECKING:
    from iterreg.displacement import Transform

LUNG = 2
"""The lung's number in the label maps that come with the pair."""


WHAT_ONE_SEES = (
    "You see: before, the lung's lower edge is apart (blue, orange); after, it agrees (grey).",
    "In the third column the lattice jumps at the chest wall: the lung slides along it.",
    "Now yours: iterreg thorax --fixed FIXED.nii.gz --moving MOVING.nii.gz --out DIR",
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
    """Register the chest CT pair that comes with iterreg: breathing in, breathing out.

    It runs on the images alone. One patient's 4D-CT at 4 mm, (c) Gregory C. Sharp, BSD-3-Clause.
    """
    from iterreg.cli.console import Console
    from iterreg.cli.register import run_pair

    with resources.as_file(resources.files("iterreg") / "data" / "thorax4dct_mini") as pair:
        request = PairRequest(
            pair / "fixed.nii.gz", pair / "moving.nii.gz", out, "thorax", quiet=quiet, **options
        )
        summary = run_pair(request, "demo")
        before, after = _given_lung_dice(pair, summary.registration.transform)
    console = Console(quiet=quiet)
    console.say(f"Dice of the lung in labels that the run did not see: {before:.3f} -> {after:.3f}")
    for line in ("", *WHAT_ONE_SEES):
        console.say(line)


def _given_lung_dice(pair: Path, transform: Transform) -> tuple[float, float]:
    """Against labels that the run did not use: identity, then the result."""
    from iterreg.displacement import warp_labels
    from iterreg.io import read_label_map
    from iterreg.metrics import dice

    fixed = read_label_map(pair / "fixed_labels.nii.gz")
    moving = read_label_map(pair / "moving_labels.nii.gz")
    warped = warp_labels(moving, transform)
    scores = [dice(fixed.data, labels.data.cpu(), [LUNG])[LUNG] for labels in (moving, warped)]
    return scores[0], scores[1]
