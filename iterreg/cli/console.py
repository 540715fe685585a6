"""What the user sees: progress while it runs, a short table at the end.

On a terminal rich draws both; elsewhere they are plain lines, progress on stderr, the table on
stdout. Rich is imported only when it is needed.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

if TYPE_CHECKING:
    from iterreg.evaluation import Measures
    from iterreg.metrics import TreSummary
    from iterreg.outputs import RunSummary

OPTIMISATION_SHARE = 0.85
"""Share of the bar that belongs to the optimisation; measuring and writing have the rest."""

Show = Callable[[str, float], None]
Row = tuple[str, ...]


class ProgressEvent(Protocol):
    """What ``optimize_pair`` reports."""

    @property
    def fraction(self) -> float:
        """Of the whole optimisation, 0 to 1."""

    @property
    def message(self) -> str:
        """What it is doing, in words."""


class Reporter:
    """Receives progress, from the optimisation and from the writing after it."""

    def __init__(self, show: Show) -> None:
        """Pass what is reported on to ``show``."""
        self._show = show
        self._optimised = False

    def optimisation(self, event: ProgressEvent) -> None:
        """For ``optimize_pair(progress=...)``."""
        self._optimised = True
        self._show(event.message, OPTIMISATION_SHARE * event.fraction)

    def stage(self, name: str, fraction: float) -> None:
        """For what surrounds the optimisation."""
        before = OPTIMISATION_SHARE if self._optimised else 0.0
        self._show(name, before + (1 - before) * fraction)


class Console:
    """Prints for one command.

    Args:
        quiet: print nothing; errors are not printed here.
        verbose: print the configuration and all notes too.
    """

    def __init__(self, quiet: bool = False, verbose: bool = False) -> None:
        """Find out whether there is a terminal."""
        self._quiet = quiet
        self._verbose = verbose
        self._fancy = sys.stdout.isatty() and sys.stderr.isatty()

    @contextmanager
    def progress(self) -> Iterator[Reporter]:
        """A bar on a terminal, one line for each new stage elsewhere."""
        if self._quiet:
            yield Reporter(lambda message, fraction: None)
        elif self._fancy:
            with _bar() as show:
                yield Reporter(show)
        else:
            yield Reporter(_Lines())

    def print_run(self, summary: RunSummary, command: str, folder: Path) -> None:
        """The table at the end of a registration."""
        if self._quiet:
            return
        run = summary.registration
        seconds = sum(summary.timings_s.values())
        good = run.status.is_ok
        self._say(f"{command}: {run.status.value}", style="bold green" if good else "bold yellow")
        self._say(f"{seconds:.1f} s on {run.device}; start: {run.start}")
        self.print_measures(summary.measures)
        stages = [f"{stage} {s:.1f}" for stage, s in summary.timings_s.items() if s >= 0.05]
        self._facts(
            [
                ("seconds", ", ".join(stages)),
                ("results", f"{folder}"),
                ("look at", f"{folder / 'overlay.png'}"),
            ]
        )
        self._notes(run.notes)
        if self._verbose:
            self._configuration(run)

    def print_measures(self, measures: Measures) -> None:
        """Regions before and after, then what the field itself is like."""
        if self._quiet:
            return
        if measures.regions:
            self._table(*_region_table(measures))
        self._facts(_field_facts(measures))

    def print_facts(self, facts: Sequence[tuple[str, str]]) -> None:
        """Names and what is to be said of each, in two columns, unless quiet."""
        if not self._quiet:
            self._facts(facts)

    def say(self, text: str, style: str = "") -> None:
        """A line, unless quiet."""
        if not self._quiet:
            self._say(text, style)

    def _say(self, text: str, style: str = "") -> None:
        if not self._fancy:
            click.echo(text)
            return
        from rich.console import Console as RichConsole
        from rich.text import Text

        RichConsole(highlight=False).print(Text(text, style=style), soft_wrap=True)

    def _notes(self, notes: Sequence[str]) -> None:
        shown = notes if self._verbose else notes[:3]
        for note in shown:
            self._say(f"note: {note}", style="yellow")
        if len(notes) > len(shown):
            self._say(f"note: {len(notes) - len(shown)} more in run.json", style="yellow")

    def _configuration(self, run: Any) -> None:
        from iterreg.config import config_to_dict

        for key, value in config_to_dict(run.config).items():
            self._say(f"config: {key} = {value}", style="dim")
        for image, view in run.field_of_view.items():
            self._say(f"field of view, {image}: {view}", style="dim")

    def _facts(self, facts: Sequence[tuple[str, str]]) -> None:
        width = max(len(name) for name, _ in facts)
        for name, text in facts:
            self._say(f"{name:<{width}}  {text}")

    def _table(self, header: Row, rows: Sequence[Row]) -> None:
        if self._fancy:
            _rich_table(header, rows)
            return
        click.echo()
        widths = [max(len(r[k]) for r in (header, *rows)) for k in range(len(header))]
        for row in (header, *rows):
            cells = [f"{row[0]:<{widths[0]}}"]
            cells += [f"{c:>{w}}" for c, w in zip(row[1:], widths[1:], strict=True)]
            click.echo("  ".join(cells).rstrip())
        click.echo()


class _Lines:
    """A line for each new message, once the inputs are known to be good."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, message: str, fraction: float) -> None:
        if fraction > 0 and message != self._last:
            self._last = message
            click.echo(f"{100 * fraction:3.0f} %  {message}", err=True)


@contextmanager
def _bar() -> Iterator[Show]:
    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(style="cyan"),
        BarColumn(bar_width=32, complete_style="cyan", finished_style="green"),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.description}", markup=True),
    )
    with Progress(*columns, console=RichConsole(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=1.0)

        def show(message: str, fraction: float) -> None:
            bar.update(task, description=message.replace("[", "\\["), completed=fraction)

        yield show


def _rich_table(header: Row, rows: Sequence[Row]) -> None:
    from rich import box
    from rich.console import Console as RichConsole
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for k, title in enumerate(header):
        table.add_column(title, justify="left" if k == 0 else "right")
    for row in rows:
        table.add_row(*(cell.replace("->", "→").replace("[", "\\[") for cell in row))
    RichConsole(highlight=False).print(table)


def _region_table(measures: Measures) -> tuple[Row, list[Row]]:
    deep = any(region.coverage is not None for region in measures.regions)
    header: Row = ("region", "Dice", "HD95 (mm)")
    header += ("reached (%)", "volume") if deep else ()
    rows = []
    for region in measures.regions:
        row: Row = (
            region.name.replace("_", " "),
            f"{_number(region.dice_before, 3)} -> {_number(region.dice_after, 3)}",
            f"{_number(region.hd95_before_mm, 1)} -> {_number(region.hd95_after_mm, 1)}",
        )
        if deep:
            reached = math.nan if region.coverage is None else 100 * region.coverage
            change = math.nan if region.volume_change is None else region.volume_change
            row += (_number(reached, 1), f"x {_number(change, 3)}")
        rows.append(row)
    return header, rows


def _field_facts(measures: Measures) -> list[tuple[str, str]]:
    folds = measures.folding
    facts = [("before", f"is {measures.before}")]
    if measures.tre_before is not None and measures.tre_after is not None:
        facts.append(("landmarks", _tre(measures.tre_before, measures.tre_after)))
    facts.append(
        (
            "folding",
            f"interior {_share(folds.interior_folds, folds.interior_voxels)}, "
            f"interfaces {_share(folds.interface_folds, folds.interface_voxels)} "
            f"({100 * folds.share_interior:.0f} % of all voxels are interior)",
        )
    )
    sdlogj = f"{_number(measures.sdlogj_interior, 3)} interior, {_number(measures.sdlogj, 3)} whole"
    if measures.sdlogj_l2r is not None:
        sdlogj += f", {_number(measures.sdlogj_l2r, 4)} as Learn2Reg counts it"
    facts.append(("SDlogJ", sdlogj))
    if measures.without_partner:
        facts.append(("skipped", "in one image only: " + ", ".join(measures.without_partner)))
    return facts


def _tre(before: TreSummary, after: TreSummary) -> str:
    return (
        f"{before.mean_mm:.2f} -> {after.mean_mm:.2f} mm on average, worst "
        f"{before.max_mm:.1f} -> {after.max_mm:.1f} ({after.count} landmarks)"
    )


def _share(folds: int, voxels: int) -> str:
    if folds == 0 or voxels == 0:
        return "none"
    return f"{100 * folds / voxels:.2g} %"


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"
