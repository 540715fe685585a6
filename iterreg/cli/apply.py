"""``iterreg apply``: transform images, label maps or points, in either direction."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from iterreg.cli.apply_points import apply_to_points, drawn_on, load_chain, regions_of
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
    from iterreg.image import Image
    from iterreg.inverse import Inverse


@click.command()
@click.option(
    "--transform",
    "transforms",
    type=PATH,
    required=True,
    multiple=True,
    metavar="T",
    help="transform.h5 of a run, or another program's transform. Repeated, they are a chain in "
    "ANTs' order: points go through the first one first. '[T,1]' is the inverse of a linear one.",
)
@click.option(
    "--reference",
    type=PATH,
    metavar="F",
    help="Image that defines the grid of the result: the fixed image, or with --inverse the moving "
    "one. Required for images and labels.",
)
@click.option(
    "--source",
    type=PATH,
    metavar="S",
    help="Image that FSL moved (flirt -in), for FSL's transforms, whose -ref is --reference.",
)
@click.option("--image", type=PATH, help="Image to warp, with linear interpolation.")
@click.option(
    "--labels", type=PATH, help="Label map to warp, with nearest-neighbour interpolation."
)
@click.option(
    "--drawn-on",
    type=PATH,
    metavar="M",
    help="Image on which the contours of --labels RTSTRUCT were drawn.  [default: the image of the "
    "run that T belongs to]",
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
@click.option(
    "--unseen",
    type=click.Choice(["keep", "drop", "mark"]),
    default="keep",
    show_default=True,
    help="What to do outside the reference's field of view, such as beyond the ends of a cone-beam "
    "scan: drop it, or give its labels numbers and names of their own.",
)
@reading_options
@series_options("image", "reference")
@overwrite_option
@quiet_option
@debug_option
def apply(**options: Any) -> None:
    """Apply a transform to an image, a label map or points.

    A transform maps points of the fixed image to the moving image. Moving images and labels are
    therefore warped onto the fixed grid, while points go from the fixed image to the moving one.
    With --transform WARP --transform AFFINE a point x of the fixed image goes to AFFINE(WARP(x)),
    as with ANTs.

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
    if options["source"] is not None and (options["inverse"] or options["reference"] is None):
        raise click.UsageError(
            "--source is for FSL's transforms, with --reference and without --inverse: for the "
            "inverse use iterreg convert first"
        )
    if len(options["transforms"]) > 1 and options["fixed_labels"] is not None:
        raise click.UsageError("--fixed-labels and --moving-labels go with one --transform")
    if options["unseen"] != "keep" and (options["inverse"] or sources == ["points"]):
        raise click.UsageError("--unseen is for images and labels, without --inverse")
    if options["unseen"] == "mark" and sources == ["image"]:
        raise click.UsageError("--unseen mark is for labels; an image takes keep or drop")
    if options["drawn_on"] is not None and sources != ["labels"]:
        raise click.UsageError("--drawn-on goes with --labels")
    refuse_existing(options["out"], options["overwrite"])
    if sources == ["points"]:
        from iterreg.io import require_point_suffix

        require_point_suffix(options["out"])
    apply_to = {"image": _apply_to_image, "labels": _apply_to_labels, "points": apply_to_points}
    message = apply_to[sources[0]](options)
    if not options["quiet"]:
        tell(f"{options['out']}: {message}")


def _apply_to_image(options: dict[str, Any]) -> str:
    from iterreg.applying import seen_image, warp
    from iterreg.io import read_image, series_of, write_image
    from iterreg.regions.field_of_view import field_of_view

    reference = _reference(options)
    image = read_image(options["image"], series_of("image"))
    if options["inverse"]:
        inverse = _inverse_on(reference.grid, image.grid, options)
        write_image(inverse.warp(image, fill=options["fill"]), options["out"])
        return f"on the moving grid; voxels: {inverse.in_words}"
    transform = _transform(reference.grid, options)
    fill = float(image.data.min()) if options["fill"] is None else options["fill"]
    warped = warp(transform, image, reference, fill)
    if options["unseen"] == "drop":
        warped = seen_image(warped, field_of_view(reference).mask, fill)
    _warn_if_empty(options, "image", bool((warped.data == fill).all()), f"{fill:g}")
    write_image(warped, options["out"])
    return "on the fixed grid"


def _apply_to_labels(options: dict[str, Any]) -> str:
    from iterreg.applying import seen_labels, seen_shares, warp_label_map
    from iterreg.io import read_label_map, write_label_map
    from iterreg.regions.field_of_view import field_of_view

    reference = _reference(options)
    labels = read_label_map(options["labels"], reference=drawn_on(options))
    if options["inverse"]:
        inverse = _inverse_on(reference.grid, labels.grid, options)
        write_label_map(inverse.warp_labels(labels), options["out"])
        return f"on the moving grid; voxels: {inverse.in_words}"
    transform = _transform(reference.grid, options)
    warped = warp_label_map(transform, labels, reference)
    message = "on the fixed grid"
    if options["unseen"] != "keep":
        seen = field_of_view(reference).mask
        message += f"; seen: {seen_shares(warped, seen) or 'nothing'}"
        warped = seen_labels(warped, seen, mark=options["unseen"] == "mark")
    _warn_if_empty(options, "labels", not warped.data.any(), "background")
    write_label_map(warped, options["out"])
    return message


def _warn_if_empty(options: dict[str, Any], role: str, is_empty: bool, fill: str) -> None:
    """Say that nothing of an image reaches the grid, which is hardly what was asked for."""
    from iterreg.io import warn_of

    if is_empty:
        told = f"nothing of it reaches the grid of {options['reference']}: all voxels are {fill}"
        warn_of([f"{options[role]}: {told}"])


def _reference(options: dict[str, Any]) -> Image:
    """The reference, with the scanner that the run of the first transform names for it."""
    from iterreg.io import read_image, series_of
    from iterreg.report import scanner_of_run

    image = read_image(options["reference"], series_of("reference"))
    if options["unseen"] == "keep":
        return image
    return replace(image, scanner=scanner_of_run(options["transforms"][0].parent, "fixed"))


def _transform(reference: Grid, options: dict[str, Any]) -> Transform:
    from iterreg.formats.itk_objects import chain

    return chain(load_chain(options, reference)).on(reference)


def _inverse_on(moving: Grid, fixed: Grid, options: dict[str, Any]) -> Inverse:
    from iterreg.formats.itk_objects import chain
    from iterreg.inverse import Inverse

    transform = chain(load_chain(options)).on(fixed)
    one, *others = options["transforms"]
    labels = (None, None) if others else regions_of(options, one, transform.grid, moving)
    return Inverse(transform, moving, *labels)
