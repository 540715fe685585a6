"""The verdict of a run, read from its ``run.json``; without one, the status of the optimiser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from iterreg.report.words import flatten, is_number, rows_of, short, split_unit, table

HEADLINES = {
    "ok": "The checks found no reason to doubt this result.",
    "doubtful": "Look at the images before you use this result.",
    "failed": "Do not use this result.",
}
SIGNS = {"ok": "✓", "doubtful": "!", "failed": "✕"}
UNKNOWN_SIGN = "?"

NO_VERDICT = "Nothing has checked whether the images agree: look at them below."
MEASURED_ONLY = "The transform was measured. Only a registration gives a verdict."


@dataclass(frozen=True)
class ShownReason:
    """One reason as the page shows it.

    Args:
        message: what was found.
        figure, limit: numbers with units; empty if there is none.
        advice: what to check or try.
    """

    message: str
    figure: str
    limit: str
    advice: str


@dataclass(frozen=True)
class ShownVerdict:
    """The verdict as the page shows it.

    Args:
        status: ``ok``, ``doubtful``, ``failed`` or ``none``.
        title: the status in words.
        sign: of the status, so that colour is not alone.
        headline: what it means for the reader.
        reasons: why it is not ok.
        evidence: name and figure of everything that was checked.
    """

    status: str
    title: str
    sign: str
    headline: str
    reasons: tuple[ShownReason, ...] = ()
    evidence: tuple[tuple[str, str], ...] = ()


def read_verdict(tables: Mapping[str, Any]) -> ShownVerdict:
    """Read the verdict from the tables of a run.

    Args:
        tables: the content of ``run.json``: its ``verdict`` if there is one, else its ``status``.

    Example:
        >>> read_verdict({"status": {"name": "OK", "ok": True, "message": "ok"}}).title
        'no verdict'
        >>> read_verdict({"verdict": {"status": "failed", "reasons": []}}).headline
        'Do not use this result.'
    """
    verdict = table(tables, "verdict")
    if verdict:
        status = str(verdict.get("status"))
        known = status if status in HEADLINES else "none"
        return ShownVerdict(
            known,
            status,
            SIGNS.get(status, UNKNOWN_SIGN),
            HEADLINES.get(status, NO_VERDICT),
            tuple(_reason(row) for row in rows_of(verdict, "reasons")),
            tuple(_evidence(table(verdict, "evidence"))),
        )
    status_table = table(tables, "status")
    if not status_table:
        return ShownVerdict("none", "no verdict", UNKNOWN_SIGN, MEASURED_ONLY)
    message = str(status_table.get("message", "unknown"))
    if status_table.get("ok"):
        ended = f"No fold inside regions, and no worse than the start. {NO_VERDICT}"
        return ShownVerdict("none", "no verdict", UNKNOWN_SIGN, ended)
    reasons = (ShownReason(message, "", "", ""),)
    return ShownVerdict("doubtful", "doubtful", SIGNS["doubtful"], NO_VERDICT, reasons)


def _reason(row: Mapping[str, Any]) -> ShownReason:
    unit = str(row.get("unit") or "")
    figure, limit = (
        short(row[key], unit) if is_number(row.get(key)) else "" for key in ("figure", "limit")
    )
    message = str(row.get("message") or row.get("kind") or "")
    return ShownReason(message, figure, limit, str(row.get("advice") or ""))


def _evidence(evidence: Mapping[str, Any]) -> list[tuple[str, str]]:
    shown = []
    for name, value in flatten(evidence, " "):
        words, unit = split_unit(name)
        shown.append((words, short(value, unit)))
    return shown
