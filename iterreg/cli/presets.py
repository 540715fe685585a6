"""``iterreg presets``: list the presets, and print one."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import click

from iterreg.cli.failures import HelpfulGroup, debug_option
from iterreg.cli.streams import tell
from iterreg.config import load_config, preset_names


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
    text = _text(name) if name in preset_names() else Path(name).read_text("utf-8")
    tell(text.rstrip("\n"))


def about(name: str) -> str:
    """Describe a preset in a line: the comment at the top of its TOML, or its main choices."""
    first = _text(name).split("\n", 1)[0]
    if first.startswith("#") and first.strip("# "):
        return first.strip("# ")
    config = load_config(name)
    return f"Similarity {config.similarity.kind}, regions from {config.segmenter}."


def _text(name: str) -> str:
    return (resources.files("iterreg") / "presets" / f"{name}.toml").read_text("utf-8")
