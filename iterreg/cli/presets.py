"""``iterreg presets``: which there are, and what is in them."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import click

from iterreg.cli.failures import debug_option
from iterreg.config import load_config, preset_names


@click.group(invoke_without_command=True)
@debug_option
@click.pass_context
def presets(ctx: click.Context) -> None:
    """List the presets, or show one as TOML to start your own from."""
    if ctx.invoked_subcommand is not None:
        return
    names = preset_names()
    width = max(len(name) for name in names)
    for name in names:
        click.echo(f"{name:<{width}}  {about(name)}")
    click.echo("\nShow one: iterreg presets show NAME")


@presets.command()
@click.argument("name")
@debug_option
def show(name: str) -> None:
    """Print a preset's TOML. Save it to a file, change it, and pass that to --preset."""
    load_config(name)
    text = _text(name) if name in preset_names() else Path(name).read_text("utf-8")
    click.echo(text.rstrip("\n"))


def about(name: str) -> str:
    """What a preset is for, in a line: the comment at the top of its TOML, or its main choices."""
    first = _text(name).split("\n", 1)[0]
    if first.startswith("#") and first.strip("# "):
        return first.strip("# ")
    config = load_config(name)
    return f"Similarity {config.similarity.kind}, regions by {config.segmenter}."


def _text(name: str) -> str:
    return (resources.files("iterreg") / "presets" / f"{name}.toml").read_text("utf-8")
