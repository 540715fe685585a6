"""Which cases are done: ``case.json`` beside the files of a case, and the list of failures.

A case is done when its ``case.json`` is there. It has the SHA-256 of every file of the case, is
written with them, whole or not at all, and says what they were made from: other settings or a
changed image make it void.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from iterreg.atomic import reach_disk, write_json
from iterreg.cohort.cases import Case, Settings
from iterreg.config import config_to_dict, load_config
from iterreg.errors import OutputError
from iterreg.provenance import sha256_of
from iterreg.texts import parse_json
from iterreg.versions import own_version

SCHEMA = 1
"""Version of ``case.json`` and of a failure."""

RECORD = "case.json"
CASES, FAILURES = "cases", "failures"
"""Folders in the folder of a cohort."""


def case_folder(folder: str | Path, case: str) -> Path:
    """Return the folder of a case's files.

    Example:
        >>> case_folder("cohort", "p1").as_posix()
        'cohort/cases/p1'
    """
    return Path(folder) / CASES / case


def made_from(case: Case, settings: Settings) -> str:
    """Compute a digest of everything that the files of a case depend on.

    Files count by name, size and date, so that thousands of cases are checked in seconds.

    Raises:
        ConfigError: unknown preset or key.
    """
    about = {
        "config": config_to_dict(load_config(case.preset, case.overrides)),
        "version": own_version(),
        "label_table": case.label_table,
        "series": dict(case.series),
        "seed": settings.seed,
        "saved": [
            settings.save_jacobian,
            settings.save_inverse,
            settings.save_error,
            settings.report,
        ],
        "files": {role: _stamp(path) for role, path in sorted(case.files.items())},
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _stamp(path: str) -> list[Any]:
    """Name, size and date of a file; of a folder, of all files in it."""
    if not os.path.isdir(path):
        status = os.stat(path)
        return [os.path.basename(path), status.st_size, status.st_mtime_ns]
    with os.scandir(path) as entries:
        inside = sorted((e.name, e.stat().st_size, e.stat().st_mtime_ns) for e in entries)
    return [os.path.basename(path), *map(list, inside)]


def read_record(folder: str | Path, case: str) -> dict[str, Any] | None:
    """Read the record of a case that is done; None if it is not.

    Args:
        folder: of the cohort.
        case: its id.

    Returns:
        The record, if all files that it lists are there with their sizes.
    """
    place = case_folder(folder, case)
    record = _read(place / RECORD)
    if record is None or record.get("schema") != SCHEMA:
        return None
    try:
        files: Mapping[str, Any] = record["files"]
        whole = all(
            os.stat(place / name).st_size == about["bytes"] for name, about in files.items()
        )
        return record if whole and isinstance(record["made_from"], str) else None
    except (OSError, KeyError, TypeError, AttributeError):
        return None


def damaged_files(folder: str | Path, case: str) -> list[str]:
    """List the files of a case whose checksum is not that of its record; hashes all of them."""
    place = case_folder(folder, case)
    record = _read(place / RECORD)
    files = {} if record is None else record.get("files", {})
    return [name for name, about in files.items() if sha256_of(place / name) != about["sha256"]]


def record_of(new: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Make the record of a case whose files lie in a folder.

    Args:
        new: has the files.
        facts: what else to record.
    """
    files = sorted(f for f in new.rglob("*") if os.path.isfile(f) and f.name != RECORD)
    sums = {
        f.relative_to(new).as_posix(): {"bytes": f.stat().st_size, "sha256": sha256_of(f)}
        for f in files
    }
    return {"schema": SCHEMA, **facts, "files": sums}


def forget_record(folder: str | Path, case: str) -> None:
    """Remove an earlier result of a case: its record first, then the files that it lists.

    Raises:
        OutputError: the folder cannot be written.
    """
    place = case_folder(folder, case)
    record = _read(place / RECORD)
    names = [] if record is None else [n for n in record.get("files", {}) if ".." not in n]
    for name in (RECORD, *names):
        try:
            (place / name).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{place}: cannot be written: {error.strerror}") from error


def write_failure(folder: str | Path, case: str, facts: Mapping[str, Any]) -> None:
    """Log why a case failed.

    Raises:
        OutputError: the folder cannot be written.
    """
    place = Path(folder) / FAILURES
    try:
        place.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{place}: cannot be written: {error.strerror}") from error
    write_json({"schema": SCHEMA, "id": case, **facts}, place / f"{case}.json")


def read_failure(folder: str | Path, case: str) -> dict[str, Any] | None:
    """Read why a case failed; None if it did not."""
    return _read(Path(folder) / FAILURES / f"{case}.json")


def forget_failure(folder: str | Path, case: str) -> None:
    """Remove the log of a failure, so that the case is tried again."""
    place = Path(folder) / FAILURES
    with suppress(FileNotFoundError):
        (place / f"{case}.json").unlink()
        reach_disk(place)


def failed_ids(folder: str | Path) -> Iterator[str]:
    """The ids of all cases with a logged failure, sorted."""
    with suppress(FileNotFoundError):
        for name in sorted(os.listdir(Path(folder) / FAILURES)):
            if name.endswith(".json") and not name.startswith("."):
                yield name.removesuffix(".json")


def _read(path: Path) -> dict[str, Any] | None:
    try:
        tables = parse_json(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return tables if isinstance(tables, dict) else None
