"""Tables that ``iterreg learn2reg`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from iterreg.cli.streams import tell
from iterreg.evaluation.tables import number

if TYPE_CHECKING:
    from iterreg.learn2reg.evaluate import Scores
    from iterreg.learn2reg.register import Outcome
    from iterreg.learn2reg.task import Task


def print_outcomes(task: Task, outcomes: Sequence[Outcome]) -> None:
    """Print a row for each case that was registered."""
    first = next((o.used for o in outcomes if o.used), {})
    facts = [f"{kind}: {what}" for kind, what in first.items()]
    tell("; ".join([f"{task.name}, {task.split}", *facts]))
    rows = [
        (
            o.case,
            number(o.seconds, 1),
            number(o.peak_mb / 1024, 2),
            ("kept; " if o.kept else "") + ("" if o.ok else "FAILED: ") + o.message,
        )
        for o in outcomes
    ]
    _table(("case", "seconds", "peak GB", "status"), rows)


def refuse_failed(outcomes: Sequence[Outcome]) -> None:
    """End the command if cases failed, with their exit code if all failed for one kind of reason.

    Raises:
        IterregError: naming the cases, and the reason of the first.
    """
    from iterreg.errors import IterregError, OutOfMemoryError, OutputError

    failed = [outcome for outcome in outcomes if not outcome.ok]
    if not failed:
        return
    codes = {outcome.exit_code for outcome in failed}
    kinds = {kind.exit_code: kind for kind in (OutputError, OutOfMemoryError)}
    kind = kinds.get(codes.pop(), IterregError) if len(codes) == 1 else IterregError
    names = ", ".join(outcome.case for outcome in failed)
    raise kind(
        f"{len(failed)} of {len(outcomes)} cases failed ({names}): {failed[0].message}; no zip was "
        "written; run the same command to try them again"
    )


def print_scores(scores: Scores) -> None:
    """Print a row for each case, then mean, standard deviation and 30 % quantile."""
    aggregates = scores.aggregates()
    names = [m.name for m in scores.methods if any(m.name in c.values for c in scores.cases)]
    header = ("case", *names, "folds inside", "at interfaces", "SDlogJ inside")
    rows = []
    for case in scores.cases:
        folds = case.true_folds.folding
        cells = [number(case.values[n][0], 4) if n in case.values else "-" for n in names]
        rows.append(
            (
                case.case,
                *cells,
                f"{folds.interior_folds}",
                f"{folds.interface_folds}",
                number(case.true_folds.sdlogj_interior, 3),
            )
        )
    for title, key in (("mean", "mean"), ("std", "std"), ("30 %", "30")):
        cells = [number(aggregates[n][key], 4) if n in aggregates else "-" for n in names]
        rows.append((title, *cells, "", "", ""))
    _table(header, rows)
    regions = dict.fromkeys(case.true_folds.regions for case in scores.cases)
    tell(f"regions for the folds: {', '.join(regions)}")
    for note in dict.fromkeys(n for case in scores.cases for n in case.notes):
        tell(f"note: {note}")


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print aligned columns: the first one and a last one called status to the left."""
    last = len(header) - 1
    widths = [max(len(row[k]) for row in (header, *rows)) for k in range(len(header))]
    tell()
    for row in (header, *rows):
        words = header[last] == "status"
        cells = [
            f"{cell:<{width}}" if k == 0 or (k == last and words) else f"{cell:>{width}}"
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        tell("  ".join(cells).rstrip())
    tell()
