"""``iterreg convert``: turn a transform of one program into another's."""

from __future__ import annotations

import os
from pathlib import Path

import click

from iterreg.cli.choices import TableChoice
from iterreg.cli.failures import debug_option
from iterreg.cli.options import PATH
from iterreg.cli.reading_options import pair_reading_options
from iterreg.cli.streams import tell
from iterreg.formats import TRANSFORM_FORMATS, WRITTEN

READ = TableChoice(lambda: ["auto", *TRANSFORM_FORMATS])
WRITE = TableChoice(lambda: ["auto", *WRITTEN, *TRANSFORM_FORMATS.plugins])


@click.command(short_help="Turn a transform of one program into another's.")
@click.option(
    "--transform",
    "transforms",
    type=PATH,
    required=True,
    multiple=True,
    metavar="T",
    help="Transform to read, in one of the formats of --from. Repeated, it is a chain in ANTs' "
    "order, as in iterreg apply.",
)
@click.option("--fixed", type=PATH, required=True, help="Fixed image. The result is on its grid.")
@click.option(
    "--moving",
    type=PATH,
    help="Moving image. Not needed between formats in mm if T maps fixed to moving.",
)
@click.option(
    "--source",
    type=PATH,
    metavar="S",
    help="Image that FSL moved (flirt -in), to read FSL's transforms.",
)
@click.option(
    "--reference",
    type=PATH,
    metavar="R",
    help="Image that FSL moved it to (flirt -ref), to read FSL's transforms.",
)
@click.option(
    "--out",
    type=PATH,
    required=True,
    help="File to write. Its suffix chooses the format: .h5 is an ITK transform, for example.",
)
@click.option(
    "--from",
    "source_format",
    type=READ,
    default="auto",
    show_default=True,
    help="Format of T; auto looks into the file.",
)
@click.option(
    "--to",
    "out_format",
    type=WRITE,
    default="auto",
    show_default=True,
    help="Format to write; auto goes by the suffix. Needed for .nii.gz, which can hold several.",
)
@click.option(
    "--direction",
    type=click.Choice(["fixed-to-moving", "moving-to-fixed"]),
    default="fixed-to-moving",
    show_default=True,
    help="Direction in which T maps points. A moving-to-fixed transform is inverted.",
)
@pair_reading_options
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@debug_option
def convert(
    transforms: tuple[Path, ...],
    fixed: Path,
    moving: Path | None,
    source: Path | None,
    reference: Path | None,
    out: Path,
    source_format: str,
    out_format: str,
    direction: str,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Convert a transform, so that iterreg can apply and evaluate other programs' results.

    The result always maps points of the fixed image to the moving image, on the fixed image's
    grid. Warping an image needs this direction.

    An ITK field holds displacements x, y, z in mm, LPS. A Learn2Reg field holds, at each fixed
    voxel, the moving index minus the fixed index in voxels, in nibabel's axis order. An FSL field
    counts from a corner of each image. These two depend on the headers of both images.
    """
    from iterreg.errors import OutputError
    from iterreg.formats.convert import Images, TransformFile, convert_transform

    if os.path.exists(out) and not overwrite:
        raise OutputError(f"{out}: exists already; --overwrite replaces it")
    report = convert_transform(
        [TransformFile(path, source_format) for path in transforms],
        TransformFile(out, out_format),
        Images(fixed, moving, source, reference),
        is_inverse=direction == "moving-to-fixed",
    )
    if not quiet:
        tell(f"{report}\n{out}")
