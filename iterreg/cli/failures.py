"""Report a failure to the user: one line on stderr, and an exit code."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import click

from iterreg.errors import ExitCode, IterregError

DEBUG = "iterreg.debug"
"""Key of ``--debug`` in click's context."""

MEMORY_ADVICE = (
    "out of memory: try --device cpu, or a coarser last level, such as "
    "--set 'levels.spacing_mm=[8.0, 4.0]' --set 'levels.steps=[20, 15]'"
)


class SafeGroup(click.Group):
    """A group whose commands print a traceback only with ``--debug``, and drop no option."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; refuse a second value where an option takes one.

        Raises:
            click.UsageError: naming the option.
        """
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and not ctx.resilient_parsing:
            _refuse_seconds(command, click.Context(command, ctx, name), rest)
        return name, command, rest

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn exceptions into one line and an exit code."""
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except (Exception, KeyboardInterrupt) as error:
            message, code = describe(error)
            click.echo(f"iterreg: {message}", err=True)
            if ctx.meta.get(DEBUG):
                traceback.print_exception(error, file=sys.stderr)
            ctx.exit(code)


def _refuse_seconds(command: click.Command, ctx: click.Context, args: list[str]) -> None:
    """Refuse an option that is given twice and takes one value; click would keep the last."""
    try:
        _, rest, order = command.make_parser(ctx).parse_args(list(args))
    except click.UsageError:
        return  # told when the command itself is parsed
    for param in order:
        if not isinstance(param, click.Option) or param.multiple or param.count:
            continue
        if order.count(param) > 1 and (not param.is_flag or param.secondary_opts):
            raise click.UsageError(
                f"{param.opts[-1]} takes one value, and was given {order.count(param)}", ctx
            )
    if isinstance(command, click.Group) and rest:
        inner = command.get_command(ctx, rest[0])
        if inner is not None:
            _refuse_seconds(inner, click.Context(inner, ctx, rest[0]), rest[1:])


def describe(error: BaseException) -> tuple[str, int]:
    """Describe an exception by one line and an exit code.

    Args:
        error: the exception that ended the command.

    Returns:
        The message, without a line break, and the exit code.
    """
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; nothing was written", ExitCode.INTERRUPTED
    if isinstance(error, IterregError):
        return f"error: {_one_line(error)}", error.exit_code
    if _is_out_of_memory(error):
        return f"error: {MEMORY_ADVICE}", ExitCode.OUT_OF_MEMORY
    return (
        f"error: this is a bug in iterreg: {type(error).__name__}: {_one_line(error)[:300]}; "
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


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _is_out_of_memory(error: BaseException) -> bool:
    """Check by name, because torch may not be loaded and its CPU allocator raises RuntimeError."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(
        sign in str(error) for sign in ("DefaultCPUAllocator", "out of memory", "bad_alloc")
    )


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
        click.echo(f"iterreg: warning: {' '.join(str(message).split())}", err=True)
