"""Progress: the one type in which everything that takes long says how far it is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from typing import Any, TextIO

LINE_WIDTH = 70
"""A shorter message is filled up, so that nothing of the one before it stays."""


@dataclass(frozen=True)
class Progress:
    """How far a piece of work is.

    Args:
        stage: a short, stable name, such as ``read``, ``regions``, ``start``, ``level 2``.
        fraction: share of the work that is done, 0 to 1.
        message: one line for a person.

    Example:
        >>> Progress("level 2", 0.5, "level 2: 4 mm")
        Progress(stage='level 2', fraction=0.5, message='level 2: 4 mm')
    """

    stage: str
    fraction: float
    message: str


ProgressCallback = Callable[[Progress], None]


def ignore_progress(event: Progress) -> None:
    """The callback for callers that do not want to know."""


class ShowProgress:
    """Shows progress: a bar in a notebook, a line that is overwritten on a terminal, else lines.

    Args:
        stream: where lines go; None is standard error.

    Example:
        >>> import io
        >>> lines = io.StringIO()
        >>> ShowProgress(lines)(Progress("level 2", 0.5, "level 2: 4 mm"))
        >>> lines.getvalue()
        ' 50 %  level 2: 4 mm\\n'
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        """Find out where it is shown."""
        self._stream = sys.stderr if stream is None else stream
        self._notebook = _in_notebook() and stream is None
        self._handle: Any = None
        self._last = ""

    def __call__(self, event: Progress) -> None:
        """Show an event, if its message is new."""
        if event.message == self._last:
            return
        self._last = event.message
        percent = f"{100 * event.fraction:3.0f} %"
        if self._notebook:
            self._draw(event, percent)
        elif self._stream.isatty():
            end = "\n" if event.fraction >= 1 else ""
            print(f"\r{percent}  {event.message:<{LINE_WIDTH}}", end=end, file=self._stream)
            self._stream.flush()
        else:
            print(f"{percent}  {event.message}", file=self._stream)

    def _draw(self, event: Progress, percent: str) -> None:
        display = sys.modules["IPython"].display
        shown = display.HTML(
            f"<progress max='1' value='{event.fraction:.3f}'></progress> "
            f"{percent} {escape(event.message)}"
        )
        if self._handle is None:
            self._handle = display.display(shown, display_id=True)
        else:
            self._handle.update(shown)


def _in_notebook() -> bool:
    """Whether a Jupyter kernel runs this; IPython is there then, and is not imported otherwise."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def as_callback(progress: ProgressCallback | bool | None) -> ProgressCallback:
    """The callback of an argument ``progress``: True shows it, None and False do not."""
    if callable(progress):
        return progress
    return ShowProgress() if progress else ignore_progress


@dataclass
class StageTimer:
    """Announces stages and adds up their wall seconds.

    Args:
        callback: called when a stage begins.
        synchronise: called before a stage's clock stops, to wait for work on a GPU.
        seconds: wall seconds of each stage, in order.

    Example:
        >>> timer = StageTimer(lambda event: print(event.message))
        >>> with timer.stage("read", 0.0, "reading"):
        ...     pass
        reading
        >>> list(timer.seconds)
        ['read']
    """

    callback: ProgressCallback = ignore_progress
    synchronise: Callable[[], None] = lambda: None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, fraction: float, message: str) -> Iterator[None]:
        """Announce a stage and time the block."""
        self.callback(Progress(name, fraction, message))
        begun = time.perf_counter()
        yield
        self.synchronise()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun
