"""Where a result comes from: command, date, versions, inputs, configuration and timings."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from iterreg.report.words import NOT_RECORDED, flatten, short, table

ADDED_UP = "total"


def describe_run(tables: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and value of what describes the run as a whole."""
    versions = table(tables, "versions")
    words = ", ".join(f"{name} {version}" for name, version in versions.items())
    rows = [
        ("Command line", _command_line(tables)),
        ("Date", str(tables.get("date") or NOT_RECORDED)),
        ("Versions", words or NOT_RECORDED),
    ]
    for key, name in (("device", "Device"), ("threads", "CPU threads"), ("seed", "Random seed")):
        value = tables.get(key)
        rows.append((name, NOT_RECORDED if value is None else short(value)))
    rows.append(("Start", str(tables.get("start") or NOT_RECORDED)))
    return rows


def list_inputs(tables: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Role, file and SHA-256 of every input."""
    listed = table(tables, "inputs")
    # Results of older versions name the two images alone.
    entries = listed or {side: tables[side] for side in ("fixed", "moving") if side in tables}
    return [(role.replace("_", " "), *_file(entry)) for role, entry in entries.items()]


def timings(tables: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Seconds of each stage, and their sum."""
    seconds = {k: v for k, v in table(tables, "timings_s").items() if isinstance(v, int | float)}
    rows = [(str(name), f"{value:.1f} s") for name, value in seconds.items()]
    return [*rows, (ADDED_UP, f"{sum(seconds.values()):.1f} s")] if rows else []


def configuration(tables: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every key of the configuration and its value, as in a preset."""
    for name, value in flatten(table(tables, "config"), "."):
        yield name, str(value)


def _command_line(tables: Mapping[str, Any]) -> str:
    words = tables.get("command_line")
    if not isinstance(words, list | tuple):
        return NOT_RECORDED
    return shlex.join(str(word) for word in words)


def _file(entry: Any) -> tuple[str, str]:
    found = entry if isinstance(entry, Mapping) else {}
    return str(found.get("file") or NOT_RECORDED), str(found.get("sha256") or NOT_RECORDED)
