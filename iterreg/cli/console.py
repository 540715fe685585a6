"""Print for people: progress while a command runs, a short table at the end.

On a terminal rich draws both; elsewhere they are plain lines, progress on stderr, the table on
stdout. Rich is imported only when it is needed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from iterreg.cli.progress_bar import Lines, bar
from iterreg.cli.streams import tell
from iterreg.progress import Progress, ProgressCallback, ignore_progress
from iterreg.texts import printable

if TYPE_CHECKING:
    from iterreg.evaluation import Measures
    from iterreg.evaluation.tables import Fact, Row
    from iterreg.outputs import RunSummary
    from iterreg.registration import Registration
    from iterreg.verdict import Verdict

LINE_WIDTH = 100
"""Lists are folded to lines of at most this length."""

MAX_NOTES = 3
"""Most notes of a run that are printed without ``--verbose``."""

VERDICT_STYLES = {"ok": "bold green", "doubtful": "bold yellow", "failed": "bold red"}

MAX_REASONS = 4
"""Most reasons of a verdict that are printed."""


def portion(report: ProgressCallback, first: float, last: float) -> ProgressCallback:
    """Make a callback whose events fill a portion of the progress bar.

    Args:
        report: receives the events, with fractions of the whole bar.
        first, last: the portion, 0 to 1.

    Example:
        >>> second_half = portion(lambda event: print(event.fraction), 0.5, 1.0)
        >>> second_half(Progress("write", 0.5, "writing"))
        0.75
    """

    def report_portion(event: Progress) -> None:
        fraction = first + (last - first) * event.fraction
        report(Progress(event.stage, fraction, event.message))

    return report_portion


def fold(items: Sequence[str], width: int) -> list[str]:
    """Join items by commas into lines of at most ``width`` characters, never breaking an item.

    Example:
        >>> fold(["read 0.3", "regions 12.0", "start 1.5"], 24)
        ['read 0.3, regions 12.0,', 'start 1.5']
    """
    lines: list[str] = []
    for item in items:
        if lines and len(f"{lines[-1]}, {item},") <= width:
            lines[-1] = f"{lines[-1]}, {item}"
        else:
            lines.append(item)
    return [f"{line}," for line in lines[:-1]] + lines[-1:]


class Console:
    """Prints the progress and the results of one command.

    Args:
        quiet: print nothing. (Errors are printed elsewhere.)
        verbose: also print the configuration and all notes.
    """

    def __init__(self, quiet: bool = False, verbose: bool = False) -> None:
        """Check whether there is a terminal."""
        self._quiet = quiet
        self._verbose = verbose
        self._fancy = sys.stdout.isatty() and sys.stderr.isatty()

    @contextmanager
    def progress(self) -> Iterator[ProgressCallback]:
        """Show progress: a bar on a terminal, elsewhere a line for each new message."""
        if self._quiet:
            yield ignore_progress
        elif self._fancy:
            with bar() as show:
                yield show
        else:
            yield Lines()

    def print_run(self, summary: RunSummary, command: str, folder: Path) -> None:
        """Print the table at the end of a registration."""
        if self._quiet:
            return
        from iterreg.evaluation.tables import inverse_facts

        run = summary.registration
        seconds = sum(summary.timings_s.values())
        self._verdict(run.verdict, command)
        self._say(f"{seconds:.1f} s on {run.device}; start: {run.start}")
        inverse = [] if summary.inverse is None else inverse_facts(summary.inverse)
        shift: list[Fact] = [] if summary.rigid is None else [("rigid part", summary.rigid.words)]
        self.print_measures(summary.measures, [*inverse, *shift])
        stages = [f"{stage} {s:.1f}" for stage, s in summary.timings_s.items() if s >= 0.05]
        self._facts([("seconds", stages), ("results", str(folder)), ("look at", _look_at(folder))])
        self._notes((*run.notes, *summary.measures.notes))
        if self._verbose:
            self._configuration(run)

    def _verdict(self, verdict: Verdict, command: str) -> None:
        """Print the verdict in the first line, then the other reasons and what to do."""
        style = VERDICT_STYLES[verdict.status.value]
        self._say(f"{command}: {verdict.headline}", style=style)
        for reason in verdict.reasons[1:MAX_REASONS]:
            self._say(f"  also, {reason.words}", style=style)
        if left := verdict.reasons[MAX_REASONS:]:
            self._say(f"  and {len(left)} more reasons in run.json", style=style)
        for advice in dict.fromkeys(reason.advice for reason in verdict.reasons[:MAX_REASONS]):
            self._say(f"  {advice}")

    def print_measures(self, measures: Measures, more: Sequence[Fact] = ()) -> None:
        """Print the regions before and after, then measures of the field and more facts."""
        if self._quiet:
            return
        from iterreg.evaluation.tables import field_facts, region_table

        if measures.regions:
            self._table(*region_table(measures))
        self._facts([*field_facts(measures), *more])

    def print_facts(self, facts: Sequence[Fact]) -> None:
        """Print names and texts in two columns, unless quiet; long lists are folded."""
        if not self._quiet:
            self._facts(facts)

    def say(self, text: str, style: str = "") -> None:
        """Print a line, unless quiet."""
        if not self._quiet:
            self._say(text, style)

    def _say(self, text: str, style: str = "") -> None:
        if not self._fancy:
            tell(text)
            return
        from rich.console import Console as RichConsole
        from rich.text import Text

        RichConsole(highlight=False).print(Text(printable(text), style=style), soft_wrap=True)

    def _notes(self, notes: Sequence[str]) -> None:
        printed = notes if self._verbose else notes[:MAX_NOTES]
        for note in printed:
            self._say(f"note: {note}", style="yellow")
        if len(notes) > len(printed):
            self._say(f"note: {len(notes) - len(printed)} more in run.json", style="yellow")

    def _configuration(self, run: Registration) -> None:
        from iterreg.config import config_to_dict

        for key, value in config_to_dict(run.config).items():
            self._say(f"config: {key} = {value}", style="dim")
        for image, view in run.field_of_view.items():
            self._say(f"field of view, {image}: {view}", style="dim")

    def _facts(self, facts: Sequence[Fact]) -> None:
        width = max(len(name) for name, _ in facts)
        for name, value in facts:
            lines = [value] if isinstance(value, str) else fold(value, LINE_WIDTH - width - 2)
            for k, line in enumerate(lines):
                self._say(f"{name if k == 0 else '':<{width}}  {line}")

    def _table(self, header: Row, rows: Sequence[Row]) -> None:
        if self._fancy:
            _rich_table(header, rows)
            return
        from iterreg.evaluation.tables import aligned

        tell()
        for line in aligned((header, *rows)):
            tell(line)
        tell()


def _rich_table(header: Row, rows: Sequence[Row]) -> None:
    from rich import box
    from rich.console import Console as RichConsole
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for k, title in enumerate(header):
        table.add_column(title, justify="left" if k == 0 else "right")
    for row in rows:
        table.add_row(*(printable(cell).replace("->", "→").replace("[", "\\[") for cell in row))
    RichConsole(highlight=False).print(table)


def _look_at(folder: Path) -> str:
    """The page of a run, or the picture if it was left out."""
    page = folder / "report.html"
    return str(page if os.path.exists(page) else folder / "overlay.png")
