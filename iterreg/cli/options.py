"""The options of the commands that register a pair, declared once."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from iterreg.cli.failures import debug_option
from iterreg.regions.segmenters import SEGMENTERS

PATH = click.Path(path_type=Path)
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclass(frozen=True)
class PairRequest:
    """What the user asked for: one field per option."""

    fixed: Path
    moving: Path
    out: Path
    preset: str
    fixed_labels: Path | None = None
    moving_labels: Path | None = None
    label_table: str | None = None
    fixed_mask: Path | None = None
    moving_mask: Path | None = None
    fixed_landmarks: Path | None = None
    moving_landmarks: Path | None = None
    initial_transform: Path | None = None
    roi_pairs: Path | None = None
    settings: tuple[tuple[str, Any], ...] = ()
    segmenter: str | None = None
    fill: float | None = None
    rigid: tuple[str, ...] = ()
    device: str = "auto"
    seed: int = 0
    threads: int | None = None
    save_jacobian: bool = False
    overwrite: bool = False
    quiet: bool = False
    verbose: bool = False

    @property
    def overrides(self) -> dict[str, Any]:
        """Everything that changes the preset, by dotted key."""
        chosen = dict(self.settings)
        if self.segmenter is not None:
            chosen["segmenter"] = self.segmenter
        if self.fill is not None:
            chosen["fill"] = self.fill
        if self.rigid:
            chosen["rigid"] = list(self.rigid)
        return chosen


class Setting(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4 only
    """``key=value``: a dotted key of the configuration, and a value as TOML writes it."""

    name = "key=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        """Split at the first ``=``; what is not TOML is a word."""
        if isinstance(value, tuple):
            return value
        key, equals, text = str(value).partition("=")
        if not equals or not key.strip():
            self.fail(f"expected key=value, got {value!r}", param, ctx)
        try:
            return key.strip(), tomllib.loads(f"value = {text}")["value"]
        except (tomllib.TOMLDecodeError, KeyError):
            return key.strip(), text.strip()


def both_or_neither(first: str, second: str, one: Any, two: Any) -> None:
    """Refuse half a pair of options.

    Raises:
        click.UsageError: exactly one of the two was given.
    """
    if (one is None) != (two is None):
        have, need = (first, second) if two is None else (second, first)
        raise click.UsageError(f"{have} was given without {need}")


def label_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--fixed-labels``, ``--moving-labels`` and ``--label-table``."""
    return _all(
        click.option("--fixed-labels", type=PATH, help="Label map of the fixed image."),
        click.option("--moving-labels", type=PATH, help="Label map of the moving image."),
        label_table_option,
    )(function)


def label_table_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--label-table``, the names of the numbers."""
    return click.option(
        "--label-table",
        metavar="NAME|FILE",
        help="What the labels' numbers mean: totalsegmentator-v2, another table's name, or a file "
        "(.toml, .json, 3D Slicer .ctbl, ITK-SNAP .txt).",
    )(function)


def landmark_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--fixed-landmarks`` and ``--moving-landmarks``."""
    return _all(
        click.option(
            "--fixed-landmarks",
            type=PATH,
            help="CSV with columns x,y,z (LPS mm). A registration brings them to their partners: "
            "judge it by others (iterreg evaluate).",
        ),
        click.option("--moving-landmarks", type=PATH, help="The same landmarks, same order."),
    )(function)


def run_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Device, repeatability, and how much is printed."""
    return _all(
        click.option(
            "--device",
            type=click.Choice(["auto", "cpu", "cuda", "mps"]),
            default="auto",
            show_default=True,
            help="auto takes CUDA where there is one, then the CPU.",
        ),
        click.option("--seed", type=int, default=0, show_default=True, help="Random seed."),
        click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all]"),
        click.option("--overwrite", is_flag=True, help="Replace results that are there already."),
        click.option("--quiet", is_flag=True, help="Print nothing but errors."),
        click.option("--verbose", is_flag=True, help="Print the configuration and all notes."),
        debug_option,
    )(function)


def pair_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Everything that ``register`` and the presets' commands take."""
    return _all(
        click.option(
            "--fixed", type=PATH, required=True, help="Fixed image: its grid is the result's."
        ),
        click.option(
            "--moving", type=PATH, required=True, help="Moving image: pulled onto the fixed one."
        ),
        click.option("--out", type=PATH, required=True, help="Folder for the results."),
        label_options,
        click.option("--fixed-mask", type=PATH, help="Only compare inside this mask."),
        click.option("--moving-mask", type=PATH, help="Only compare inside this mask."),
        landmark_options,
        click.option(
            "--initial-transform",
            type=PATH,
            help="Start here (ITK transform, or displacement field in mm).",
        ),
        click.option(
            "--roi-pairs",
            type=PATH,
            help="ROI pairs (roi_pairs.json of iterreg samreg): they guide the overlap, "
            "and split the regulariser where no label maps are given.",
        ),
        click.option(
            "--segmenter",
            type=click.Choice(list(SEGMENTERS)),
            help="Where regions come from without label maps.  [default: the preset's]",
        ),
        click.option(
            "--rigid",
            multiple=True,
            metavar="NAME",
            help="A region that must not bend, such as bone; may be repeated.",
        ),
        click.option(
            "--set",
            "settings",
            type=Setting(),
            multiple=True,
            metavar="KEY=VALUE",
            help="Change a value of the preset, such as smoothness.weight=0.5; may be repeated.",
        ),
        click.option(
            "--fill",
            type=float,
            help="Intensity outside the moving image.  [default: the preset's]",
        ),
        click.option("--save-jacobian", is_flag=True, help="Also write jacobian.nii.gz."),
        run_options,
    )(function)


def _all(*decorators: Decorator) -> Decorator:
    """Apply decorators so that ``--help`` lists the options in this order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate
