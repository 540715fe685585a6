"""``iterreg evaluate``: measure any transform with label maps, landmarks or a known field."""

from __future__ import annotations

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
from iterreg.cli.reading_options import pair_reading_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from iterreg.displacement import Transform
    from iterreg.evaluation import Measures
    from iterreg.formats.loaded import Loaded
    from iterreg.geometry import Grid, Points
    from iterreg.image import Image, LabelMap
    from iterreg.partition import Regions

SCHEMA = 2
"""Version of the file of ``--json``, counted as in ``run.json``."""


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
    paths = [str(path) for path in options["transforms"]]
    about = {
        "schema": SCHEMA,
        **provenance.tables(),
        "transform": paths[0] if len(paths) == 1 else (paths or None),
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
        from iterreg.io import read_image, series_of
        from iterreg.landmarks import read_landmarks

        self.landmarks = read_landmarks(options["fixed_landmarks"], options["moving_landmarks"])
        self.images: tuple[Image, Image] | None = None
        if options["fixed"] is not None:
            self.images = (
                read_image(options["fixed"], series_of("fixed")),
                read_image(options["moving"], series_of("moving")),
            )
        _require_one_rank(self.images or ())
        self.labels = _read_labels(options, self.images)
        self.notes = () if self.labels is None else self.labels.notes
        self.original, known, grid = _read_transforms(options, self._grids()[0], self.landmarks)
        self.has_grid = grid is not None
        self.transform = self.original if grid is None else resample_transform(self.original, grid)
        self.known = known
        outside = self._check_landmarks()
        maps = () if self.labels is None else (self.labels.fixed, self.labels.moving)
        read = (*(self.images or ()), *maps)
        told = dict.fromkeys(n for file in read for n in file.notes)
        self.notes = (*self.notes, *told, *outside)
        if not options["transforms"]:
            self.notes = ("no --transform was given: this measures the identity", *self.notes)

    def _grids(self) -> tuple[Grid | None, Grid | None]:
        """Where the fixed and the moving image are, by label maps or images."""
        if self.labels is not None:
            return self.labels.fixed.grid, self.labels.moving.grid
        return (None, None) if self.images is None else (self.images[0].grid, self.images[1].grid)

    def _check_landmarks(self) -> tuple[str, ...]:
        """Hold the landmarks against what is known of both images, before anything is measured."""
        from iterreg.landmarks import check_inside, check_landmarks

        if self.landmarks is None:
            return ()
        fixed, moving = self._grids()
        note = ""
        if fixed is None and self.has_grid:
            note = check_inside(self.landmarks[0], self.transform.grid, "the transform's grid")
        notes = check_landmarks(self.landmarks, (fixed, moving), self.original)
        return (*((note,) if note else ()), *notes)

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


def _read_labels(options: dict[str, Any], images: tuple[Image, Image] | None) -> Regions | None:
    from iterreg.io import on_lattice_of, read_label_map
    from iterreg.regions.match_labels import match_labels

    if options["fixed_labels"] is None:
        return None
    names = label_names(options["label_table"])
    paths = options["fixed_labels"], options["moving_labels"]
    read = []
    for path, image in zip(paths, images or (None, None), strict=True):
        grid = None if image is None else image.grid
        labels = read_label_map(path, names or names_of_run(path), grid)
        _require_one_rank([*(images or ()), labels])
        read.append(labels if image is None else on_lattice_of(labels, image))
    _require_one_rank([*(images or ()), *read])
    return match_labels(*read)


def _require_one_rank(read: Sequence[Image | LabelMap]) -> None:
    """Refuse files of different ranks.

    Raises:
        GeometryError: naming the first that differs.
    """
    from iterreg.errors import GeometryError

    for other in read:
        if other.grid.rank != read[0].grid.rank:
            raise GeometryError(
                f"{other.name}: expected rank {read[0].grid.rank} as {read[0].name}, got "
                f"{other.grid.rank}"
            )


def _read_transforms(
    options: dict[str, Any], grid: Grid | None, landmarks: tuple[Points, Points] | None
) -> tuple[Transform, Transform | None, Grid | None]:
    """Read the transform and the known one, and choose the grid to measure on.

    Args:
        options: of the command.
        grid: of the label maps or images; None takes the known field's, else the transform's.
        landmarks: their rank is the identity's if nothing else has one.

    Returns:
        The transform, the known one or None, and the grid; None if only landmarks are measured.

    Raises:
        TransformError: a file cannot be used, or needs a grid and there is none.
        GeometryError: the landmarks have another rank.
    """
    from iterreg.errors import GeometryError
    from iterreg.formats.chains import load_chain
    from iterreg.formats.loaded import Loaded
    from iterreg.formats.reading import load_transform
    from iterreg.landmarks import require_rank

    paths, known_path = options["transforms"], options["known_field"]
    known = None if known_path is None else load_transform(known_path)
    if known is not None and grid is not None and known.rank != grid.rank:
        raise GeometryError(
            f"{known_path}: expected rank {grid.rank} as the fixed image, got {known.rank}"
        )
    if paths:
        loaded = load_chain(paths)
    elif known is not None or grid is not None:
        loaded = Loaded.identity(known.rank if known is not None else grid.rank if grid else 3)
    else:
        assert landmarks is not None, "label maps and a known field bring a grid"
        loaded = Loaded.identity(landmarks[0].lps.shape[1])
    if landmarks is not None:
        require_rank(landmarks[0], loaded.rank, "the transform", "fixed_landmarks")
    for own in (known, loaded):
        if grid is None and own is not None and own.field is not None:
            grid = own.field.grid
    if grid is None:
        _require_no_grid_needed(known, loaded)
    transform = loaded.for_points(grid)
    return transform, None if known is None else known.on(grid), grid


def _require_no_grid_needed(known: Loaded | None, transform: Loaded) -> None:
    from iterreg.errors import TransformError

    needed = "add --fixed and --moving, or label maps, which give the grid"
    if transform.sampled is not None:
        raise TransformError(
            f"{transform.name}: expected a displacement field or a linear transform, got one that "
            f"has to be sampled: {needed}"
        )
    if known is not None:
        kind = "a linear transform" if known.is_linear else "one that has to be sampled"
        raise TransformError(
            f"{known.name}: expected a known field with a grid to compare on, got {kind}: {needed}"
        )
