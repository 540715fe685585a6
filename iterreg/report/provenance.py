"""Where a result comes from: command, date, versions, inputs, configuration and timings."""

from __future__ import annotations

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
    listed = tables.get("inputs")
    entries: list[tuple[str, Any]] = []
    if isinstance(listed, Mapping):
        entries = list(listed.items())
    elif isinstance(listed, list | tuple):
        entries = [(str(table({"e": e}, "e").get("role") or ""), e) for e in listed]
    else:
        entries = [(side, tables[side]) for side in ("fixed", "moving") if side in tables]
        if tables.get("transform"):
            entries.append(("transform", tables["transform"]))
    return [(role.replace("_", " "), *_file(entry)) for role, entry in entries]


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
    for key in ("command_line", "command"):
        found = tables.get(key)
        if isinstance(found, list | tuple):
            return " ".join(str(word) for word in found)
        if found:
            return str(found)
    return NOT_RECORDED


def _file(entry: Any) -> tuple[str, str]:
    if not isinstance(entry, Mapping):
        return str(entry), NOT_RECORDED
    names = (entry.get(key) for key in ("file", "path", "name"))
    name = next((str(n) for n in names if n), NOT_RECORDED)
    return name, str(entry.get("sha256") or NOT_RECORDED)
