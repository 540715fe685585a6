"""Report a failure to the user: one line on stderr, and an exit code."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import click

from iterreg.atomic import completed_outputs
from iterreg.cli.single_values import refuse_seconds
from iterreg.cli.streams import complain, hint
from iterreg.errors import (
    NO_ROOM,
    ExitCode,
    IterregError,
    OutOfMemoryError,
    is_out_of_memory,
    was_interrupted,
)
from iterreg.texts import one_line

DEBUG = "iterreg.debug"
"""Key of ``--debug`` in click's context."""

MEMORY_ADVICE = (
    "out of memory: try --device cpu, or a coarser last level, such as "
    "--set 'levels.spacing_mm=[8.0, 4.0]' --set 'levels.steps=[20, 15]'"
)

INSTALL_ADVICE = "install iterreg again with pip, which brings what it needs"


class HelpfulGroup(click.Group):
    """A group that suggests a command for a name that does not exist."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or what may be meant; refuse options that would be dropped."""
        name = str(args[0]) if args else ""
        if name and not name.startswith("-") and self.get_command(ctx, name) is None:
            close = get_close_matches(name, self.list_commands(ctx), 3, 0.5)
            advice = (
                f"Did you mean {' or '.join(map(repr, close))}?"
                if close
                else "See --help for a list."
            )
            ctx.fail(f"No such command '{one_line(name, 60)}'. {advice}")
        found, command, rest = super().resolve_command(ctx, args)
        if command is not None and not ctx.resilient_parsing:
            refuse_seconds(command, click.Context(command, ctx, found), rest)
        return found, command, rest


class SafeGroup(HelpfulGroup):
    """A group whose commands print a traceback only with ``--debug``."""

    def main(  # type: ignore[override]  # click's overloads only tell whether it returns
        self, args: Sequence[str] | None = None, *, standalone_mode: bool = True, **extra: Any
    ) -> Any:
        """Run the command line, and answer a wrong one by words that are safe to print."""
        run: Callable[[], Any] = partial(super().main, args, standalone_mode=False, **extra)
        if not standalone_mode:
            return run()
        try:
            code: Any = run()
        except click.ClickException as error:
            if not isinstance(error, click.exceptions.NoArgsIsHelpError):
                # A name in it may hold line breaks. click declares it final.
                error.message = one_line(error.message)  # type: ignore[misc]
            words = StringIO()
            error.show(words)
            hint("\n".join(one_line(line) for line in words.getvalue().rstrip().split("\n")))
            code = error.exit_code
        except BrokenPipeError:
            code = ExitCode.ERROR
        except (click.Abort, OSError, IterregError) as error:
            cause = KeyboardInterrupt() if isinstance(error, click.Abort) else error
            message, code = describe(cause)
            complain(message)
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn exceptions into one line and an exit code."""
        completed: list[Path] = []
        try:
            with warnings.catch_warnings(), completed_outputs() as completed:
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except (Exception, KeyboardInterrupt) as error:
            message, code = describe(error, completed)
            complain(message)
            if ctx.meta.get(DEBUG):
                traceback.print_exception(error, file=sys.stderr)
            ctx.exit(code)


def describe(error: BaseException, completed: Sequence[Path] = ()) -> tuple[str, int]:
    """Describe an exception by one line and an exit code.

    Args:
        error: the exception that ended the command.
        completed: the results that it had written.

    Returns:
        The message, without a line break, and the exit code.
    """
    if was_interrupted(error):
        names = one_line(", ".join(dict.fromkeys(map(str, completed))), 200)
        left = f"complete: {names}" if completed else "nothing was written"
        return f"interrupted; {left}", ExitCode.INTERRUPTED
    if is_out_of_memory(error) and not isinstance(error, OutOfMemoryError):
        return f"error: {MEMORY_ADVICE}", ExitCode.OUT_OF_MEMORY
    if isinstance(error, IterregError):
        return f"error: {one_line(str(error))}", error.exit_code
    if isinstance(error, OSError) and error.errno is not None:
        return _refused_by_the_system(error)
    if isinstance(error, ModuleNotFoundError) and not (error.name or "iterreg").startswith(
        "iterreg"
    ):
        return f"error: {one_line(str(error))}; {INSTALL_ADVICE}", ExitCode.MISSING_DEPENDENCY
    return (
        f"error: this is a bug in iterreg: {type(error).__name__}: {one_line(str(error), 300)}; "
        "please report it with the command line, the versions (iterreg --version) and what "
        "--debug prints",
        ExitCode.ERROR,
    )


def debug_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--debug``, which prints the traceback of a failure."""

    def remember(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        if value:
            ctx.meta[DEBUG] = True

    return click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=remember,
        help="Print the traceback of an error.",
    )(command)


def _refused_by_the_system(error: OSError) -> tuple[str, int]:
    """A file that the system does not open, read or write."""
    reason = error.strerror or str(error)
    what = "" if error.filename is None else f"{error.filename}: "
    if error.errno in NO_ROOM:
        return f"error: {one_line(f'{what}cannot be written: {reason}')}", ExitCode.OUTPUT
    return f"error: {one_line(f'{what}cannot be used: {reason}')}", ExitCode.IMAGE_READ


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    """Print iterreg's own warnings, one line each; hide those of other libraries."""
    if category.__module__.split(".")[0] == "iterreg":
        complain(f"warning: {one_line(str(message))}")
