"""``cohort.html``: every case of a cohort on one page that needs nothing else."""

from __future__ import annotations

import base64
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from iterreg.atomic import write_text
from iterreg.cohort.histogram import Histogram, histograms
from iterreg.cohort.plan import Plan
from iterreg.cohort.records import case_folder
from iterreg.report.render import render
from iterreg.report.verdict import SIGNS
from iterreg.report.words import is_number
from iterreg.texts import without_controls

Cells = Mapping[str, Any]

MOST_PICTURES = 2000
"""Pictures of so many cases, the worst first, are on the page."""

ORDER = ("no result", "failed", "doubtful", "ok", "waiting")
"""Groups of cases, in the order in which the page shows them."""

MEANINGS = {
    "no result": "The case could not be registered: the reason is in its row.",
    "failed": "Do not use this result.",
    "doubtful": "Look at the images before you use this result.",
    "ok": "The checks found no reason to doubt this result.",
    "waiting": "Not registered yet.",
}
PAGE_SIGNS = {**SIGNS, "no result": "∅", "waiting": "…"}

SHOWN = (
    ("dice_before", "Dice before", 3),
    ("dice_after", "Dice after", 3),
    ("dice_after_lowest", "Lowest Dice", 3),
    ("hd95_after_mm", "HD95, mm", 2),
    ("tre_after_mm", "TRE, mm", 2),
    ("ncc_after", "NCC", 3),
    ("inconsistency_median_mm", "There and back, mm", 2),
    ("sdlogj", "SDlogJ", 3),
    ("interior_folds", "Folds", 0),
    ("seconds", "Seconds", 1),
)
"""Columns of figures: name, title, digits. One that no case has is left out."""


@dataclass(frozen=True)
class Figure:
    """A figure in a row: as people read it, and as the page sorts it."""

    text: str
    value: str


@dataclass(frozen=True)
class Line:
    """One row of the page.

    Args:
        id: of the case.
        group: one of :data:`ORDER`.
        link: to the report of the case; empty if there is none.
        picture: data of the thumbnail; empty if there is none.
        reasons: why it is not ok.
        worst: name of the worst evidence.
        ratio: of it to its limit; NaN if there is none.
        figures: by the columns that are shown.
    """

    id: str
    group: str
    link: str
    picture: str
    reasons: str
    worst: str
    ratio: float
    figures: tuple[Figure, ...]


def write_page(plan: Plan, rows: Sequence[Cells], path: Path) -> None:
    """Write the page of a cohort.

    Args:
        plan: the cohort.
        rows: of :func:`iterreg.cohort.summary.rows_of`.
        path: the HTML file, in the cohort's folder.

    Raises:
        MissingDependencyError: jinja2 is not installed.
        OutputError: the file cannot be written.
    """
    columns = [c for c in SHOWN if any(is_number(row.get(c[0])) for row in rows)]
    rows = sorted(rows, key=_badness)
    lines = [_line(plan, row, columns, number) for number, row in enumerate(rows)]
    counts = Counter(line.group for line in lines)
    facts = {
        "title": plan.folder.absolute().name or "cohort",
        "groups": [(g, counts[g], MEANINGS[g], PAGE_SIGNS[g]) for g in ORDER if counts[g]],
        "signs": PAGE_SIGNS,
        "columns": [(title, name) for name, title, _ in columns],
        "lines": lines,
        "without_pictures": max(0, len(lines) - MOST_PICTURES),
        "histograms": _histograms(rows, columns),
    }
    write_text(render("iterreg.cohort", "cohort", facts), path)


def group_of(row: Cells) -> str:
    """The group of a case on the page.

    Example:
        >>> group_of({"state": "failed"}), group_of({"state": "done", "verdict": "ok"})
        ('no result', 'ok')
    """
    if row.get("state") == "failed":
        return "no result"
    verdict = str(row.get("verdict"))
    return verdict if verdict in ("failed", "doubtful", "ok") else "waiting"


def _badness(row: Cells) -> tuple[int, float, str]:
    return ORDER.index(group_of(row)), -_number(row.get("worst_ratio"), 0.0), str(row["id"])


def _line(plan: Plan, row: Cells, columns: Sequence[tuple[str, str, int]], number: int) -> Line:
    place = case_folder(plan.folder, str(row["id"]))
    is_done = row.get("state") == "done"
    link = ""
    if is_done and os.path.isfile(place / "report.html"):
        link = f"{quote(str(row['folder']))}/report.html"
    return Line(
        str(row["id"]),
        group_of(row),
        link,
        _picture(place / "thumbnail.jpg") if is_done and number < MOST_PICTURES else "",
        without_controls(str(row.get("reasons") or "")),
        str(row.get("worst_evidence") or ""),
        _number(row.get("worst_ratio"), float("nan")),
        tuple(_figure(row.get(name), digits) for name, _, digits in columns),
    )


def _number(value: Any, otherwise: float) -> float:
    return float(value) if is_number(value) else otherwise


def _figure(value: Any, digits: int) -> Figure:
    if not is_number(value):
        return Figure("", "")
    return Figure(f"{value:.{digits}f}", f"{value:.6g}")


def _picture(path: Path) -> str:
    try:
        return "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode()
    except OSError:
        return ""


def _histograms(rows: Sequence[Cells], columns: Sequence[tuple[str, str, int]]) -> list[Histogram]:
    figures = [("Worst evidence, as a share of its limit", "worst_ratio")]
    figures += [(title, name) for name, title, _ in columns]
    return histograms([(t, [row.get(name) for row in rows]) for t, name in figures])
