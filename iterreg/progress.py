"""Progress: the one type in which everything that takes long says how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


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
