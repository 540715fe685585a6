"""The options that say how a doubtful image file is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

GEOMETRIES = ("auto", "sform", "qform", "pixdim")


def geometry_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--geometry``: it holds for every NIfTI file that the command reads."""

    def choose(ctx: click.Context, param: click.Parameter, value: str) -> None:
        if value != "auto":
            from iterreg.io import reading_with

            ctx.with_resource(reading_with(geometry=value))

    return click.option(
        "--geometry",
        type=click.Choice(GEOMETRIES),
        default="auto",
        show_default=True,
        expose_value=False,
        callback=choose,
        help="What places the voxels of NIfTI files whose sform, qform and pixdim disagree. auto "
        "takes what is beyond doubt and refuses the rest.",
    )(command)
