"""``iterreg report``: make the page of an older result."""

from __future__ import annotations

import os
from pathlib import Path

import click

from iterreg.cli.failures import debug_option
from iterreg.cli.options import (
    PATH,
    both_or_neither,
    overwrite_option,
    quiet_option,
    refuse_existing,
)
from iterreg.cli.reading_options import pair_reading_options
from iterreg.texts import one_line

PAGE = "report.html"


@click.command(short_help="Show a result on one page, report.html.")
@click.argument("folder", type=PATH, metavar="DIR")
@click.option("--fixed", type=PATH, help="Fixed image.  [default: the file that run.json names]")
@click.option("--moving", type=PATH, help="Moving image.  [default: the file that run.json names]")
@click.option("--out", type=PATH, metavar="FILE", help="Page to write.  [default: DIR/report.html]")
@pair_reading_options
@overwrite_option
@quiet_option
@debug_option
def report(
    folder: Path,
    fixed: Path | None,
    moving: Path | None,
    out: Path | None,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Show the result in the folder DIR on one page that needs nothing else.

    Every registration writes this page. The command makes it for a result of an older version, or
    after a file such as expected_error_mm.nii.gz was added to the folder.
    """
    both_or_neither("--fixed", "--moving", fixed, moving)
    from iterreg.cli.console import Console
    from iterreg.errors import ImageReadError
    from iterreg.report import ODD_VALUES, read_folder, write_report

    if not os.path.isdir(folder):
        raise ImageReadError(f"{folder}: no such folder; expected the folder of a result")
    page = folder / PAGE if out is None else out
    refuse_existing(page, overwrite)
    try:
        source = read_folder(folder, fixed, moving)
        write_report(page, source)
    except ODD_VALUES as error:
        what = one_line(f"{type(error).__name__}: {error}", 120)
        raise ImageReadError(
            f"{folder / 'run.json'}: expected the run.json of a result, got values of another kind "
            f"({what})"
        ) from error
    console = Console(quiet=quiet)
    for note in source.notes:
        console.say(f"note: {note}", style="yellow")
    console.say(f"look at {page}")
