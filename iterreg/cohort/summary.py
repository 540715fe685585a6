"""The tables of a cohort: ``cohort.csv``, ``failures.csv`` and the page ``cohort.html``."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from iterreg.atomic import write_text
from iterreg.cohort.cases import State
from iterreg.cohort.evidence import headline_figures
from iterreg.cohort.page import write_page
from iterreg.cohort.plan import Plan
from iterreg.cohort.records import CASES, read_failure, read_record
from iterreg.texts import without_controls

FIGURES = tuple(headline_figures({}))
"""Columns that hold the figures of a run."""

COLUMNS = (
    "id",
    "state",
    "verdict",
    "exit_code",
    "reasons",
    "worst_evidence",
    "worst_ratio",
    *FIGURES,
    "seconds",
    "peak_mb",
    "device",
    "threads",
    "version",
    "preset",
    "fixed",
    "moving",
    "folder",
)
"""Columns of ``cohort.csv``."""

FAILURE_COLUMNS = ("id", "row", "exit_code", "reason", "date", "fixed", "moving")
"""Columns of ``failures.csv``."""

PAGE, TABLE, FAILURES = "cohort.html", "cohort.csv", "failures.csv"

FORMULA = ("=", "+", "-", "@")
"""A spreadsheet would run a cell that begins so."""


@dataclass(frozen=True)
class Row:
    """One case as tables and the page show it.

    Args:
        cells: by the names of :data:`COLUMNS`.
        failure: by the names of :data:`FAILURE_COLUMNS`; None if it did not fail.
    """

    cells: Mapping[str, Any]
    failure: Mapping[str, Any] | None = None


def rows_of(plan: Plan) -> list[Row]:
    """Read one row for each case of a cohort from its folder, in the plan's order."""
    return [_row(plan, number) for number in range(len(plan.cases))]


def _row(plan: Plan, number: int) -> Row:
    case = plan.cases[number]
    paths = {"fixed": case.files["fixed"], "moving": case.files["moving"]}
    cells: dict[str, Any] = {"id": case.id, "preset": case.preset, **paths}
    record = read_record(plan.folder, case.id)
    if record is not None:
        figures = record.get("figures") or {}
        worst = record.get("worst") or {}
        copied = ("verdict", "exit_code", "seconds", "peak_mb", "device", "threads", "version")
        cells |= {name: record.get(name) for name in copied}
        cells |= {name: figures.get(name) for name in FIGURES}
        cells["reasons"] = "; ".join(map(str, record.get("reasons") or ()))
        cells["worst_evidence"], cells["worst_ratio"] = worst.get("name"), worst.get("ratio")
        cells |= {"state": State.DONE.value, "folder": f"{CASES}/{case.id}"}
        return Row(cells)
    failure = read_failure(plan.folder, case.id)
    if failure is None:
        return Row(cells | {"state": State.WAITING.value})
    facts = {name: failure.get(name) for name in ("exit_code", "reason", "date")}
    cells |= {"state": State.FAILED.value, "exit_code": facts["exit_code"]}
    cells["reasons"] = facts["reason"]
    return Row(cells, {"id": case.id, "row": case.row or None, **facts, **paths})


def write_tables(plan: Plan) -> list[Row]:
    """Write ``cohort.csv``, ``failures.csv`` and ``cohort.html`` of a cohort.

    Args:
        plan: the cohort. Its folder is read, so cases that other runs did are there too.

    Returns:
        The rows.

    Raises:
        OutputError: a file cannot be written.
    """
    rows = rows_of(plan)
    write_text(csv_text(COLUMNS, (row.cells for row in rows)), plan.folder / TABLE)
    failures = [row.failure for row in rows if row.failure is not None]
    write_text(csv_text(FAILURE_COLUMNS, failures), plan.folder / FAILURES)
    write_page(plan, [row.cells for row in rows], plan.folder / PAGE)
    return rows


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Write rows as CSV: UTF-8, a comma between cells, an empty cell for what is not known.

    Example:
        >>> csv_text(("id", "dice"), [{"id": "p1", "dice": 0.5}, {"id": "p2"}])
        'id,dice\\np1,0.5\\np2,\\n'
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row.get(name)) for name in columns])
    return text.getvalue()


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    safe = without_controls(value)
    return f"'{safe}" if safe.startswith(FORMULA) else safe
