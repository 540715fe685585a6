"""``iterreg convert``: a transform of one program for another."""

from __future__ import annotations

from pathlib import Path

import click

from iterreg.cli.failures import debug_option
from iterreg.cli.options import PATH


@click.command(short_help="Turn a transform of one program into another's.")
@click.option(
    "--transform",
    "source",
    type=PATH,
    required=True,
    metavar="T",
    help="ITK transform (.h5, .tfm), ITK displacement field, or Learn2Reg field.",
)
@click.option("--fixed", type=PATH, required=True, help="Fixed image: its grid is the result's.")
@click.option(
    "--moving",
    type=PATH,
    help="Moving image; needed unless both ends are ITK's and T is fixed to moving.",
)
@click.option(
    "--out",
    type=PATH,
    required=True,
    help=".h5 or .tfm: ITK composite. .nii.gz: see --to. .mha, .nrrd: ITK field. .npz: Learn2Reg.",
)
@click.option(
    "--from",
    "source_kind",
    type=click.Choice(["auto", "itk", "learn2reg"]),
    default="auto",
    show_default=True,
    help="What T is; auto looks into the file.",
)
@click.option(
    "--to",
    "out_kind",
    type=click.Choice(["auto", "itk", "learn2reg"]),
    default="auto",
    show_default=True,
    help="What to write; needed for .nii.gz.",
)
@click.option(
    "--direction",
    type=click.Choice(["fixed-to-moving", "moving-to-fixed"]),
    default="fixed-to-moving",
    show_default=True,
    help="Which points T maps to which; moving-to-fixed is inverted.",
)
@click.option("--overwrite", is_flag=True, help="Replace a file that is there already.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
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
    """Convert a transform, so that any program's result can be applied and judged by the same code.

    What is written always maps points of the fixed image to the moving one, on the fixed image's
    grid: the direction in which images are pulled.

    ITK's field holds displacements x, y, z in mm, LPS. Learn2Reg's holds, at each fixed voxel, the
    moving index minus the fixed index in voxels, nibabel's order: the two differ by both images'
    headers, so both images are asked for.
    """
    from iterreg.errors import OutputError
    from iterreg.learn2reg.convert import convert_transform

    if out.exists() and not overwrite:
        raise OutputError(f"{out}: exists already; --overwrite replaces it")
    told = convert_transform(
        source,
        out,
        fixed,
        moving,
        source_kind=source_kind,
        out_kind=out_kind,
        is_inverse=direction == "moving-to-fixed",
    )
    if not quiet:
        click.echo(f"{told}\n{out}")
