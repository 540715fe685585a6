"""Cases from a CSV file. Every row is checked before any work begins."""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_type_hints

from iterreg.cohort.cases import FILE_ROLES, Case, is_safe_id
from iterreg.config import Config, load_config, preset_names
from iterreg.errors import ConfigError, ImageReadError, IterregError
from iterreg.texts import TextError, one_line, parse_toml

OTHER_COLUMNS = ("id", "preset", "label_table", "fixed_series", "moving_series")

SEPARATORS = (",", ";", "\t")

MOST_COLUMNS = 500
MOST_BYTES = 1 << 28
"""A larger file is no table of pairs."""


def no_work(problems: Sequence[str]) -> str:
    """Say how many problems kept the work from being begun."""
    return f"{len(problems)} problem{'s' if len(problems) > 1 else ''}; no work was begun"


def table_error(message: str, problems: Sequence[str]) -> ConfigError:
    """Make the error of rows that cannot be used.

    Args:
        message: how many.
        problems: one line each, with its row: the ``details`` of the error.
    """
    error = ConfigError(message)
    error.details = tuple(problems)
    return error


@dataclass(frozen=True)
class Defaults:
    """What holds for cases whose row says nothing else.

    Args:
        preset: a name or a TOML file; None if each row has to name one.
        overrides: changes of the preset, by dotted key.
        label_table: names of the labels' numbers.
    """

    preset: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    label_table: str | None = None


def read_table(path: Path, defaults: Defaults) -> tuple[Case, ...]:
    """Read the cases of a CSV file.

    Args:
        path: with a row of names: ``id``, ``fixed`` and ``moving``, and any of the others in
            ``docs/cohort.rst``. Paths are relative to the file's own folder.
        defaults: for empty cells.

    Returns:
        A case for each row, in order.

    Raises:
        ImageReadError: the file cannot be read.
        ConfigError: columns or rows cannot be used; ``details`` names each.
    """
    names, rows = _read(path)
    problems = list(_column_problems(names))
    if problems:
        raise table_error(f"{path}: the columns cannot be used", problems)
    cases = []
    for row, cells in rows:
        given = {n: c.strip() for n, c in zip(names, cells, strict=False) if c.strip()}
        if len(cells) != len(names):
            words = f"expected {len(names)} cells, got {len(cells)}"
            problems.append(f"row {row}: {words}")
        elif missing := [n for n in ("id", "fixed", "moving") if n not in given]:
            problems.append(f"row {row}: {missing[0]} is empty")
        else:
            case = _case(row, given, defaults, path.absolute().parent, problems)
            cases.append(case)
    if not rows:
        problems.append("no row with a pair")
    problems += check_cases(cases)
    if problems:
        raise table_error(f"{path}: {no_work(problems)}", problems)
    return tuple(cases)


def _read(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names of the columns, and the cells of each row that is not empty, with its number."""
    try:
        if os.stat(path).st_size > MOST_BYTES:
            raise ImageReadError(f"{path}: expected a table of pairs, got a file of 256 MB or more")
        lines = path.read_text("utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise ImageReadError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise ImageReadError(
            f"{path}: expected a CSV file in UTF-8, got another encoding; save it as 'CSV UTF-8'"
        ) from error
    except OSError as error:
        raise ImageReadError(f"{path}: cannot be read: {error.strerror}") from error
    separator, first = _separator(lines)
    reader = csv.reader(lines[first:], strict=True, delimiter=separator)
    try:
        found = [(first + reader.line_num, r) for r in reader if any(cell.strip() for cell in r)]
    except csv.Error as error:
        row = first + reader.line_num
        raise ImageReadError(f"{path}: row {row}: expected cells of a CSV file: {error}") from error
    if not found:
        raise ImageReadError(f"{path}: expected a CSV file with a row of names, got an empty one")
    return [name.strip() for name in found[0][1]], found[1:]


def _separator(lines: Sequence[str]) -> tuple[str, int]:
    """What stands between cells, by the names of the columns, and the number of lines before them.

    A comma, or what a spreadsheet writes instead: a semicolon or a tab. It may say so in a first
    line ``sep=;``.
    """
    first = next((n for n, line in enumerate(lines) if line.strip()), 0)
    names = lines[first] if lines else ""
    if names.lower().startswith("sep=") and len(names.rstrip()) <= len("sep=;"):
        return names[len("sep=") :].rstrip("\r\n") or "\t", first + 1
    counts = {separator: names.count(separator) for separator in SEPARATORS}
    return max(counts, key=counts.__getitem__), 0


def _column_problems(names: Sequence[str]) -> Iterator[str]:
    known = [*OTHER_COLUMNS, *FILE_ROLES, *config_keys()]
    if len(names) > MOST_COLUMNS:
        yield f"row 1: expected at most {MOST_COLUMNS} columns, got {len(names)}"
        return
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, 1)
            advice = f"; did you mean {close[0]}?" if close else ""
            yield f"row 1: unknown column {one_line(name, 60)!r}{advice}"
    for name in sorted({n for n in names if names.count(n) > 1}):
        yield f"row 1: the column {one_line(name, 60)!r} is there twice"
    for name in ("id", "fixed", "moving"):
        if name not in names:
            yield f"row 1: the column {name!r} is missing"


def config_keys() -> list[str]:
    """Every key that ``--set`` takes.

    Example:
        >>> "smoothness.weight" in config_keys()
        True
    """
    keys = []
    for name, hint in get_type_hints(Config).items():
        inner = [k for k in (hint, *get_args(hint)) if dataclasses.is_dataclass(k)]
        keys += [f"{name}.{f.name}" for kind in inner for f in dataclasses.fields(kind)] or [name]
    return keys


def _case(
    row: int, given: Mapping[str, str], defaults: Defaults, folder: Path, problems: list[str]
) -> Case:
    """A case from the cells of its row; what is wrong is added to the problems."""
    overrides = dict(defaults.overrides)
    for name, cell in given.items():
        if name not in OTHER_COLUMNS and name not in FILE_ROLES:
            overrides[name] = _value(cell)
    preset = given.get("preset") or defaults.preset or ""
    if preset not in preset_names() and preset.endswith(".toml") and "preset" in given:
        preset = str(folder / preset)
    table = given.get("label_table")
    if table is not None and os.path.isfile(folder / table):
        table = str(folder / table)
    files = {role: str(folder / given[role]) for role in FILE_ROLES if role in given}
    series = {s: given[f"{s}_series"] for s in ("fixed", "moving") if f"{s}_series" in given}
    label_table = table or defaults.label_table
    case = Case(given["id"], files, preset, overrides, label_table, series, row)
    if not preset:
        problems.append(f"row {row}: preset: expected a name here or --preset, got neither")
    return case


def _value(cell: str) -> Any:
    """A cell as ``--set`` reads it: TOML, else a text."""
    try:
        return parse_toml(f"value = {cell}")["value"]
    except (TextError, KeyError):
        return cell


def check_cases(cases: Sequence[Case]) -> list[str]:
    """Check cases before any work begins.

    Returns:
        One line for each problem, with the row or the id.
    """
    problems: list[str] = []
    seen: dict[str, Case] = {}
    configs: dict[str, str] = {}
    for case in cases:
        where = f"row {case.row}" if case.row else one_line(case.id, 60)
        problems += (f"{where}: {words}" for words in _problems(case, configs))
        twin = seen.setdefault(case.id.lower(), case)
        if twin is not case:
            words = f"the id {one_line(case.id, 60)} is that of row {twin.row} too"
            problems.append(f"{where}: {words}")
    return problems


def _problems(case: Case, configs: dict[str, str]) -> Iterator[str]:
    if not is_safe_id(case.id):
        yield (
            f"id: expected letters, digits, '.', '_' and '-', at most 100, beginning with a letter "
            f"or digit, got {one_line(case.id, 60)!r}"
        )
    for role, path in case.files.items():
        if not os.path.exists(path):
            yield f"{role}: no such file: {one_line(path, 300)}"
    for kind in ("labels", "landmarks"):
        there = [s for s in ("fixed", "moving") if f"{s}_{kind}" in case.files]
        if len(there) == 1:
            yield f"{there[0]}_{kind} was given without that of the other image"
    key = repr((case.preset, sorted(case.overrides.items(), key=str)))
    if case.preset and key not in configs:
        try:
            load_config(case.preset, case.overrides)
            configs[key] = ""
        except IterregError as error:
            configs[key] = one_line(str(error), 300)
    if configs.get(key):
        yield configs[key]
