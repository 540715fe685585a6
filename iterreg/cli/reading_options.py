"""The options that say how files are read: what they leave open, the user decides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from iterreg.cli.setting import Finite

GEOMETRIES = ("auto", "sform", "qform", "pixdim")
READING_OPTIONS = ("geometry", "pixel_mm", "structures", "fixed_series", "moving_series")
"""Options that hold for every file that a command reads; no command sees their values."""


class FilePath(click.Path):
    """A path whose name is UTF-8. Other libraries crash on other names."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check the name.

        Raises:
            ImageReadError: it is not UTF-8.
        """
        from iterreg.errors import ImageReadError

        found = super().convert(value, param, ctx)
        try:
            str(found).encode()
        except UnicodeEncodeError as error:
            name = str(found).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            raise ImageReadError(
                f"{name}: expected a name in UTF-8; rename the file, or use a UTF-8 locale"
            ) from error
        return found


def _choose(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value not in (None, "auto", ()):
        from iterreg.io import reading_with

        assert param.name is not None
        ctx.with_resource(reading_with(**{param.name: value}))


def reading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--geometry``, ``--pixel-mm`` and ``--structures``, which hold for every file read."""

    command = click.option(
        "--structures",
        multiple=True,
        metavar="NAME",
        expose_value=False,
        callback=_choose,
        help="Of label maps with names (RTSTRUCT, DICOM SEG, .seg.nrrd) read only this structure. "
        "* stands for any letters. Can be repeated.  [default: all]",
    )(command)
    command = click.option(
        "--pixel-mm",
        type=Finite(min=1e-4, max=1e3),
        expose_value=False,
        callback=_choose,
        help="Size of a pixel of pictures (PNG, JPEG, TIFF, BMP).  [default: 1, whatever the file "
        "says about printing]",
    )(command)
    return geometry_option(command)


def geometry_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--geometry`` alone."""
    return click.option(
        "--geometry",
        type=click.Choice(GEOMETRIES),
        default="auto",
        show_default=True,
        expose_value=False,
        callback=_choose,
        help="What places the voxels of NIfTI files whose sform, qform and pixdim disagree. auto "
        "takes what is beyond doubt and refuses the rest.",
    )(command)


def series_options(*roles: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--ROLE-series`` for each image of a command."""

    named = " or ".join(f"--{role}-series" for role in roles)

    def pick(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
        from iterreg.io import reading_choices, reading_with

        role = str(param.name).removesuffix("_series")
        picked = {} if value is None else {role: value}
        known = reading_choices().series
        ctx.with_resource(reading_with(series={**known, **picked}, series_options=named))

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for role in reversed(roles):
            command = click.option(
                f"--{role}-series",
                metavar="TEXT",
                expose_value=False,
                callback=pick,
                help=f"Series of a DICOM folder to take as the {role} image: its number, its UID, "
                "or part of its description (iterreg dicom list shows them).",
            )(command)
        return command

    return decorate


def pair_reading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """All of these options for a command with a fixed and a moving image."""
    return series_options("fixed", "moving")(reading_options(command))
