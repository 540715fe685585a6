"""``iterreg evaluate``: measure any transform with label maps, landmarks or a known field."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from iterreg.cli.failures import debug_option
from iterreg.cli.names import label_names, names_of_run
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
from iterreg.cli.reading_options import reading_options

if TYPE_CHECKING:
    from iterreg.displacement import Transform
    from iterreg.evaluation import Measures
    from iterreg.geometry import Grid, Points
    from iterreg.image import Image
    from iterreg.partition import Regions

SCHEMA = 2
"""Version of the file of ``--json``, counted as in ``run.json``."""


@click.command(short_help="Measure a transform with label maps, landmarks or a known field.")
@click.option(
    "--transform",
    type=PATH,
    metavar="T",
    help="transform.h5 of a run, another ITK transform, or a displacement field in mm.  "
    "[default: the identity, where the headers put the images]",
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
@reading_options
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
        names = f"fixed_{kind}", f"moving_{kind}"
        both_or_neither(*(f"--{n.replace('_', '-')}" for n in names), *map(options.get, names))
    both_or_neither("--fixed", "--moving", options["fixed"], options["moving"])
    if all(options[k] is None for k in ("fixed_labels", "fixed_landmarks", "known_field")):
        raise click.UsageError(
            "nothing to evaluate: give --fixed-labels and --moving-labels, --fixed-landmarks and "
            "--moving-landmarks, or --known-field"
        )
    for path in (options["json_path"], options["html"]):
        refuse_existing(path, options["overwrite"])
    from iterreg.atomic import write_json
    from iterreg.cli.console import Console
    from iterreg.versions import versions

    provenance = provenance_of(options)
    given = _Given(options)
    measures = given.measure()
    console = Console(quiet=options["quiet"])
    console.print_measures(measures)
    for note in given.notes:
        console.say(f"note: {note}", style="yellow")
    path = options["transform"]
    about = {
        "schema": SCHEMA,
        **provenance.tables(),
        "transform": None if path is None else str(path),
        "notes": list(given.notes),
        "versions": versions(),
    }
    if options["json_path"] is not None:
        write_json(about | measures.to_dict(), options["json_path"])
    if options["html"] is not None:
        from iterreg.report import Source, write_report

        tables = about | {"measures": measures.to_dict()}
        labels = None if given.labels is None else (given.labels.fixed, given.labels.moving)
        write_report(options["html"], Source(tables, given.shown(), given.images, labels))


class _Given:
    """What the options name, read: all that is measured lies on one grid.

    That grid is the fixed label map's, else the fixed image's, else the known field's, else the
    transform's own. Landmarks under a linear transform need none.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        from iterreg.displacement import resample_transform
        from iterreg.errors import GeometryError
        from iterreg.formats.itk import read_transform
        from iterreg.inputs import read_landmarks
        from iterreg.io import read_image

        self.landmarks = read_landmarks(options["fixed_landmarks"], options["moving_landmarks"])
        self.labels = _read_labels(options)
        self.images: tuple[Image, Image] | None = None
        if options["fixed"] is not None:
            self.images = read_image(options["fixed"]), read_image(options["moving"])
        self.notes = () if self.labels is None else self.labels.notes
        grid = self.images[0].grid if self.images is not None else None
        grid = grid if self.labels is None else self.labels.fixed.grid
        self.known: Transform | None = None
        if options["known_field"] is not None:
            self.known = read_transform(options["known_field"], grid)
            grid = self.known.grid if grid is None else grid
        self.original, self.has_grid = _read_transform(options["transform"], grid, self.landmarks)
        grid = self.original.grid if grid is None else grid
        self.transform = resample_transform(self.original, grid)
        if self.landmarks is not None and self.landmarks[0].lps.shape[1] != grid.rank:
            raise GeometryError(
                f"{options['fixed_landmarks']}: expected {grid.rank}-D points as the transform, "
                f"got {self.landmarks[0]!r}"
            )
        maps = () if self.labels is None else (self.labels.fixed, self.labels.moving)
        read = (*(self.images or ()), *maps)
        self.notes = (*self.notes, *dict.fromkeys(n for file in read for n in file.notes))
        if options["transform"] is None:
            self.notes = ("no --transform was given: this measures the identity", *self.notes)

    def measure(self) -> Measures:
        """Measure all that was given."""
        from iterreg.evaluation import measure, measure_landmarks

        if not self.has_grid:
            return measure_landmarks(self.transform, self.landmarks)
        labels = (None, None) if self.labels is None else (self.labels.fixed, self.labels.moving)
        return measure(self.transform, *labels, landmarks=self.landmarks, known=self.known)

    def shown(self) -> Transform:
        """The transform on the grid of the fixed image, if there is one."""
        from iterreg.displacement import resample_transform

        if self.images is None:
            return self.transform
        return resample_transform(self.original, self.images[0].grid)


def _read_labels(options: dict[str, Any]) -> Regions | None:
    from iterreg.io import read_label_map
    from iterreg.regions.match_labels import match_labels

    if options["fixed_labels"] is None:
        return None
    names = label_names(options["label_table"])
    paths = options["fixed_labels"], options["moving_labels"]
    fixed, moving = (read_label_map(path, names or names_of_run(path)) for path in paths)
    return match_labels(fixed, moving)


def _read_transform(
    path: Path | None, grid: Grid | None, landmarks: tuple[Points, Points] | None
) -> tuple[Transform, bool]:
    """Read the transform, and say whether its grid is one to measure on.

    Raises:
        TransformError: the file cannot be used, or has to be sampled and there is no grid for it.
    """
    from iterreg.errors import TransformError
    from iterreg.evaluation import identity
    from iterreg.formats.itk import read_transform
    from iterreg.geometry import Grid

    if grid is not None:
        return identity(grid) if path is None else read_transform(path, grid), True
    assert landmarks is not None, "label maps and a known field bring a grid"
    rank = landmarks[0].lps.shape[1]
    axes = tuple(tuple(float(i == k) for i in range(rank)) for k in range(rank))
    any_grid = Grid((2,) * rank, (1.0,) * rank, (0.0,) * rank, axes)
    if path is None:
        return identity(any_grid), False
    try:
        return read_transform(path), True
    except TransformError:
        transform = read_transform(path, any_grid)
    import SimpleITK as sitk

    if not sitk.ReadTransform(str(path)).IsLinear():
        raise TransformError(
            f"{path}: expected a displacement field or a linear transform, got one that has to be "
            "sampled: add --fixed and --moving, which give the grid"
        )
    return transform, False
