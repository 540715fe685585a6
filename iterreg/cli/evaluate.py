"""``iterreg evaluate``: measure any transform with label maps, landmarks or a known field."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from iterreg.cli.failures import debug_option
from iterreg.cli.options import (
    PATH,
    both_or_neither,
    json_option,
    label_table_option,
    landmark_options,
    quiet_option,
    refuse_existing,
)
from iterreg.cli.origin import provenance_of
from iterreg.cli.reading_options import pair_reading_options
from iterreg.errors import OutputError

SCHEMA = 2
"""Version of the file of ``--json``, counted as in ``run.json``."""

if TYPE_CHECKING:
    from iterreg.formats.types import Sides

OF_EVALUATION = (
    "fixed_labels",
    "moving_labels",
    "label_table",
    "fixed_landmarks",
    "moving_landmarks",
    "known_field",
)
"""Options that are arguments of :func:`iterreg.evaluate`."""


@click.command(short_help="Measure a transform with label maps, landmarks or a known field.")
@click.option(
    "--transform",
    "transforms",
    type=PATH,
    multiple=True,
    metavar="T",
    help="transform.h5 of a run, another ITK transform, or a displacement field in mm. Can be "
    "repeated, as in iterreg apply.  [default: the identity, where the headers put the images]",
)
@click.option(
    "--source",
    type=PATH,
    metavar="S",
    help="Image that FSL moved (flirt -in), for FSL's transforms, whose -ref is --fixed, or the "
    "image of --fixed-labels.",
)
@click.option("--fixed-labels", type=PATH, help="Label map of the fixed image.")
@click.option("--moving-labels", type=PATH, help="Label map of the moving image.")
@label_table_option
@landmark_options
@click.option(
    "--known-field",
    type=PATH,
    metavar="K",
    help="The true transform, as a phantom has one, in a format of --transform.",
)
@json_option("Also write all numbers to this file.")
@click.option("--html", type=PATH, metavar="FILE", help="Also write everything as one page.")
@click.option("--fixed", type=PATH, help="Fixed image, to show it on the page of --html.")
@click.option("--moving", type=PATH, help="Moving image, to show it on the page of --html.")
@pair_reading_options
@quiet_option
@debug_option
def evaluate(**options: Any) -> None:
    """Measure a transform: overlap, surface distance, landmark error, field error and folding.

    Give label maps, landmarks, a known field, or several of them. Without --transform the identity
    is measured.

    "Before" is the identity in physical space, where the files' headers put the images. Labels are
    warped with nearest-neighbour interpolation; voxels outside the moving image count as
    background. The error against a known field is taken at every voxel of the fixed label map, or
    without label maps of the known field.
    """
    for kind in ("labels", "landmarks"):
        both = f"fixed_{kind}", f"moving_{kind}"
        both_or_neither(*(f"--{n.replace('_', '-')}" for n in both), *map(options.get, both))
    both_or_neither("--fixed", "--moving", options["fixed"], options["moving"])
    if all(options[k] is None for k in ("fixed_labels", "fixed_landmarks", "known_field")):
        raise click.UsageError(
            "nothing to evaluate: give --fixed-labels and --moving-labels, --fixed-landmarks and "
            "--moving-landmarks, or --known-field"
        )
    written = [path for path in (options["json_path"], options["html"]) if path is not None]
    if len({path.resolve() for path in written}) < len(written):
        raise click.UsageError(f"--json and --html: expected two files, got {written[0]} twice")
    for path in written:
        if os.path.isdir(path):
            raise OutputError(f"{path}: expected a file to write, got a folder")
        refuse_existing(path, options["overwrite"])
    from iterreg.atomic import write_json
    from iterreg.cli.console import Console
    from iterreg.evaluation.given import Evaluation
    from iterreg.formats.chains import load_chain
    from iterreg.versions import versions

    provenance = provenance_of(options)
    paths = options["transforms"]
    evaluation = Evaluation(
        load_chain(paths, _sides(options)) if paths else None,
        **{name: options[name] for name in OF_EVALUATION},
        **_images(options),
    )
    measures = evaluation.measures
    console = Console(quiet=options["quiet"])
    console.print_measures(measures)
    for note in measures.notes:
        console.say(f"note: {note}", style="yellow")
    names = [str(path) for path in paths]
    about = {
        "schema": SCHEMA,
        **provenance.tables(),
        "transform": names[0] if len(names) == 1 else (names or None),
        "notes": list(measures.notes),
        "versions": versions(),
    }
    if options["json_path"] is not None:
        write_json(about | measures.to_dict(), options["json_path"])
    if options["html"] is not None:
        from iterreg.report import Source, write_report

        tables = about | {"measures": measures.to_dict()}
        regions = evaluation.regions
        labels = None if regions is None else (regions.fixed, regions.moving)
        source = Source(tables, evaluation.shown, evaluation.images, labels)
        write_report(options["html"], source)


def _sides(options: dict[str, Any]) -> Sides:
    """The images between which FSL's transforms lead, if the one that it moved is named."""
    from iterreg.formats.types import Sides
    from iterreg.io import grid_of_file

    if options["source"] is None:
        return Sides()
    reference = options["fixed"] or options["fixed_labels"]
    if reference is None:
        raise click.UsageError("--source needs --fixed or --fixed-labels, the image of flirt -ref")
    return Sides(grid_of_file(reference), grid_of_file(options["source"]))


def _images(options: dict[str, Any]) -> dict[str, Any]:
    """Both images, of a DICOM folder the series that was picked."""
    from iterreg.io import read_image, series_of

    sides = [side for side in ("fixed", "moving") if options[side] is not None]
    return {side: read_image(options[side], series_of(side)) for side in sides}
