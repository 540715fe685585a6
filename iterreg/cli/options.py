"""The options that several commands share, each declared once.

``pair_options`` declares all that registers a pair. An option with the name of an argument of
:func:`iterreg.optimize_pair` is passed on to it, so a new argument needs one new option here alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import click

from iterreg.cli.choices import TableChoice
from iterreg.cli.failures import debug_option
from iterreg.cli.pair_request import COMMAND_OPTIONS as COMMAND_OPTIONS
from iterreg.cli.pair_request import PairRequest as PairRequest
from iterreg.cli.pair_request import both_or_neither as both_or_neither
from iterreg.cli.reading_options import FilePath, pair_reading_options
from iterreg.cli.setting import Finite, Setting
from iterreg.errors import OutputError
from iterreg.regions.segmenters import SEGMENTERS, described

PATH = FilePath()
POINT_FILES = "CSV file with columns x,y,z (LPS, mm), or 3D Slicer's .fcsv or .mrk.json."
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def refuse_existing(path: Path | None, overwrite: bool) -> None:
    """Refuse to replace a file, unless the user asked for it, and a folder that is not there.

    Raises:
        OutputError: in both cases.
    """
    if path is not None and not os.path.isdir(path.parent):
        raise OutputError(f"{path}: cannot be written: the folder {path.parent} does not exist")
    if path is not None and os.path.exists(path) and not overwrite:
        raise OutputError(f"{path}: exists already; --overwrite replaces it")


def _flag(name: str, text: str) -> Decorator:
    return click.option(name, is_flag=True, help=text)


quiet_option = _flag("--quiet", "Print only errors.")
overwrite_option = _flag("--overwrite", "Replace a file that exists.")
label_table_option = click.option(
    "--label-table",
    metavar="NAME|FILE",
    help="Names of the labels' numbers: a table that comes with iterreg, such as "
    "totalsegmentator-v2, or a file (.toml, .json, 3D Slicer .ctbl, ITK-SNAP .txt).",
)
set_option = click.option(
    "--set",
    "settings",
    type=Setting(),
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a value of the preset, such as smoothness.weight=0.5. Can be repeated.",
)
seed_option = click.option(
    "--seed",
    type=click.IntRange(-(2**63), 2**63 - 1),
    default=0,
    show_default=True,
    help="Random seed.",
)


def json_option(content: str) -> Decorator:
    """``--json FILE``, and ``--overwrite`` for it."""
    return together(
        click.option("--json", "json_path", type=PATH, metavar="FILE", help=content),
        overwrite_option,
    )


def landmark_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--fixed-landmarks`` and ``--moving-landmarks``."""
    return together(
        click.option(
            "--fixed-landmarks",
            type=PATH,
            help=f"{POINT_FILES} A registration uses them to match the images; evaluate it with "
            "other landmarks.",
        ),
        click.option(
            "--moving-landmarks", type=PATH, help="The same landmarks in the moving image."
        ),
    )(function)


memory_option = click.option(
    "--memory",
    "memory_gb",
    type=Finite(min=0, min_open=True),
    metavar="GB",
    help="Use no more memory than this (the computer's, not its GPU's): by coarser levels "
    "if need be, or refuse and say how much is needed.",
)


def run_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Device, repeatability, and how much is printed."""
    return together(
        click.option(
            "--device",
            type=click.Choice(["auto", "cpu", "cuda", "mps"]),
            default="auto",
            show_default=True,
            help="auto uses CUDA if available, else the CPU.",
        ),
        seed_option,
        click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all]"),
        memory_option,
        _flag("--overwrite", "Replace results that exist."),
        _flag("--no-report", "Do not write report.html."),
        quiet_option,
        _flag("--verbose", "Also print the configuration and all notes."),
        debug_option,
    )(function)


def pair_options(without: Collection[str] = ()) -> Decorator:
    """Declare the options that register a pair.

    Args:
        without: options to leave out, such as ``--roi-pairs``; ``landmarks`` and ``run`` stand for
            :func:`landmark_options` and :func:`run_options`.
    """
    options: dict[str, Decorator] = {
        "--fixed": click.option(
            "--fixed", type=PATH, required=True, help="Fixed image. Results are on its grid."
        ),
        "--moving": click.option(
            "--moving",
            type=PATH,
            required=True,
            help="Moving image, which is warped onto the fixed one.",
        ),
        "--out": click.option("--out", type=PATH, required=True, help="Folder for the results."),
        "--fixed-labels": click.option(
            "--fixed-labels", type=PATH, help="Label map of the fixed image."
        ),
        "--moving-labels": click.option(
            "--moving-labels", type=PATH, help="Label map of the moving image."
        ),
        "--label-table": label_table_option,
        "--fixed-mask": click.option(
            "--fixed-mask", type=PATH, help="Ignore the fixed image outside this mask."
        ),
        "--moving-mask": click.option(
            "--moving-mask", type=PATH, help="Ignore the moving image outside this mask."
        ),
        "landmarks": landmark_options,
        "--initial-transform": click.option(
            "--initial-transform",
            "initial_transforms",
            type=PATH,
            multiple=True,
            help="Start from this ITK transform or displacement field (mm). Can be repeated, as "
            "--transform of iterreg apply.",
        ),
        "--source": click.option(
            "--source",
            type=PATH,
            metavar="S",
            help="Image that FSL moved (flirt -in), if --initial-transform is FSL's, made with the "
            "fixed image as -ref.",
        ),
        "--roi-pairs": click.option(
            "--roi-pairs",
            type=PATH,
            help="Matched regions to bring into overlap (roi_pairs.json of iterreg samreg). "
            "Without label maps they also define the smoothness regions.",
        ),
        "--segmenter": click.option(
            "--segmenter",
            type=TableChoice(lambda: SEGMENTERS, more_after=":"),
            metavar="NAME[:WHAT]",
            help=f"Find regions with this if there are no label maps: {described()}, or a "
            "plug-in.  [default: the preset's]",
        ),
        "--rigid": click.option(
            "--rigid",
            multiple=True,
            metavar="NAME",
            help="Move this region rigidly, such as bone. Can be repeated.",
        ),
        "--preserve-volume": click.option(
            "--preserve-volume",
            multiple=True,
            metavar="NAME",
            help="Keep the volume of this region within 1 %, such as a lesion's. Can be repeated.",
        ),
        "--rigid-first": _flag(
            "--rigid-first",
            "Let the affine part be rigid, print its shift and turns, and write it to "
            "rigid_transform.tfm; the field is what bends on top of it.",
        ),
        "--isocentre": click.option(
            "--isocentre",
            type=Finite(),
            nargs=3,
            metavar="X Y Z",
            help="Point of the fixed image (LPS, mm) that --rigid-first gives the turns about.  "
            "[default: the image's centre]",
        ),
        "--set": set_option,
        "--fill": click.option(
            "--fill",
            type=Finite(),
            help="Intensity of warped.nii.gz outside the moving image.  [default: the preset's]",
        ),
        "--field-precision": click.option(
            "--field-precision",
            "field_step_mm",
            type=Finite(min=0, max=1),
            metavar="MM",
            help="Round the written displacements to steps of at most so many mm: 0.001 halves the "
            "files.  [default: float32 as it is]",
        ),
        "--save-jacobian": _flag("--save-jacobian", "Also write jacobian.nii.gz."),
        "--save-inverse": _flag(
            "--save-inverse",
            "Also write the inverse on the moving grid: inverse_transform.h5, "
            "inverse_displacement_mm.nii.gz and inverse_status.nii.gz.",
        ),
        "--save-error": _flag(
            "--save-error",
            "Also write expected_error_mm.nii.gz, bounds of the error at every voxel. This "
            "registers the pair once more, in the other direction.",
        ),
        "reading": pair_reading_options,
        "run": run_options,
    }
    assert set(without) <= set(options), f"no such options: {set(without) - set(options)}"
    return together(*(option for name, option in options.items() if name not in without))


def together(*options: Decorator) -> Decorator:
    """Combine options into one decorator; ``--help`` lists them in this order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate
