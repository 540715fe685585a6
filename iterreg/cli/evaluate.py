"""``iterreg evaluate``: measure any transform with label maps and landmarks."""

from __future__ import annotations

import json
from pathlib import Path

import click

from iterreg.cli.failures import debug_option
from iterreg.cli.options import (
    PATH,
    both_or_neither,
    json_option,
    label_names,
    label_table_option,
    landmark_options,
    quiet_option,
    refuse_existing,
)


@click.command(short_help="Measure a transform with label maps and landmarks.")
@click.option(
    "--transform",
    "transform_path",
    type=PATH,
    required=True,
    metavar="T",
    help="transform.h5 of a run, another ITK transform, or a displacement field in mm.",
)
@click.option("--fixed-labels", type=PATH, required=True, help="Label map of the fixed image.")
@click.option("--moving-labels", type=PATH, required=True, help="Label map of the moving image.")
@label_table_option
@landmark_options
@json_option("Also write all numbers to this file.")
@click.option("--html", type=PATH, metavar="FILE", help="Also write everything as one page.")
@click.option("--fixed", type=PATH, help="Fixed image, to show it on the page of --html.")
@click.option("--moving", type=PATH, help="Moving image, to show it on the page of --html.")
@quiet_option
@debug_option
def evaluate(
    transform_path: Path,
    fixed_labels: Path,
    moving_labels: Path,
    label_table: str | None,
    fixed_landmarks: Path | None,
    moving_landmarks: Path | None,
    json_path: Path | None,
    html: Path | None,
    fixed: Path | None,
    moving: Path | None,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Measure a transform: overlap, surface distance, landmark error and folding.

    "Before" is the identity in physical space, where the files' headers put the images. Labels are
    warped with nearest-neighbour interpolation; voxels outside the moving image count as
    background.
    """
    both_or_neither("--fixed-landmarks", "--moving-landmarks", fixed_landmarks, moving_landmarks)
    both_or_neither("--fixed", "--moving", fixed, moving)
    refuse_existing(json_path, overwrite)
    refuse_existing(html, overwrite)
    from iterreg.atomic import write_json
    from iterreg.cli.console import Console
    from iterreg.displacement import resample_transform
    from iterreg.evaluation import measure
    from iterreg.formats.itk import read_transform
    from iterreg.inputs import read_landmarks
    from iterreg.io import read_label_map
    from iterreg.regions.match_labels import match_labels

    names = label_names(label_table)
    matched = match_labels(
        read_label_map(fixed_labels, names or _names_of_run(fixed_labels)),
        read_label_map(moving_labels, names or _names_of_run(moving_labels)),
    )
    landmarks = read_landmarks(fixed_landmarks, moving_landmarks)
    transform = read_transform(transform_path, matched.fixed.grid)
    on_labels = resample_transform(transform, matched.fixed.grid)
    measures = measure(on_labels, matched.fixed, matched.moving, landmarks=landmarks, in_depth=True)
    console = Console(quiet=quiet)
    console.print_measures(measures)
    for note in matched.notes:
        console.say(f"note: {note}", style="yellow")
    about = {"schema": 1, "transform": str(transform_path), "notes": list(matched.notes)}
    if json_path is not None:
        write_json(about | measures.to_dict(), json_path)
    if html is not None:
        from iterreg.io import read_image
        from iterreg.report import Source, write_report

        images, shown = None, on_labels
        if fixed is not None and moving is not None:
            images = read_image(fixed), read_image(moving)
            shown = resample_transform(transform, images[0].grid)
        tables = about | {"measures": measures.to_dict()}
        write_report(html, Source(tables, shown, images, (matched.fixed, matched.moving)))


def _names_of_run(labels: Path) -> dict[int, str] | None:
    """Read the names of regions that a run wrote from its ``run.json``."""
    run = labels.parent / "run.json"
    if labels.name not in ("fixed_regions.nii.gz", "moving_regions.nii.gz") or not run.is_file():
        return None
    try:
        regions = json.loads(run.read_text("utf-8"))["regions"]
        return {int(value): str(name) for value, name in regions.items()}
    except (OSError, ValueError, KeyError, AttributeError):
        return None
