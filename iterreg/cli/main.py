"""The root command, and the list of all commands, presets included."""

from __future__ import annotations

import logging
import os
import sys
from importlib import import_module
from typing import Any

import click

from iterreg.cli.failures import SafeGroup, describe
from iterreg.cli.guard import run_guarded
from iterreg.cli.origin import COMMAND_LINE
from iterreg.cli.streams import (
    close_stderr,
    close_stdout,
    complain,
    name_standard_streams,
    open_standard_streams,
    tell,
)
from iterreg.config import preset_names
from iterreg.errors import ExitCode, OutputError


class _RootGroup(SafeGroup):
    """Lists the commands, and one more for each preset that comes with iterreg."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Keep the command line for the results."""
        words = ["iterreg", *args]
        context = super().make_context(info_name, args, parent, **extra)
        context.meta[COMMAND_LINE] = words
        return context

    def list_commands(self, ctx: click.Context) -> list[str]:
        names = [*_OWN_COMMANDS, *(n for n in preset_names() if n not in _OWN_COMMANDS)]
        return sorted(names, key=lambda n: (_ORDER.index(n) if n in _ORDER else len(_ORDER), n))

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
    "cohort": "cohort:cohort",
    "motion": "motion:motion",
    "apply": "apply:apply",
    "convert": "convert:convert",
    "evaluate": "evaluate:evaluate",
    "phantom": "phantom:phantom",
    "report": "report:report",
    "merge-labels": "merge:merge_labels",
    "dicom": "dicom:dicom",
    "learn2reg": "learn2reg:learn2reg",
    "presets": "presets:presets",
    "plugins": "plugins:plugins",
    "weights": "weights:weights",
}
"""Name and location of each command; a command is imported only when it is used."""

_ORDER = ("demo", "thorax", *(name for name in _OWN_COMMANDS if name != "demo"))


def _own_command(name: str) -> click.Command:
    module, attribute = _OWN_COMMANDS[name].split(":")
    command: click.Command = getattr(import_module(f"iterreg.cli.{module}"), attribute)
    return command


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from iterreg.versions import own_version

    tell(f"iterreg {own_version()}")
    ctx.exit()


@click.group(
    cls=_RootGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with the pair that comes with iterreg: iterreg demo",
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
    """Deformable registration of a pair of images, without training data.

    The moving image is warped onto the fixed image. The displacement is smooth inside each region,
    but regions can slide along each other, as the lungs do along the chest wall.
    """


def main() -> None:
    """Run the command line; the entry point of the installed script."""
    open_standard_streams()
    name_standard_streams()
    run_guarded(_run)


def _run() -> None:
    """Parse the command line and run the command."""
    if "--debug" not in sys.argv:
        logging.lastResort = logging.NullHandler()  # what libraries log goes nowhere
    try:
        iterreg(prog_name="iterreg")
    except Exception as error:  # outside of every command, such as in an import
        message, number = describe(error)
        complain(message)
        raise SystemExit(_finish(number)) from None
    except SystemExit as ended:
        code = _finish(ended.code)
        if code != ExitCode.INTERRUPTED:
            raise SystemExit(code) from None
        # If Ctrl-C interrupts generated code (a dataclass being defined), CPython remembers it and
        # kills the process with that signal at exit, whatever the exit code.
        os._exit(ExitCode.INTERRUPTED)


def _finish(code: int | str | None) -> int | str | None:
    """Write what is still to be printed; a full standard output spoils only a success."""
    try:
        close_stdout()
    except OutputError as error:
        if not code:
            complain(f"error: {error}")
        code = code or ExitCode.OUTPUT
    close_stderr()
    return code
