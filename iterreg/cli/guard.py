"""Run a command in a process of its own, so that whatever ends it is told in one line.

A library in C may end the process: by a damaged file, or because memory ran out. Nothing inside
the process can catch that. So the command runs in a child. The parent imports nothing more, waits,
passes signals on, and keeps the last of what foreign libraries print, which nobody else sees.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from iterreg.atomic import clean_up, keep_journal
from iterreg.cli.streams import complain, keep_foreign_output_in
from iterreg.errors import MEMORY_WORDS, CrashError, ExitCode, IterregError, OutOfMemoryError
from iterreg.processes import die_with_parent
from iterreg.texts import one_line

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end a command as Ctrl-C does."""

A_MOMENT_S = 0.05
"""How long an object has to end before a signal that it dropped is given again."""

ORDERLY = b"\0iterreg ended by itself\0"
"""What the child writes last."""

KEPT_BYTES = 1 << 16
"""How much of the foreign output is kept: its end."""

MORE_MEMORY_WORDS = ("memoryerror", "resource temporarily unavailable", "thread creation failed")
"""How libraries in C say that memory, or the room for a thread's stack, ran out."""


def run_guarded(run: Callable[[], None]) -> None:
    """Run a command in a child process, and end this process with its exit code.

    With ``--debug``, or where processes cannot be forked, the command runs in this process and
    foreign libraries print what they like.
    """
    if "--debug" in sys.argv or not hasattr(os, "fork"):
        end_on_signals()
        run()
        return
    from_child, to_parent = os.pipe()
    journal = _shared_file()
    parent = os.getpid()
    with _signals_held():
        child = os.fork()
        if child == 0:
            end_on_signals()
            os.close(from_child)
            die_with_parent(parent)
            keep_foreign_output_in(to_parent)
            keep_journal(journal)
        else:
            os.close(to_parent)
            _pass_signals_to(child)
    if child == 0:
        try:
            run()
        finally:
            # Nothing is left to interrupt, but Python takes half a second to leave.
            with suppress(KeyboardInterrupt):
                _ignore_signals()
            os.write(to_parent, ORDERLY)
        return
    try:
        os._exit(_answer(*_wait(child, from_child), journal))
    except MemoryError:
        os._exit(ExitCode.OUT_OF_MEMORY)


def end_on_signals() -> None:
    """End by SIGTERM and SIGHUP as by Ctrl-C: clean up, then exit. Signals after it are ignored."""

    def end(number: int, frame: FrameType | None) -> None:
        _ignore_signals()
        raise KeyboardInterrupt

    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)
    _end_where_python_cannot(end)


def _ignore_signals() -> None:
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


def _end_where_python_cannot(end: Callable[[int, FrameType | None], None]) -> None:
    """End a moment later where Python drops Ctrl-C, as in the last act of an object."""
    told = sys.unraisablehook

    def again(dropped: sys.UnraisableHookArgs) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            told(dropped)
            return
        signal.signal(signal.SIGALRM, end)
        signal.setitimer(signal.ITIMER_REAL, A_MOMENT_S)

    if hasattr(signal, "setitimer"):
        sys.unraisablehook = again


def _shared_file() -> int | None:
    """A file without a name that both processes see."""
    try:
        return os.memfd_create("iterreg") if hasattr(os, "memfd_create") else _unnamed_file()
    except OSError:
        return None


def _unnamed_file() -> int:
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


@contextmanager
def _signals_held() -> Iterator[None]:
    """Deliver no signal until both processes know what to do with it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _pass_signals_to(child: int) -> None:
    def pass_on(number: int, frame: FrameType | None) -> None:
        os.kill(child, number)

    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, pass_on)


def _wait(child: int, pipe: int) -> tuple[int, bytes]:
    """Wait for the child; return its status and the end of what was printed meanwhile."""
    printed, is_open = b"", True
    while True:
        if is_open and select.select([pipe], [], [], 0.2)[0]:
            piece = os.read(pipe, KEPT_BYTES)
            printed = (printed + piece)[-KEPT_BYTES:]
            is_open = bool(piece)
        ended, status = os.waitpid(child, os.WNOHANG if is_open else 0)
        if ended:
            return status, printed


def _answer(status: int, printed: bytes, journal: int | None) -> int:
    """The exit code; after a child that did not end by itself this cleans up, and says why."""
    code = os.waitstatus_to_exitcode(status)
    if code in (0, ExitCode.INTERRUPTED) or (code > 0 and ORDERLY in printed):
        return code
    if journal is not None:
        clean_up(journal)
    error = ended_by(code, printed)
    complain(f"error: {error}")
    return error.exit_code


def ended_by(code: int, printed: bytes) -> IterregError:
    """Say in one line why a process ended that did not end by itself.

    Args:
        code: its exit code; minus the number of the signal that killed it.
        printed: the last of what libraries printed.

    Returns:
        The error, to be told in one line.
    """
    text = printed.decode("utf-8", "replace")
    words = MEMORY_WORDS + MORE_MEMORY_WORDS
    if code == -signal.SIGKILL or any(word in text.lower() for word in words):
        return OutOfMemoryError(
            "out of memory: the system or a library ended the process; crop the images, use a "
            "coarser levels.spacing_mm, or allow more memory"
        )
    how = f"exit code {code}" if code > 0 else signal.Signals(-code).name
    lines = reversed(text.split("\n"))
    last = one_line(next((line for line in lines if line.strip()), ""), 200)
    return CrashError(
        f"a library ended the process ({how}{f': {last}' if last else ''}), most often because a "
        "file is damaged; --debug shows what it prints"
    )
