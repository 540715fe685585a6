"""The command's root: its commands, the presets among them, and how errors reach the user."""

from __future__ import annotations

import os
import sys
from importlib import import_module

import click

from iterreg.cli.failures import SafeGroup
from iterreg.config import preset_names
from iterreg.errors import ExitCode


class _RootGroup(SafeGroup):
    """The commands, and one more for each preset that comes with iterreg."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        named = [*_OWN_COMMANDS, *(n for n in preset_names() if n not in _OWN_COMMANDS)]
        return sorted(named, key=lambda n: (_ORDER.index(n) if n in _ORDER else len(_ORDER), n))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _OWN_COMMANDS:
            return _own_command(cmd_name)
        if cmd_name in preset_names():
            from iterreg.cli.register import pair_command

            return pair_command(cmd_name, preset=cmd_name)
        return None


_OWN_COMMANDS = {
    "demo": "demo:demo",
    "register": "register:register",
    "samreg": "samreg:samreg",
    "apply": "apply:apply",
    "convert": "convert:convert",
    "evaluate": "evaluate:evaluate",
    "merge-labels": "merge:merge_labels",
    "learn2reg": "learn2reg:learn2reg",
    "presets": "presets:presets",
    "weights": "weights:weights",
}
"""Name of each command, and where it is: loaded only when it is asked for."""

_ORDER = ("demo", "thorax", *(name for name in _OWN_COMMANDS if name != "demo"))


def _own_command(name: str) -> click.Command:
    module, attribute = _OWN_COMMANDS[name].split(":")
    command: click.Command = getattr(import_module(f"iterreg.cli.{module}"), attribute)
    return command


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from iterreg.versions import own_version

    click.echo(f"iterreg {own_version()}")
    ctx.exit()


@click.group(
    cls=_RootGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Try it first on the pair that comes with it: iterreg demo",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def iterreg() -> None:
    """Deformable registration of one pair of images, region by region, without training data.

    The moving image is pulled onto the fixed image. Motion is smooth inside a region and free to
    jump between regions: a lung may slide along the chest wall.
    """


def main() -> None:
    """Run the command; the entry point of the installed script."""
    try:
        iterreg(prog_name="iterreg")
    except SystemExit as ended:
        if ended.code != ExitCode.INTERRUPTED:
            raise
        # CPython remembers a Ctrl-C that fell into generated code (a dataclass being made), and on
        # its way out kills the process by that signal, whatever the exit code.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ExitCode.INTERRUPTED)
