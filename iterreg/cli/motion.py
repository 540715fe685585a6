"""``iterreg motion``: the motion of a series of volumes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from iterreg.cli.failures import debug_option
from iterreg.cli.options import (
    PATH,
    POINT_FILES,
    label_table_option,
    overwrite_option,
    quiet_option,
    seed_option,
    set_option,
)
from iterreg.cli.reading_options import reading_options
from iterreg.cli.setting import Finite

if TYPE_CHECKING:
    from iterreg.image import Image, LabelMap
    from iterreg.motion.outputs import Guests

REGISTERING = 0.9
"""Fraction of the progress bar for the registrations."""


@click.command(short_help="Follow the motion of a 4-D scan.")
@click.argument("series", type=PATH, metavar="SERIES")
@click.option("--out", type=PATH, required=True, help="Folder for the results.")
@click.option(
    "--reference",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Phase that the others are registered to, from 0.",
)
@click.option("--preset", required=True, metavar="NAME|FILE", help="Name of a preset, or a file.")
@click.option("--periodic", is_flag=True, help="The first phase follows the last.")
@click.option(
    "--smooth",
    type=Finite(min=0),
    metavar="WEIGHT",
    help="Weight of smoothness of the course in time; 0 leaves each phase by itself.  [default: "
    "follows the errors of the phases]",
)
@click.option("--dicom-series", metavar="TEXT", help="Series of a DICOM folder, if it has several.")
@click.option("--labels", type=PATH, help="Label map of the reference, to take along.")
@label_table_option
@click.option("--points", type=PATH, help=f"Points of the reference, to take along. {POINT_FILES}")
@click.option("--wall", metavar="LABEL", help="Label of a heart's wall, for its strain.")
@click.option("--cavity", metavar="LABEL", help="Label of the cavity in that wall.")
@set_option
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all]")
@seed_option
@click.option("--no-report", is_flag=True, help="Do not write motion.html.")
@reading_options
@overwrite_option
@quiet_option
@debug_option
def motion(
    series: Path,
    out: Path,
    reference: int,
    preset: str,
    periodic: bool,
    smooth: float | None,
    dicom_series: str | None,
    labels: Path | None,
    label_table: str | None,
    points: Path | None,
    wall: str | None,
    cavity: str | None,
    settings: tuple[tuple[str, Any], ...],
    no_report: bool,
    overwrite: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Register every phase of SERIES to one of them, and follow the motion in time.

    SERIES is a 4-D NIfTI file, a folder of volumes, or a DICOM folder with phases. Each phase
    starts from the field of its neighbour, and all fields are put on one smooth course. The output
    folder gets a folder for each phase with its field, its image on the reference, log det J, and
    the labels and points that were taken along; their paths, volumes and strain as tables and
    curves; motion.json; and motion.html, which shows everything on one page.
    """
    from iterreg.atomic import OutputFolder
    from iterreg.cli.console import Console, portion
    from iterreg.cli.origin import provenance_of
    from iterreg.config import load_config
    from iterreg.motion import read_series, register_series
    from iterreg.motion.outputs import write_motion
    from iterreg.motion.register import require_reference
    from iterreg.progress import Progress

    if (wall is None) != (cavity is None):
        raise click.UsageError("--wall and --cavity belong together")
    if wall is not None and labels is None:
        raise click.UsageError("--wall was given without --labels")
    config = load_config(preset, dict(settings))
    console = Console(quiet=quiet)
    with console.progress() as report, OutputFolder(out, overwrite) as folder:
        report(Progress("read", 0.0, "reading"))
        provenance = provenance_of({"series": series, "labels": labels, "points": points})
        phases = read_series(series, dicom_series)
        require_reference(reference, len(phases))
        guests = _guests(phases[reference].image, labels, label_table, points, (wall, cavity))
        found = register_series(
            phases,
            reference=reference,
            periodic=periodic,
            smooth=smooth,
            preset=config,
            options=options,
            progress=portion(report, 0.0, REGISTERING),
        )
        tables = write_motion(
            folder,
            found,
            guests,
            provenance=provenance,
            report=not no_report,
            progress=portion(report, REGISTERING, 1.0),
        )
    verdicts = [row["verdict"] for row in tables["phases"] if "verdict" in row]
    words = ", ".join(f"{verdicts.count(v)} {v}" for v in ("ok", "doubtful", "failed"))
    course = tables["course"]
    console.say(f"motion: {len(phases)} phases ({words})")
    console.say(
        f"jitter {course['jitter_before_mm']:.3f} -> {course['jitter_after_mm']:.3f} mm "
        f"(weight {course['weight']:g}), mean motion of the phase that moves most "
        f"{course['largest_motion_before_mm']:.2f} -> {course['largest_motion_after_mm']:.2f} mm"
    )
    console.say(f"look at {out / 'motion.html' if not no_report else out}")


def _guests(
    reference: Image,
    labels: Path | None,
    label_table: str | None,
    points: Path | None,
    heart: tuple[str | None, str | None],
) -> Guests:
    """Read what is taken along, and check that it belongs to the reference."""
    from iterreg.image import require_same_space
    from iterreg.io import read_label_map, read_points
    from iterreg.landmarks import check_inside
    from iterreg.motion.outputs import Guests
    from iterreg.regions.label_tables import label_names

    named, taken = label_names(label_table), None
    if points is not None:
        taken = read_points(points)
        check_inside(taken, reference.grid, "the reference", str(points))
    if labels is None:
        return Guests(None, taken)
    carried = read_label_map(labels, named, reference.grid)
    require_same_space(carried, reference)
    guests = Guests(carried, taken, *(None if w is None else _value(carried, w) for w in heart))
    guests.require()
    return guests


def _value(labels: LabelMap, wanted: str) -> int:
    """The number of a label, by its number or its name."""
    from iterreg.errors import ConfigError

    for value in labels.values:
        if wanted in (str(value), labels.title(value)):
            return value
    known = ", ".join(labels.title(value) for value in labels.values)
    raise ConfigError(f"{labels.name}: expected one of {known}, got {wanted[:60]!r}")
