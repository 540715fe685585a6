"""The standard streams: closed or full ones never cost a result, and nothing foreign is printed."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator

import click

from iterreg.errors import OutputError
from iterreg.texts import printable


def open_standard_streams() -> None:
    """Open what was closed on the null device.

    Otherwise the first file that is opened gets the number of standard output, and what a library
    prints ends up in it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115


class _Stream(io.TextIOWrapper):
    """A standard stream that its errors name."""

    title = "standard stream"

    def write(self, text: str, /) -> int:
        """Write text; an error names the stream."""
        with self._named():
            return super().write(text)

    def flush(self) -> None:
        """Write the buffer; an error names the stream."""
        with self._named():
            super().flush()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            error.filename = self.title
            raise


def name_standard_streams() -> None:
    """Give the standard streams file numbers of their own, and names for their errors."""
    for name, title in (("stdout", "standard output"), ("stderr", "standard error")):
        old = getattr(sys, name)
        with contextlib.suppress(OSError):
            old.flush()
        own = open(os.dup(old.fileno()), "wb")  # noqa: SIM115  # open until the process ends
        new = _Stream(
            own, encoding=old.encoding, errors=old.errors, line_buffering=old.line_buffering
        )
        new.title = title
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)


def keep_foreign_output_in(pipe: int) -> None:
    """Send what libraries in C print into a pipe; Python's streams print as before."""
    for number in (1, 2):
        os.dup2(pipe, number)


def tell(text: str = "") -> None:
    """Print a line on standard output, without letters that steer a terminal."""
    click.echo(printable(text))


def complain(text: str) -> None:
    """Print a message on standard error; if that is full, nobody can be told."""
    hint(f"iterreg: {text}")


def hint(text: str) -> None:
    """Print a line on standard error, without a name before it."""
    with contextlib.suppress(OSError):
        click.echo(printable(text), err=True)


def close_stdout() -> None:
    """Write what is left in standard output's buffer, once.

    Raises:
        OutputError: it is full. The rest is dropped, so that the interpreter does not try again.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            reason = error.strerror or str(error)
            raise OutputError(f"standard output: cannot be written: {reason}") from error


def close_stderr() -> None:
    """Write what is left in standard error's buffer; if it is full, nobody can be told.

    The rest is dropped: otherwise the interpreter tries again at its end, and changes the exit code
    to 120.
    """
    try:
        sys.stderr.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stderr.fileno())
