"""``iterreg convert``: turn one program's transform into another's."""

from __future__ import annotations

from pathlib import Path

import click

from iterreg.cli.failures import debug_option
from iterreg.cli.options import PATH, overwrite_option, quiet_option, refuse_existing
from iterreg.formats import TRANSFORM_FORMATS

MEANINGS = "; ".join(f"{name}: {row.means}" for name, row in TRANSFORM_FORMATS.items())
SUFFIXES = "; ".join(f"{name}: {' '.join(row.writes)}" for name, row in TRANSFORM_FORMATS.items())
NEED_BOTH = ", ".join(name for name, row in TRANSFORM_FORMATS.items() if row.needs_both_images)


@click.command(short_help="Turn a transform of one program into another's.")
@click.option(
    "--transform",
    "source",
    type=PATH,
    required=True,
    metavar="T",
    help=f"Transform to read. {MEANINGS}.",
)
@click.option("--fixed", type=PATH, required=True, help="Fixed image. The result is on its grid.")
@click.option(
    "--moving", type=PATH, help=f"Moving image; needed by {NEED_BOTH} and by moving-to-fixed."
)
@click.option("--out", type=PATH, required=True, help=f"File to write. {SUFFIXES}.")
@click.option(
    "--from",
    "source_kind",
    type=click.Choice(["auto", *TRANSFORM_FORMATS]),
    default="auto",
    show_default=True,
    help="Format of T; auto looks into the file.",
)
@click.option(
    "--to",
    "out_kind",
    type=click.Choice(["auto", *TRANSFORM_FORMATS]),
    default="auto",
    show_default=True,
    help="Format to write; auto goes by the suffix of the file.",
)
@click.option(
    "--direction",
    type=click.Choice(["fixed-to-moving", "moving-to-fixed"]),
    default="fixed-to-moving",
    show_default=True,
    help="The direction in which T maps points; moving-to-fixed is inverted.",
)
@overwrite_option
@quiet_option
@debug_option
def convert(
    source: Path,
    fixed: Path,
    moving: Path | None,
    out: Path,
    source_kind: str,
    out_kind: str,
    direction: str,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Convert a transform, so that the same code can apply and measure any program's result.

    The written transform always maps points of the fixed image to the moving image, on the fixed
    image's grid. This is the direction in which images are pulled.

    ITK's field holds displacements x, y, z in mm, LPS. Learn2Reg's field holds, at each fixed
    voxel, the moving index minus the fixed index, in voxels and nibabel's order. The two differ
    by both images' headers, so both images are needed.
    """
    from iterreg.formats.convert import convert_transform

    refuse_existing(out, overwrite)
    summary = convert_transform(
        source,
        out,
        fixed,
        moving,
        source_kind=source_kind,
        out_kind=out_kind,
        is_inverse=direction == "moving-to-fixed",
    )
    if not quiet:
        click.echo(f"{summary}\n{out}")
