"""``iterreg apply``: transform images, label maps or points, in either direction."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from iterreg.cli.failures import debug_option
from iterreg.cli.options import (
    PATH,
    POINT_FILES,
    both_or_neither,
    overwrite_option,
    quiet_option,
    refuse_existing,
)
from iterreg.cli.reading_options import reading_options, series_options
from iterreg.cli.streams import tell

if TYPE_CHECKING:
    from iterreg.displacement import Transform
    from iterreg.geometry import Grid
    from iterreg.image import LabelMap


@click.command()
@click.option(
    "--transform",
    "transform_path",
    type=PATH,
    required=True,
    metavar="T",
    help="transform.h5 of a run, another ITK transform, or a displacement field in mm.",
)
@click.option(
    "--reference",
    type=PATH,
    metavar="F",
    help="Image that defines the grid of the result: the fixed image, or with --inverse the moving "
    "one. Required for images and labels.",
)
@click.option("--image", type=PATH, help="Image to warp, with linear interpolation.")
@click.option(
    "--labels", type=PATH, help="Label map to warp, with nearest-neighbour interpolation."
)
@click.option("--points", type=PATH, help=POINT_FILES)
@click.option("--out", type=PATH, required=True, help="File to write.")
@click.option("--inverse", is_flag=True, help="Apply the inverse transform.")
@click.option(
    "--fixed-labels",
    type=PATH,
    help="Fixed regions for --inverse.  [default: fixed_regions.nii.gz next to T]",
)
@click.option(
    "--moving-labels",
    type=PATH,
    help="Moving regions for --inverse.  [default: moving_regions.nii.gz next to T]",
)
@click.option("--fill", type=float, help="Intensity outside the image.  [default: its minimum]")
@reading_options
@series_options("image", "reference")
@overwrite_option
@quiet_option
@debug_option
def apply(**options: Any) -> None:
    """Apply a transform to an image, a label map or points.

    A transform maps points of the fixed image to the moving image. Moving images and labels are
    therefore warped onto the fixed grid, while points go from the fixed image to the moving one.

    With --inverse, images and labels of the FIXED image are warped onto the moving grid, and points
    of the MOVING image are mapped to the fixed one. The inverse is solved region by region. Points
    get two more columns: residual_mm and status. The status is ok; gap, if regions have moved apart
    at the point; overlap, if they have moved over each other; outside; or blended, if the dense
    field next to a sliding interface leads elsewhere.
    """
    sources = [name for name in ("image", "labels", "points") if options[name] is not None]
    if len(sources) != 1:
        raise click.UsageError("give exactly one of --image, --labels and --points")
    both_or_neither(
        "--fixed-labels", "--moving-labels", options["fixed_labels"], options["moving_labels"]
    )
    if sources != ["points"] and options["reference"] is None:
        raise click.UsageError(
            f"--{sources[0]} needs --reference, which defines the grid of the result"
        )
    refuse_existing(options["out"], options["overwrite"])
    if sources == ["points"]:
        from iterreg.io import require_point_suffix

        require_point_suffix(options["out"])
    apply_to = {"image": _apply_to_image, "labels": _apply_to_labels, "points": _apply_to_points}
    message = apply_to[sources[0]](options)
    if not options["quiet"]:
        tell(f"{options['out']}: {message}")


def _apply_to_image(options: dict[str, Any]) -> str:
    from iterreg.displacement import warp_image
    from iterreg.io import read_image, series_of, write_image

    image = read_image(options["image"], series_of("image"))
    transform, message = _transform(image.grid, options)
    fill = float(image.data.min()) if options["fill"] is None else options["fill"]
    write_image(warp_image(image, transform, fill), options["out"])
    return message


def _apply_to_labels(options: dict[str, Any]) -> str:
    from iterreg.displacement import warp_labels
    from iterreg.io import read_label_map, write_label_map

    labels = read_label_map(options["labels"])
    transform, message = _transform(labels.grid, options)
    write_label_map(warp_labels(labels, transform), options["out"])
    return message


def _transform(source: Grid, options: dict[str, Any]) -> tuple[Transform, str]:
    """Make the transform on the reference's grid, and a message about it."""
    from iterreg.errors import GeometryError
    from iterreg.io import read_image, series_of

    reference = read_image(options["reference"], series_of("reference")).grid
    if source.rank != reference.rank:
        raise GeometryError(
            f"{options['image'] or options['labels']}: expected rank {reference.rank} as "
            f"{options['reference']}, got {source.rank}"
        )
    if options["inverse"]:
        return _inverse_on(reference, source, options)
    return _forward_on(reference, options["transform_path"]), "on the fixed grid"


def _forward_on(reference: Grid, path: Path) -> Transform:
    from iterreg.displacement import resample_transform
    from iterreg.formats.itk import read_transform

    transform = read_transform(path, reference)
    if transform.grid.same_space(reference):
        return transform
    return resample_transform(transform, reference)


def _inverse_on(moving: Grid, fixed: Grid, options: dict[str, Any]) -> tuple[Transform, str]:
    from iterreg.formats.itk import read_transform
    from iterreg.inverse import InverseStatus, invert_to_grid

    transform = read_transform(options["transform_path"], fixed)
    inverse, status = invert_to_grid(transform, moving, *_regions(options, transform.grid))
    shares = [
        f"{100 * float((status == s.value).float().mean()):.1f} % {s.name.lower()}"
        for s in InverseStatus
    ]
    return inverse, "on the moving grid; voxels: " + ", ".join(shares)


def _apply_to_points(options: dict[str, Any]) -> str:
    from iterreg.formats.itk import load_itk
    from iterreg.inverse import invert_linear, invert_points
    from iterreg.io import read_image, read_points, series_of, write_points
    from iterreg.landmarks import check_inside, require_rank

    points = read_points(options["points"])
    loaded = load_itk(options["transform_path"])
    require_rank(points, loaded.rank, "the transform")
    grid = (
        None
        if options["reference"] is None
        else read_image(options["reference"], series_of("reference")).grid
    )
    if grid is not None:
        check_inside(points, grid, str(options["reference"]))
    elif not options["inverse"] and loaded.field is not None:
        check_inside(points, loaded.field.grid, "the grid of the transform")
    transform = loaded.for_points(grid)
    if not options["inverse"]:
        write_points(transform.map_points(points), options["out"])
        return f"{len(points)} points, fixed to moving"
    if grid is None and loaded.is_linear:
        inverted = invert_linear(loaded.affine_lps, points)
    else:
        inverted = invert_points(transform, points, *_regions(options, transform.grid))
    statuses = [s.name.lower() for s in inverted.status]
    columns = {"status": statuses, "residual_mm": [f"{r:.4f}" for r in inverted.residual_mm]}
    write_points(inverted.points, options["out"], columns)
    counts = ", ".join(f"{count} {name}" for name, count in Counter(statuses).items())
    return f"{len(points)} points, moving to fixed: {counts}"


def _regions(options: dict[str, Any], grid: Grid) -> tuple[LabelMap | None, LabelMap | None]:
    """Read the label maps that were given, or those next to the transform, or none."""
    from iterreg.image import require_same_space
    from iterreg.io import read_image, read_label_map

    fixed, moving = options["fixed_labels"], options["moving_labels"]
    if fixed is None:
        folder = options["transform_path"].parent
        fixed, moving = folder / "fixed_regions.nii.gz", folder / "moving_regions.nii.gz"
        if not (os.path.exists(fixed) and os.path.exists(moving)):
            return None, None
    fixed_labels = read_label_map(fixed)
    if not fixed_labels.grid.same_space(grid):
        reference = replace(read_image(fixed), grid=grid, name="the transform")
        require_same_space(fixed_labels, reference)
    return fixed_labels, read_label_map(moving)
