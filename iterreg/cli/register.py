"""``iterreg register`` and a command for each preset: from two images to a folder of results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from iterreg.cli.options import pair_options
from iterreg.cli.pair_request import PairRequest

if TYPE_CHECKING:
    from iterreg.atomic import OutputFolder
    from iterreg.config import Config
    from iterreg.outputs import RunSummary
    from iterreg.progress import ProgressCallback
    from iterreg.registration import Registration
    from iterreg.verdict import Status

RESULTS = """
    The output folder gets warped.nii.gz (the moving image on the fixed grid),
    displacement_mm.nii.gz and transform.h5 (fixed to moving, ITK's convention), the regions of both
    images and the warped ones, overlay.png, run.json,
    and report.html, which shows everything on one page.

    The first line of the result is its verdict: ok, doubtful (exit code 15) or failed (16).
"""

OPTIMISATION_FRACTION = 0.85
"""Fraction of the progress bar for the optimisation; measuring and writing get the rest."""


def pair_command(name: str, preset: str | None) -> click.Command:
    """Make a command that registers a pair.

    Args:
        name: the command's name.
        preset: the preset that it uses; None adds ``--preset``.
    """

    def callback(**values: Any) -> None:
        if preset is not None:
            values["preset"] = preset
        summary = run_pair(PairRequest.of(values), name)
        exit_by_verdict(summary.registration.status)

    decorated = pair_options()(callback)
    if preset is None:
        decorated = click.option(
            "--preset",
            required=True,
            metavar="NAME|FILE",
            help="Name of a preset (see iterreg presets) or a .toml file.",
        )(decorated)
        title = short = "Register a pair of images with any preset."
    else:
        from iterreg.cli.presets import about

        short = about(preset)
        title = f"Register a pair of images. {short}"
    return click.command(name, help=f"{title}\n{RESULTS}", short_help=short)(decorated)


def run_pair(request: PairRequest, name: str) -> RunSummary:
    """Register a pair, write the results, and print the table.

    Args:
        request: from the options.
        name: the command's name, for the table.
    """
    from iterreg.atomic import OutputFolder
    from iterreg.cli.console import Console, portion
    from iterreg.memory import limit_memory
    from iterreg.progress import Progress

    config = request.config()
    console = Console(quiet=request.quiet, verbose=request.verbose)
    with console.progress() as report, OutputFolder(request.out, request.overwrite) as folder:
        report(Progress("read", 0.0, "reading"))
        if request.memory_gb is not None:
            limit_memory(request.memory_gb)
        arguments = read_arguments(request)
        fitting = portion(report, 0.0, OPTIMISATION_FRACTION)
        writing = portion(report, OPTIMISATION_FRACTION, 1.0)
        summary = register_and_write(request, config, arguments, folder, (fitting, writing))
    console.print_run(summary, name, request.out)
    return summary


def exit_by_verdict(status: Status) -> None:
    """End the command with the exit code of a verdict, unless it is ok."""
    from iterreg.errors import ExitCode

    if not status.is_ok:
        click.get_current_context().exit(ExitCode[status.name])


def read_arguments(request: PairRequest) -> dict[str, Any]:
    """Read the images of a request: the arguments of ``optimize_pair``, other files as paths."""
    from iterreg.formats.chains import load_chain
    from iterreg.formats.types import Sides
    from iterreg.io import grid_of_file, read_image, series_of

    arguments = dict(request.arguments)
    for side in ("fixed", "moving"):
        arguments[side] = read_image(arguments[side], series_of(side))
    source = arguments.pop("source", None)
    if paths := arguments.pop("initial_transforms", ()):
        grid = arguments["fixed"].grid
        sides = Sides(grid, None if source is None else grid_of_file(source))
        arguments["initial_transform"] = load_chain(paths, sides).on(grid)
    elif source is not None:
        raise click.UsageError("--source is for the transform of --initial-transform")
    return arguments


def register_and_write(
    request: PairRequest,
    config: Config,
    arguments: Mapping[str, Any],
    folder: OutputFolder,
    progress: tuple[ProgressCallback, ProgressCallback],
    check: Callable[[Registration], Registration] = lambda registration: registration,
) -> RunSummary:
    """Register a pair and write its results.

    Args:
        request: from the options.
        config: resolved.
        arguments: of ``optimize_pair``, from :func:`read_arguments`.
        folder: open for writing.
        progress: of the registration, and of the writing.
        check: may change the result before it is written.
    """
    from iterreg.outputs import write_run
    from iterreg.pair import optimize_pair

    fitting, writing = progress
    provenance = request.provenance()
    arguments = {**arguments, "memory_gb": request.memory_gb}
    registration = check(optimize_pair(**arguments, preset=config, progress=fitting))
    return write_run(
        folder,
        registration,
        isocentre_lps_mm=request.isocentre,
        save_jacobian=request.save_jacobian,
        save_inverse=request.save_inverse,
        save_error=request.save_error,
        provenance=provenance,
        report=not request.no_report,
        progress=writing,
    )


register = pair_command("register", preset=None)
"""The general command, which asks for a preset."""
