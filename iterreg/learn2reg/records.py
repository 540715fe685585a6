"""Records of finished fields: ``disp_....json`` next to a field says how it was made.

A record is written after its field and holds the field's checksum, so a field without a valid
record is never mistaken for finished.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from iterreg.atomic import write_json
from iterreg.formats.learn2reg_files import FIELD_EXTENSIONS
from iterreg.texts import parse_json


def finished_record(target: Path, digest: str) -> dict[str, Any] | None:
    """Read the record of a finished case; None if its inputs or its field have changed."""
    try:
        record: dict[str, Any] = parse_json(record_path(target).read_text("utf-8"), allow_nan=True)
        unchanged = record["made_from"] == digest and record["sha256"] == sha256_of(target)
        complete = {"status", "seconds", "peak_mb", "used"} <= set(record)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if unchanged and complete else None


def remove_earlier(target: Path) -> None:
    """Remove an earlier field of the case in any format, because .npz is read before .nii.gz."""
    record = record_path(target)
    for extension in FIELD_EXTENSIONS if os.path.isfile(record) else ():
        record.with_suffix(extension).unlink(missing_ok=True)
    record.unlink(missing_ok=True)


def record_path(target: Path) -> Path:
    """Return the file of a field's record."""
    stem = PurePosixPath(target.name.removesuffix(".gz")).stem
    return target.with_name(f"{stem}.json")


def sha256_of(path: Path) -> str:
    """Compute the checksum of a field."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_record(target: Path, record: Mapping[str, Any]) -> None:
    """Write the record of a field.

    Raises:
        OutputError: it cannot be written.
    """
    # Peak memory is NaN on systems that do not report it.
    write_json(record, record_path(target), allow_nan=True)
