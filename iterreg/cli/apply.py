"""``iterreg apply``: take images, labels or points through a transform, either way."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from iterreg.cli.failures import debug_option
from iterreg.cli.options import PATH, both_or_neither

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
    help="Image whose grid the result gets: the fixed image; with --inverse the moving "
    "one. Needed for images and labels.",
)
@click.option("--image", type=PATH, help="Image to warp, linearly.")
@click.option("--labels", type=PATH, help="Label map to warp: nearest voxel, no new values.")
@click.option("--points", type=PATH, help="CSV with columns x,y,z, LPS mm.")
@click.option("--out", type=PATH, required=True, help="File to write.")
@click.option("--inverse", is_flag=True, help="The other direction, for all three.")
@click.option(
    "--fixed-labels",
    type=PATH,
    help="Regions for --inverse.  [default: fixed_regions.nii.gz beside T]",
)
@click.option(
    "--moving-labels",
    type=PATH,
    help="Regions for --inverse.  [default: moving_regions.nii.gz beside T]",
)
@click.option("--fill", type=float, help="Intensity outside the image.  [default: its minimum]")
@click.option("--overwrite", is_flag=True, help="Replace a file that is there already.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@debug_option
def apply(**options: Any) -> None:
    """Apply a transform to an image, a label map or points.

    A transform maps points of the fixed image to the moving image. So images and labels come from
    the moving image and are pulled onto the fixed grid; points go the opposite way, from the fixed
    image to the moving one.

    With --inverse an image or labels of the FIXED image are pulled onto the moving grid, and points
    of the MOVING image are taken to the fixed one. The inverse is solved region by region. Points
    then get the columns status (ok; gap: the regions drew apart here; overlap: they slid over each
    other; outside) and residual_mm.
    """
    sources = [name for name in ("image", "labels", "points") if options[name] is not None]
    if len(sources) != 1:
        raise click.UsageError("give exactly one of --image, --labels and --points")
    both_or_neither(
        "--fixed-labels", "--moving-labels", options["fixed_labels"], options["moving_labels"]
    )
    if sources != ["points"] and options["reference"] is None:
        raise click.UsageError(f"--{sources[0]} needs --reference, the image whose grid it gets")
    _refuse_existing(options["out"], options["overwrite"])
    told = {"image": _image, "labels": _labels, "points": _points}[sources[0]](options)
    if not options["quiet"]:
        click.echo(f"{options['out']}: {told}")


def _refuse_existing(out: Path, overwrite: bool) -> None:
    from iterreg.errors import OutputError

    if out.exists() and not overwrite:
        raise OutputError(f"{out}: exists already; --overwrite replaces it")


def _image(options: dict[str, Any]) -> str:
    from iterreg.displacement import warp_image
    from iterreg.io import read_image, write_image

    image = read_image(options["image"])
    pull, told = _pull(image.grid, options)
    fill = float(image.data.min()) if options["fill"] is None else options["fill"]
    write_image(warp_image(image, pull, fill), options["out"])
    return told


def _labels(options: dict[str, Any]) -> str:
    from iterreg.displacement import warp_labels
    from iterreg.io import read_label_map, write_label_map

    labels = read_label_map(options["labels"])
    pull, told = _pull(labels.grid, options)
    write_label_map(warp_labels(labels, pull), options["out"])
    return told


def _pull(source: Grid, options: dict[str, Any]) -> tuple[Transform, str]:
    """The transform that pulls onto the reference, and what to tell about it."""
    from iterreg.io import read_image

    reference = read_image(options["reference"]).grid
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


def _points(options: dict[str, Any]) -> str:
    from iterreg.formats.itk import read_transform
    from iterreg.inverse import invert_points
    from iterreg.io import read_image, read_points, write_points

    points = read_points(options["points"])
    # An affine alone has no grid of its own; any will do for points.
    grid = None if options["reference"] is None else read_image(options["reference"]).grid
    transform = read_transform(options["transform_path"], grid)
    if not options["inverse"]:
        write_points(transform.map_points(points), options["out"])
        return f"{len(points)} points, fixed to moving"
    found = invert_points(transform, points, *_regions(options, transform.grid))
    names = [s.name.lower() for s in found.status]
    columns = {"status": names, "residual_mm": [f"{r:.4f}" for r in found.residual_mm]}
    write_points(found.points, options["out"], columns)
    told = ", ".join(f"{count} {name}" for name, count in Counter(names).items())
    return f"{len(points)} points, moving to fixed: {told}"


def _regions(options: dict[str, Any], grid: Grid) -> tuple[LabelMap | None, LabelMap | None]:
    """The label maps that were asked for, or those beside the transform, or none."""
    from iterreg.image import require_same_space
    from iterreg.io import read_image, read_label_map

    fixed, moving = options["fixed_labels"], options["moving_labels"]
    if fixed is None:
        beside = options["transform_path"].parent
        fixed, moving = beside / "fixed_regions.nii.gz", beside / "moving_regions.nii.gz"
        if not (fixed.exists() and moving.exists()):
            return None, None
    fixed_labels = read_label_map(fixed)
    if not fixed_labels.grid.same_space(grid):
        reference = replace(read_image(fixed), grid=grid, name="the transform")
        require_same_space(fixed_labels, reference)
    return fixed_labels, read_label_map(moving)
