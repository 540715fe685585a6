"""``iterreg dicom``: what a folder of DICOM files holds."""

from __future__ import annotations

from pathlib import Path

import click

from iterreg.cli.failures import HelpfulGroup, debug_option
from iterreg.cli.options import PATH
from iterreg.cli.streams import tell


@click.group(cls=HelpfulGroup, short_help="Show what a folder of DICOM files holds.")
def dicom() -> None:
    """Show what a folder of DICOM files holds."""


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
