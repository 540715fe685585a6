"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from iterreg.atomic.moves import move_into_place, reach_disk, record
from iterreg.atomic.staging import Staging, final_path, is_staged
from iterreg.errors import OutputError, is_out_of_memory

PROBE_BYTES = 1 << 16
"""Are added to a file that failed, to learn why."""


def write_aside(path: str | Path, write: Callable[[Path], None]) -> None:
    """Call ``write`` to make a file in a hidden folder, then move the file into place.

    If ``write`` fails, nothing of the new file is left and an old file stays as it was.

    Args:
        path: the final file. Its folder must exist.
        write: called with a path of the same name in the hidden folder, its suffix in lower case.
            Companion files that it makes there (the .raw of an .mhd) are moved too.

    Raises:
        OutputError: the folder is missing or not writable, or the file cannot be made.

    Example:
        >>> write_aside("greeting.txt", lambda new: new.write_bytes(b"hello"))
        >>> Path("greeting.txt").read_text()
        'hello'
    """
    path = Path(path)
    if os.path.exists(path) and not os.path.isfile(path):
        kind = "a folder" if os.path.isdir(path) else "a device"
        raise OutputError(f"{path}: expected a file to write, got {kind}")
    staging = Staging(path.parent, path)
    try:
        new = staging.path / "new"
        new.mkdir()
        aside = new / _lower_suffix(path.name)
        write(aside)
        os.replace(aside, new / path.name)
        _into_place(staging.path, path)
        if not is_staged(path):
            record(path)
    except (OSError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        reason = _no_room_in(staging.path / "new") or reason_of(error)
        raise OutputError(f"{final_path(path)}: cannot be written: {reason}") from error
    finally:
        staging.remove()


def _no_room_in(folder: Path) -> str | None:
    """Why nothing can be added to the files of a folder; libraries do not say it in plain words."""
    try:
        for file in folder.iterdir():
            with file.open("ab") as end:
                end.write(bytes(PROBE_BYTES))
    except OSError as error:
        return error.strerror
    return None


def _into_place(staging: Path, path: Path) -> None:
    """Move one file in one step, several by a list that can be undone."""
    new = staging / "new"
    if len(os.listdir(new)) > 1:
        move_into_place(staging, path.parent)
        return
    if not is_staged(path):
        reach_disk(new / path.name)
    os.replace(new / path.name, path)
    if not is_staged(path):
        reach_disk(path.parent)


def _lower_suffix(name: str) -> str:
    """The name with its suffix in lower case: libraries choose the format by it."""
    lower = name.lower()
    suffix = ".nii.gz" if lower.endswith(".nii.gz") else Path(lower).suffix
    return name[: len(name) - len(suffix)] + suffix


def write_text(text: str, path: str | Path) -> None:
    """Write a text file in UTF-8, whole or not at all.

    Raises:
        OutputError: as :func:`write_aside`.
    """

    def write(target: Path) -> None:
        target.write_text(text, encoding="utf-8")

    write_aside(path, write)


def write_json(
    tables: Mapping[str, Any], path: str | Path, *, indent: int | None = 2, allow_nan: bool = False
) -> None:
    """Write tables as JSON, whole or not at all.

    Args:
        tables: what to write.
        path: the file.
        indent: spaces for each level; None writes everything in one line without spaces.
        allow_nan: write NaN and Infinity as Python spells them. They are not JSON.

    Raises:
        OutputError: as :func:`write_aside`.
        ValueError: the tables hold NaN or Infinity, and ``allow_nan`` is False.

    Example:
        >>> write_json({"cases": 3}, "cases.json", indent=None)
        >>> Path("cases.json").read_text()
        '{"cases":3}\\n'
    """
    separators = (",", ":") if indent is None else None
    text = json.dumps(tables, indent=indent, allow_nan=allow_nan, separators=separators)
    write_text(text + "\n", path)


def last_line(message: str) -> str:
    """Return the last line with text: the one in which ITK gives the reason.

    Example:
        >>> last_line("Exception thrown in ITK:\\n  disk full\\n")
        'disk full'
    """
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


def reason_of(error: Exception) -> str:
    """Why a file cannot be written: the system's words, or the last line of a library's.

    Example:
        >>> reason_of(OSError(28, "No space left on device", "a/.iterreg-x/b"))
        'No space left on device'
    """
    words = error.strerror if isinstance(error, OSError) else None
    return words or last_line(str(error))
