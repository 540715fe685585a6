"""Read the names of labels from the files of other programs.

A new format is a function from the text of a file to rows (number, name), and a row of ``READERS``.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from iterreg.errors import ConfigError
from iterreg.texts import LONGEST_NAME, MOST_DIGITS, TextError, parse_json, without_controls

REGION_FILES = ("fixed_regions.nii.gz", "moving_regions.nii.gz")
"""The label maps that a run writes."""

LARGEST_LABEL = (1 << 31) - 1
"""Label maps are int32."""


def read_label_names(path: str | Path) -> dict[int, str]:
    """Read the names of a label map's numbers from a file in one of the usual formats.

    Args:
        path: a 3D Slicer colour table (``.ctbl``), an ITK-SNAP label description (``.txt``,
            ``.label``), or JSON (``{name: number}`` or ``{number: name}``, at the top or under
            ``labels``, as nnU-Net and Learn2Reg write it).

    Returns:
        The name of each number; background (0) left out.

    Raises:
        ConfigError: no such file, another format, or a number that is named twice.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "dataset.json"
        ...     _ = path.write_text('{"labels": {"background": 0, "lung": 1}}')
        ...     read_label_names(path)
        {1: 'lung'}
    """
    path = Path(path)
    text, kind = read_text(path), path.suffix.lower()
    if kind not in READERS:
        expected = ", ".join([".toml", *READERS])
        raise ConfigError(f"{path}: label names: expected one of {expected}")
    try:
        names = checked_names(READERS[kind](text), str(path))
    except (ValueError, IndexError, csv.Error) as error:
        raise ConfigError(f"{path}: label names: cannot read this as {kind}: {error}") from error
    if not names:
        raise ConfigError(f"{path}: label names: no label found in it")
    return names


def checked_names(pairs: Iterable[tuple[Any, Any]], where: str) -> dict[int, str]:
    """Check rows (number, name), and leave background (0) out.

    Args:
        pairs: the rows.
        where: the file, for messages.

    Raises:
        ConfigError: a number is not a whole number, or is named twice.
    """
    names: dict[int, str] = {}
    for number, name in pairs:
        if isinstance(number, bool) or not isinstance(number, int) or not isinstance(name, str):
            raise ConfigError(f"{where}: {name}: expected a whole number, got {number!r}")
        if number == 0:
            continue
        name = without_controls(name)
        if not 0 < len(name) <= LONGEST_NAME:
            raise ConfigError(
                f"{where}: {number}: expected a name of 1 to {LONGEST_NAME} letters, "
                f"got {len(name)}"
            )
        if abs(number) > LARGEST_LABEL:
            raise ConfigError(f"{where}: {name}: expected a number of 32 bits, got {number}")
        if number in names:
            raise ConfigError(f"{where}: {number} is both {names[number]} and {name}")
        names[number] = name
    return names


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot read the label names: {error}") from error


def _slicer_rows(text: str) -> Iterable[tuple[int, str]]:
    """Rows ``number name r g b a``; a name may hold spaces, so colours are counted from the end."""
    for line in _content_lines(text):
        words = line.split()
        name = " ".join(words[1:-4])
        if not name:
            raise ValueError(f"expected 'number name r g b a', got {line!r}")
        [float(colour) for colour in words[-4:]]
        if name != "(none)":
            yield _number(words[0]), name


def _snap_rows(text: str) -> Iterable[tuple[int, str]]:
    """Rows ``number r g b a visible mesh "name"``."""
    for line in _content_lines(text):
        row = next(csv.reader(io.StringIO(line), delimiter=" ", skipinitialspace=True))
        if len(row) < 8:
            raise ValueError(f"expected 'number r g b a visible mesh \"name\"', got {line!r}")
        yield _number(row[0]), " ".join(word for word in row[7:] if word)


def _json_rows(text: str) -> Iterable[tuple[Any, Any]]:
    """An object of names and numbers, either way round."""
    data = parse_json(text)
    if isinstance(data, dict) and isinstance(data.get("labels"), dict):
        data = data["labels"]
    if not isinstance(data, dict):
        raise ValueError("expected an object of names and numbers")
    for key, value in data.items():
        number_first = isinstance(value, str) and key.strip().lstrip("-").isdigit()
        yield (_number(key), value) if number_first else (value, key)


def _number(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise TextError(
            f"expected a number of at most {MOST_DIGITS} digits, got {len(text)} letters"
        )
    return int(text)


def _content_lines(text: str) -> list[str]:
    lines = [line.expandtabs(1).strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


READERS = {".ctbl": _slicer_rows, ".txt": _snap_rows, ".label": _snap_rows, ".json": _json_rows}
"""The reader of each format, by the file's extension."""


def names_of_run(labels: Path) -> dict[int, str] | None:
    """Read the names of regions that a run wrote from its ``run.json``."""
    run = labels.parent / "run.json"
    if labels.name not in REGION_FILES or not os.path.isfile(run):
        return None
    try:
        regions = parse_json(run.read_text("utf-8"))["regions"]
        return {int(value): without_controls(str(name)) for value, name in regions.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
