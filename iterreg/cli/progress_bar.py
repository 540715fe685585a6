"""Show the progress of a command: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from iterreg.cli.streams import hint
from iterreg.progress import Progress, ProgressCallback
from iterreg.texts import one_line


class Lines:
    """Prints a line for each new message, but none before the inputs have been read."""

    def __init__(self) -> None:
        """Nothing was printed yet."""
        self._last = ""

    def __call__(self, event: Progress) -> None:
        """Print the event's message, if it is new."""
        if event.fraction > 0 and event.message != self._last:
            self._last = event.message
            hint(f"{100 * event.fraction:3.0f} %  {one_line(event.message, 120)}")


@contextmanager
def bar() -> Iterator[ProgressCallback]:
    """Draw a bar on the terminal while the block runs."""
    from rich import progress as rich_progress
    from rich.console import Console as RichConsole

    columns = (
        rich_progress.SpinnerColumn(style="cyan"),
        rich_progress.BarColumn(bar_width=32, complete_style="cyan", finished_style="green"),
        rich_progress.TextColumn("{task.percentage:>3.0f} %"),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TextColumn("[dim]{task.description}", markup=True),
    )
    console = RichConsole(stderr=True)
    with rich_progress.Progress(*columns, console=console, transient=True) as drawn:
        task = drawn.add_task("starting", total=1.0)

        def show(event: Progress) -> None:
            text = one_line(event.message, 120).replace("[", "\\[")
            drawn.update(task, description=text, completed=event.fraction)

        yield show
