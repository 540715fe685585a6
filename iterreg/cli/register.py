"""``iterreg register`` and the presets' own commands: from two files to a folder of results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from iterreg.cli.options import PairRequest, both_or_neither, pair_options

if TYPE_CHECKING:
    from iterreg.cli.console import Reporter
    from iterreg.config import Config
    from iterreg.image import LabelMap, RoiPair
    from iterreg.io import OutputFolder
    from iterreg.outputs import RunSummary

WRITES = """
    DIR gets warped.nii.gz (the moving image on the fixed grid), displacement_mm.nii.gz and
    transform.h5 (fixed to moving, ITK's convention), the regions of both images and the warped
    ones, overlay.png, and run.json.
"""


def pair_command(name: str, preset: str | None) -> click.Command:
    """A command that registers a pair.

    Args:
        name: the command's name.
        preset: the preset it stands for; None adds ``--preset``.

    Returns:
        The command.
    """

    def callback(**values: Any) -> None:
        if preset is not None:
            values["preset"] = preset
        run_pair(PairRequest(**values), name)

    decorated = pair_options(callback)
    if preset is None:
        decorated = click.option(
            "--preset",
            required=True,
            metavar="NAME|FILE",
            help="A preset's name (see iterreg presets) or a .toml file.",
        )(decorated)
        about = "Register a pair of images with any preset."
    else:
        about = _about(preset)
    return click.command(name, help=f"{about}\n{WRITES}", short_help=about)(decorated)


def _about(preset: str) -> str:
    if preset == "thorax":
        return "Register two chest CTs; lungs slide along the chest wall."
    from iterreg.cli.presets import about

    return f"Register a pair of images: {about(preset)}"


def run_pair(request: PairRequest, name: str) -> RunSummary:
    """Register, measure, write, and print the table.

    Args:
        request: the options.
        name: the command's name, for the table.

    Returns:
        What was measured.
    """
    both_or_neither(
        "--fixed-labels", "--moving-labels", request.fixed_labels, request.moving_labels
    )
    both_or_neither(
        "--fixed-landmarks", "--moving-landmarks", request.fixed_landmarks, request.moving_landmarks
    )
    from iterreg.cli.console import Console
    from iterreg.config import load_config

    config = load_config(request.preset, request.overrides)
    console = Console(quiet=request.quiet, verbose=request.verbose)
    with console.progress() as report:
        from iterreg.io import OutputFolder

        with OutputFolder(request.out, request.overwrite) as folder:
            summary = _register_and_write(request, config, folder, report)
    console.print_run(summary, name, request.out)
    return summary


def _register_and_write(
    request: PairRequest, config: Config, folder: OutputFolder, report: Reporter
) -> RunSummary:
    from iterreg.formats.itk import read_transform
    from iterreg.inputs import read_landmarks
    from iterreg.io import read_image
    from iterreg.outputs import write_run
    from iterreg.pair import optimize_pair

    report.stage("reading", 0.0)
    fixed, moving = read_image(request.fixed), read_image(request.moving)
    names = label_names(request.label_table)
    start = None
    if request.initial_transform is not None:
        start = read_transform(request.initial_transform, fixed.grid)
    landmarks = read_landmarks(request.fixed_landmarks, request.moving_landmarks)
    registration = optimize_pair(
        fixed,
        moving,
        fixed_labels=_labels(request.fixed_labels, names),
        moving_labels=_labels(request.moving_labels, names),
        fixed_mask=request.fixed_mask,
        moving_mask=request.moving_mask,
        fixed_landmarks=None if landmarks is None else landmarks[0],
        moving_landmarks=None if landmarks is None else landmarks[1],
        roi_pairs=_roi_pairs(request.roi_pairs),
        initial_transform=start,
        preset=config,
        device=request.device,
        seed=request.seed,
        threads=request.threads,
        progress=report.optimisation,
    )
    return write_run(
        folder,
        registration,
        fixed,
        moving,
        start=start,
        landmarks=landmarks,
        save_jacobian=request.save_jacobian,
        progress=report.stage,
    )


def _labels(path: Path | None, names: dict[int, str] | None) -> LabelMap | None:
    from iterreg.io import read_label_map

    return None if path is None else read_label_map(path, names)


def _roi_pairs(path: Path | None) -> list[RoiPair] | None:
    from iterreg.samreg.roi_files import read_roi_pairs

    return None if path is None else read_roi_pairs(path)


def label_names(table: str | None) -> dict[int, str] | None:
    """What ``--label-table`` says about the numbers; None where it was not given."""
    if table is None:
        return None
    from iterreg.regions.label_tables import load_table, read_label_names

    if Path(table).suffix.lower() in (".json", ".ctbl", ".txt", ".label"):
        return read_label_names(table)
    return load_table(table).names


register = pair_command("register", preset=None)
"""The general form, which asks for a preset."""
