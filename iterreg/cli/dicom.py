"""``iterreg dicom``: what a folder of DICOM files holds, and results as DICOM objects."""

from __future__ import annotations

from pathlib import Path

import click

from iterreg.cli.failures import HelpfulGroup, debug_option
from iterreg.cli.options import PATH, both_or_neither, overwrite_option, quiet_option
from iterreg.cli.reading_options import pair_reading_options
from iterreg.cli.setting import Finite
from iterreg.cli.streams import tell


@click.group(cls=HelpfulGroup, short_help="List DICOM series; hand on a result as DICOM.")
def dicom() -> None:
    """Show what a folder of DICOM files holds, and hand on a result as DICOM objects."""


@dicom.command("list", short_help="List the series of a folder.")
@click.argument("folder", type=PATH, metavar="DIR")
@debug_option
def list_series(folder: Path) -> None:
    """List the series below the folder DIR, or those that a DICOMDIR names.

    The first word of a line picks the series in --fixed-series or --moving-series. So does its UID,
    or a part of its description that no other has. Images that repeat at the same positions, such
    as the phases of a breath, are listed one by one.
    """
    from iterreg.errors import ImageReadError
    from iterreg.io import require_exists
    from iterreg.io.dicom import list_volumes

    require_exists(folder)
    volumes = list_volumes(folder)
    if not volumes:
        raise ImageReadError(f"{folder}: expected a folder with a DICOM series, found none")
    for volume in volumes:
        kind = " (scout)" if volume.is_scout else ""
        tell(f"{volume}{kind}\n    UID {volume.about.uid}")
        for note in volume.notes:
            tell(f"    note: {note}")


@dicom.command(short_help="Hand on a result as DICOM objects.")
@click.argument("result", type=PATH, metavar="RESULT")
@click.option("--out", type=PATH, required=True, metavar="DIR", help="Folder for the objects.")
@click.option("--fixed", type=PATH, help="Fixed DICOM folder.  [default: that of run.json]")
@click.option("--moving", type=PATH, help="Moving DICOM folder.  [default: that of run.json]")
@click.option("--rtstruct", type=PATH, help="RTSTRUCT of the moving image, to take along.")
@click.option("--rtdose", type=PATH, help="RTDOSE of the moving image, to warp. Needs --rtstruct.")
@click.option(
    "--error-mm",
    type=Finite(min=0),
    metavar="MM",
    help="Radius of the band of the dose-volume histograms.  [default: the expected error of the "
    "result, of --save-error, if it is there]",
)
@click.option("--no-series", is_flag=True, help="Do not write the warped image.")
@pair_reading_options
@overwrite_option
@quiet_option
@debug_option
def export(
    result: Path,
    out: Path,
    fixed: Path | None,
    moving: Path | None,
    rtstruct: Path | None,
    rtdose: Path | None,
    error_mm: float | None,
    no_series: bool,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Write the result in the folder RESULT, of two DICOM series, as DICOM objects.

    registration.dcm is a Deformable Spatial Registration object, the transform exactly; warped/ is
    the warped image as a series on the fixed image. With --rtstruct also structures.dcm, the
    structures on the fixed image, and with --rtdose dose.dcm and dose-volume histograms.
    """
    from iterreg.atomic import OutputFolder
    from iterreg.clinic import Wanted
    from iterreg.clinic import export as run
    from iterreg.io import reading_choices, series_of

    if rtdose is not None and rtstruct is None:
        raise click.UsageError("--rtdose was given without --rtstruct")
    both_or_neither("--fixed", "--moving", fixed, moving)
    patterns = reading_choices().structures
    wanted = Wanted(not no_series, rtstruct, patterns, rtdose, error_mm)
    series = {side: series_of(side) for side in ("fixed", "moving")}
    with OutputFolder(out, overwrite) as folder:
        told = run(result, folder, wanted, fixed=fixed, moving=moving, series=series)
    for line in [] if quiet else told:
        tell(line)
