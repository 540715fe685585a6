"""Label tables: what the numbers of a label map mean.

The same number means another structure in another version of a segmenter: 7 is the aorta in
TotalSegmentator 1 and the pancreas in 2. So label maps are merged and matched by name.

A table is a TOML file (``schema = 1``). It holds either the numbers of a source (``[numbers]``,
name = number), or the classes that structures are merged into (``[[class]]``, with patterns of
names).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from numbers import Integral
from pathlib import Path
from typing import Any, Union

from iterreg.errors import ConfigError
from iterreg.names import fits_any
from iterreg.regions.label_files import checked_names, read_label_names, read_text
from iterreg.texts import TextError, parse_toml

SCHEMA = 1

NamesLike = Union[str, Path, "LabelTable", Mapping[int, str]]
"""A table, its name or file, or a dict of number: name."""


@dataclass(frozen=True)
class LabelTable:
    """The name of each number, and for a merge table what each class consists of.

    Args:
        name: of the table, for notes and messages.
        names: name of each number; never 0.
        members: for a merge table, the name patterns (``*`` and ``?``) of each class.
        elsewhere: for a merge table, the source of a class that other sources may lack.
        about: one line for people.

    Example:
        >>> LabelTable("mine", {1: "lung"}, members={1: ("lung_*",)}).class_of("lung_upper_lobe")
        1
    """

    name: str
    names: dict[int, str]
    members: dict[int, tuple[str, ...]] = field(default_factory=dict)
    elsewhere: dict[int, str] = field(default_factory=dict)
    about: str = ""

    def __repr__(self) -> str:
        """The kind of table and its length."""
        kind = "merges into" if self.members else "names"
        return f"LabelTable({self.name}: {kind} {len(self.names)} classes)"

    def class_of(self, structure: str) -> int:
        """The class of this merge table that a structure belongs to, 0 if there is none."""
        for number, patterns in self.members.items():
            if fits_any(structure, patterns):
                return number
        return 0


def load_label_table(name_or_path: str | Path) -> LabelTable:
    """Load a table that comes with iterreg by its name, or one of the user's by its path.

    Args:
        name_or_path: ``totalsegmentator-v1``, ``totalsegmentator-v2``, ``heartchambers_highres``,
            ``thorax13``; or a path to a TOML table, or to any file that
            :func:`~iterreg.regions.label_files.read_label_names` reads.

    Returns:
        The table.

    Raises:
        ConfigError: there is no such table, or the file is not one.

    Example:
        >>> load_label_table("totalsegmentator-v2").names[52]
        'aorta'
    """
    known = table_names()
    if str(name_or_path) in known:
        text = (_tables_folder() / f"{name_or_path}.toml").read_text("utf-8")
        return _parse_table(text, f"{name_or_path}.toml")
    path = Path(name_or_path)
    if not os.path.isfile(path):
        raise ConfigError(
            f"label table {name_or_path}: neither a file nor one of {', '.join(known)}"
        )
    if path.suffix.lower() == ".toml":
        return _parse_table(read_text(path), str(path))
    return LabelTable(path.stem, read_label_names(path))


def label_names(table: NamesLike | None) -> dict[int, str] | None:
    """The name of each number, of anything that tells it.

    Args:
        table: a :class:`LabelTable`, a dict of number: name, or what :func:`load_label_table`
            takes; None is the answer to None.

    Raises:
        ConfigError: as :func:`load_label_table`, or the dict has something else than numbers and
            names.

    Example:
        >>> label_names({1: "lung"})
        {1: 'lung'}
    """
    if table is None:
        return None
    if isinstance(table, LabelTable):
        return dict(table.names)
    if isinstance(table, Mapping):
        for number, name in table.items():
            if not (isinstance(number, Integral) and isinstance(name, str)):
                raise ConfigError(
                    f"label_table: expected a dict of number: name, got {number!r}: {name!r}"
                )
        return checked_names(((int(n), name) for n, name in table.items()), "label_table")
    if not isinstance(table, str | Path):
        raise TypeError(
            "label_table: expected a name, a path, an iterreg.LabelTable or a dict of number: "
            f"name, got {type(table).__name__}"
        )
    return load_label_table(table).names


def table_names() -> list[str]:
    """The tables that come with iterreg, sorted."""
    names = (file.name for file in _tables_folder().iterdir())
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def _tables_folder() -> Any:
    return resources.files("iterreg.regions") / "tables"


def _parse_table(text: str, where: str) -> LabelTable:
    try:
        data = parse_toml(text)
    except TextError as error:
        raise ConfigError(f"{where}: not a TOML file: {error}") from error
    _require_keys(data, {"schema", "name", "about", "numbers", "class"}, where)
    if data.get("schema") != SCHEMA:
        raise ConfigError(f"{where}: schema: expected {SCHEMA}, got {data.get('schema')!r}")
    if ("numbers" in data) == ("class" in data):
        raise ConfigError(f"{where}: expected either [numbers] or [[class]], got both or neither")
    name, about = _string(data, "name", where), str(data.get("about", ""))
    if "numbers" in data:
        if not isinstance(data["numbers"], dict):
            raise ConfigError(f"{where}: numbers: expected a table of name = number")
        pairs = [(number, label) for label, number in data["numbers"].items()]
        return LabelTable(name, checked_names(pairs, where), about=about)
    if not isinstance(data["class"], list) or not data["class"]:
        raise ConfigError(f"{where}: class: expected [[class]] entries")
    return _merge_table(name, about, data["class"], where)


def _merge_table(name: str, about: str, entries: list[dict[str, Any]], where: str) -> LabelTable:
    for entry in entries:
        _require_keys(entry, {"number", "name", "members", "elsewhere"}, f"{where}: class")
    rows = list(_class_rows(entries, where))
    names = checked_names(((number, label) for number, label, _, _ in rows), where)
    members = {number: patterns for number, _, patterns, _ in rows}
    elsewhere = {number: source for number, _, _, source in rows if source}
    return LabelTable(name, names, members, elsewhere, about)


def _class_rows(
    entries: list[dict[str, Any]], where: str
) -> Iterator[tuple[Any, str, tuple[str, ...], str]]:
    """Number, name, patterns and source of each class; the number is not checked here."""
    for entry in entries:
        label = _string(entry, "name", f"{where}: class")
        patterns = entry.get("members")
        if not isinstance(patterns, list) or not all(isinstance(p, str) for p in patterns):
            raise ConfigError(f"{where}: class {label}: members: expected a list of names")
        source = ""
        if "elsewhere" in entry:
            source = _string(entry, "elsewhere", f"{where}: class {label}")
        yield entry.get("number"), label, tuple(patterns), source


def _require_keys(data: dict[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(set(data) - known)
    if unknown:
        raise ConfigError(
            f"{where}: unknown key {unknown[0]!r}; expected one of {', '.join(sorted(known))}"
        )


def _string(data: dict[str, Any], key: str, where: str) -> str:
    value = data.get(key)
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{where}: {key}: expected a name, got {value!r}")
    return value
