"""``iterreg presets``: list the presets, and print one."""

from __future__ import annotations

from pathlib import Path

import click

from iterreg.cli.failures import HelpfulGroup, debug_option
from iterreg.cli.streams import tell
from iterreg.config import load_config, preset_names, preset_text
from iterreg.errors import IterregError
from iterreg.texts import one_line


@click.group(
    cls=HelpfulGroup, invoke_without_command=True, short_help="List the presets, or print one."
)
@debug_option
@click.pass_context
def presets(ctx: click.Context) -> None:
    """List the presets, or print one as TOML, as a template for your own."""
    if ctx.invoked_subcommand is not None:
        return
    names = preset_names()
    width = max(len(name) for name in names)
    for name in names:
        tell(f"{name:<{width}}  {about(name)}")
    tell("\nPrint one: iterreg presets show NAME")


@presets.command()
@click.argument("name")
@debug_option
def show(name: str) -> None:
    """Print a preset as TOML. Save it to a file, edit it, and pass the file to --preset."""
    load_config(name)
    text = preset_text(name)
    tell((Path(name).read_text("utf-8") if text is None else text).rstrip("\n"))


def about(name: str) -> str:
    """Describe a preset in a line: the comment at the top of its TOML, or its main choices."""
    try:
        first = (preset_text(name) or "").split("\n", 1)[0]
        if first.startswith("#") and first.strip("# "):
            return first.strip("# ")
        config = load_config(name)
    except IterregError as error:  # of a plug-in: the list of the others is still of use
        return one_line(str(error), 80)
    return f"Similarity {config.similarity.kind}, regions from {config.segmenter}."
