"""Label tables: what the numbers of a label map mean, and merging and matching by NAME.

The same number means another structure in another version of a segmenter (7 is the aorta in
TotalSegmentator 1, the pancreas in 2). So nothing here compares numbers where names are known.

A table is a TOML file (``schema = 1``): either the numbers of a source (``[numbers]``, name =
number) or the classes that structures are merged into (``[[class]]``, with patterns of names).
"""

from __future__ import annotations

import csv
import io
import json
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from iterreg.errors import ConfigError, ImageContentError
from iterreg.image import LabelMap, require_same_space

SCHEMA = 1

TABLE_RANGE = 1 << 20
"""Labels that span more than this are looked up by search, not in a table."""


@dataclass(frozen=True)
class LabelTable:
    """Names of numbers, and for a merge what each class is made of.

    Args:
        name: what notes and messages call it.
        names: name of each number; never 0.
        members: for a merge table, the name patterns (``*`` and ``?``) of each class.
        elsewhere: for a merge table, the source that has a class which others may lack.
        about: one line for people.
    """

    name: str
    names: dict[int, str]
    members: dict[int, tuple[str, ...]] = field(default_factory=dict)
    elsewhere: dict[int, str] = field(default_factory=dict)
    about: str = ""

    def __repr__(self) -> str:
        """What kind of table it is and how long."""
        kind = "merges into" if self.members else "names"
        return f"LabelTable({self.name}: {kind} {len(self.names)} classes)"

    def class_of(self, structure: str) -> int:
        """The class of this merge table that a structure belongs to, 0 where there is none."""
        for number, patterns in self.members.items():
            if any(fnmatchcase(structure, pattern) for pattern in patterns):
                return number
        return 0


@dataclass(frozen=True)
class MergedLabels:
    """A merged label map and what there is to say about it.

    Args:
        labels: the merged label map, with names.
        notes: sentences for the user: classes without a source, numbers without a name.
    """

    labels: LabelMap
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class MatchedLabels:
    """Two label maps that use one numbering and hold the same labels.

    Args:
        fixed, moving: the label maps; what only one of them has is background.
        notes: sentences for the user: what was left out, and why.
    """

    fixed: LabelMap
    moving: LabelMap
    notes: tuple[str, ...] = ()

    @property
    def values(self) -> list[int]:
        """The labels that both have, ascending."""
        return sorted(self.fixed.names)


# Tables ---------------------------------------------------------------------------------------


def load_table(name_or_path: str | Path) -> LabelTable:
    """Load a table that ships with iterreg by its name, or one of the user's by its path.

    Args:
        name_or_path: ``totalsegmentator-v1``, ``totalsegmentator-v2``, ``heartchambers_highres``,
            ``thorax13``; or a path to a TOML table or to any file that
            :func:`read_label_names` reads.

    Returns:
        The table.

    Raises:
        ConfigError: there is no such table, or the file is not one.
    """
    known = table_names()
    if str(name_or_path) in known:
        folder = resources.files("iterreg.regions") / "tables"
        text = (folder / f"{name_or_path}.toml").read_text("utf-8")
        return _parse_table(text, f"{name_or_path}.toml")
    path = Path(name_or_path)
    if not path.is_file():
        raise ConfigError(
            f"label table {name_or_path}: neither a file nor one of {', '.join(known)}"
        )
    if path.suffix.lower() == ".toml":
        return _parse_table(_read_text(path), str(path))
    return LabelTable(path.stem, read_label_names(path))


def table_names() -> list[str]:
    """The tables that ship with iterreg, sorted."""
    folder = resources.files("iterreg.regions") / "tables"
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if ".toml" in f.name)


def _parse_table(text: str, where: str) -> LabelTable:
    data = _parse_toml(text, where)
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
        return LabelTable(name, _checked_names(pairs, where), about=about)
    if not isinstance(data["class"], list) or not data["class"]:
        raise ConfigError(f"{where}: class: expected [[class]] entries")
    return _merge_table(name, about, data["class"], where)


def _merge_table(name: str, about: str, entries: list[dict[str, Any]], where: str) -> LabelTable:
    pairs: list[tuple[Any, str]] = []
    members: dict[int, tuple[str, ...]] = {}
    elsewhere: dict[int, str] = {}
    for entry in entries:
        _require_keys(entry, {"number", "name", "members", "elsewhere"}, f"{where}: class")
        label = _string(entry, "name", f"{where}: class")
        patterns = entry.get("members")
        if not isinstance(patterns, list) or not all(isinstance(p, str) for p in patterns):
            raise ConfigError(f"{where}: class {label}: members: expected a list of names")
        pairs.append((entry.get("number"), label))
        if isinstance(entry.get("number"), int):
            members[entry["number"]] = tuple(patterns)
            if "elsewhere" in entry:
                elsewhere[entry["number"]] = _string(entry, "elsewhere", f"{where}: class {label}")
    return LabelTable(name, _checked_names(pairs, where), members, elsewhere, about)


def read_label_names(path: str | Path) -> dict[int, str]:
    """Read the names of a label map's numbers from a file in one of the usual formats.

    Args:
        path: an iterreg table (``.toml``), a 3D Slicer colour table (``.ctbl``), an ITK-SNAP label
            description (``.txt``, ``.label``), or JSON (``{name: number}`` or ``{number: name}``,
            at the top or under ``labels`` as nnU-Net and Learn2Reg write it).

    Returns:
        The name of each number; background (0) left out.

    Raises:
        ConfigError: no such file, another format, or a number that is named twice.
    """
    path = Path(path)
    text, kind = _read_text(path), path.suffix.lower()
    if kind == ".toml":
        return _parse_table(text, str(path)).names
    readers = {".ctbl": _slicer_rows, ".txt": _snap_rows, ".label": _snap_rows, ".json": _json_rows}
    if kind not in readers:
        raise ConfigError(f"{path}: label names: expected .toml, .ctbl, .txt, .label or .json")
    try:
        names = _checked_names(readers[kind](text), str(path))
    except (ValueError, IndexError) as error:
        raise ConfigError(f"{path}: label names: cannot read this as {kind}: {error}") from error
    if not names:
        raise ConfigError(f"{path}: label names: no label found in it")
    return names


def _slicer_rows(text: str) -> Iterable[tuple[int, str]]:
    """Rows ``number name r g b a``; a name may hold spaces, so colours are counted from the end."""
    for line in _content_lines(text):
        words = line.split()
        name = " ".join(words[1:-4])
        if not name:
            raise ValueError(f"expected 'number name r g b a', got {line!r}")
        [float(colour) for colour in words[-4:]]
        if name != "(none)":
            yield int(words[0]), name


def _snap_rows(text: str) -> Iterable[tuple[int, str]]:
    """Rows ``number r g b a visible mesh "name"``."""
    for line in _content_lines(text):
        row = next(csv.reader(io.StringIO(line), delimiter=" ", skipinitialspace=True))
        if len(row) < 8:
            raise ValueError(f"expected 'number r g b a visible mesh \"name\"', got {line!r}")
        yield int(row[0]), " ".join(word for word in row[7:] if word)


def _json_rows(text: str) -> Iterable[tuple[Any, Any]]:
    data = json.loads(text)
    if isinstance(data, dict) and isinstance(data.get("labels"), dict):
        data = data["labels"]
    if not isinstance(data, dict):
        raise ValueError("expected an object of names and numbers")
    for key, value in data.items():
        number_first = isinstance(value, str) and key.strip().lstrip("-").isdigit()
        yield (int(key), value) if number_first else (value, key)


def _content_lines(text: str) -> list[str]:
    lines = [line.expandtabs(1).strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _checked_names(pairs: Iterable[tuple[Any, Any]], where: str) -> dict[int, str]:
    names: dict[int, str] = {}
    for number, name in pairs:
        if isinstance(number, bool) or not isinstance(number, int) or not isinstance(name, str):
            raise ConfigError(f"{where}: {name}: expected a whole number, got {number!r}")
        if number == 0:
            continue
        if number in names:
            raise ConfigError(f"{where}: {number} is both {names[number]} and {name}")
        names[number] = name
    return names


def _parse_toml(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: not a TOML file: {error}") from error


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


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot read the label names: {error}") from error


# Merging --------------------------------------------------------------------------------------


def merge(
    labels: LabelMap,
    source: str | Path | LabelTable,
    target: str | Path | LabelTable = "thorax13",
    extra: Sequence[tuple[LabelMap, str | Path | LabelTable]] = (),
) -> MergedLabels:
    """Merge a label map into the classes of a target, structure by structure, by name.

    An extra map fills only the classes that no map before it can have (the pulmonary artery, which
    TotalSegmentator 2 does not segment in its main task). There it wins over the other classes:
    it was made for that structure, and they were not.

    Args:
        labels: the label map.
        source: the table that says what its numbers mean.
        target: the table of classes; the default is SegReg's 13 for the thorax.
        extra: further label maps of the same space with their tables.

    Returns:
        The merged label map with names, and notes.

    Raises:
        ConfigError: a table is unknown or not a merge table.
        GeometryError: an extra map lies in another space.
        ImageContentError: a map is empty, or has nothing of what the target asks for.

    Source:
        SegReg, appendix C (the classes of the thorax).
    """
    goal = _table(target)
    if not goal.members:
        raise ConfigError(f"merge: target: {goal.name} names numbers but merges nothing")
    table = _table(source)
    classes = _classes(table, goal)
    notes = _unnamed(labels, table)
    data = _relabel(labels.data, classes)
    filled, tables = set(classes.values()), [table.name]
    for more, more_source in extra:
        require_same_space(more, labels)
        more_table = _table(more_source)
        notes += _unnamed(more, more_table)
        new = {k: v for k, v in _classes(more_table, goal).items() if v not in filled}
        added = _relabel(more.data, new).to(data.device)
        data = torch.where(added > 0, added, data)
        filled |= set(new.values())
        tables.append(more_table.name)
    notes += _missing_classes(goal, filled, tables)
    if not bool((data > 0).any()):
        raise ImageContentError(
            f"{labels.name}: expected structures of {goal.name}, got none: it has "
            f"{_listed(labels, table)} by {table.name}"
        )
    return MergedLabels(replace(labels, data=data, names=dict(goal.names)), tuple(notes))


def _table(which: str | Path | LabelTable) -> LabelTable:
    return which if isinstance(which, LabelTable) else load_table(which)


def _classes(table: LabelTable, goal: LabelTable) -> dict[int, int]:
    found = {number: goal.class_of(name) for number, name in table.names.items()}
    return {number: cls for number, cls in found.items() if cls}


def _unnamed(labels: LabelMap, table: LabelTable) -> list[str]:
    """Check that a map has labels; a note on those that its table does not name."""
    present = _present(labels)
    unnamed = [str(v) for v in present if v not in table.names]
    if not unnamed:
        return []
    return [
        f"{labels.name}: {', '.join(unnamed)} not in {table.name}: taken as background "
        "(is it of another version?)"
    ]


def _missing_classes(goal: LabelTable, filled: set[int], tables: list[str]) -> list[str]:
    notes = []
    for number, name in goal.names.items():
        if number in filled:
            continue
        other = goal.elsewhere.get(number)
        advice = f"; give {other} to fill it" if other and other not in tables else ""
        notes.append(f"{name}: not in {', '.join(tables)}{advice}")
    return notes


def _listed(labels: LabelMap, table: LabelTable | None = None) -> str:
    names = table.names if table is not None else labels.names
    present = _present(labels)
    shown = [f"{v} ({names[v]})" if v in names else str(v) for v in present[:12]]
    return ", ".join(shown) + (f" and {len(present) - 12} more" if len(present) > 12 else "")


# Matching -------------------------------------------------------------------------------------


def match_labels(fixed: LabelMap, moving: LabelMap) -> MatchedLabels:
    """Bring two label maps to one numbering, that of the fixed one, and to the labels of both.

    By name when both have names (capitals, spaces, hyphens and underscores do not matter); by
    value when either has none.

    Args:
        fixed: labels of the fixed image.
        moving: labels of the moving image; its grid may be another.

    Returns:
        The two maps with the same labels and names, and notes on every label that was left out.

    Raises:
        ImageContentError: a map is empty, or they have no label in common.
    """
    values = {"fixed": _present(fixed), "moving": _present(moving)}
    by_name = all(
        set(m.names) & set(v) for m, v in zip((fixed, moving), values.values(), strict=True)
    )
    notes: list[str] = []
    if not by_name and (fixed.names or moving.names):
        lacking = moving if set(fixed.names) & set(values["fixed"]) else fixed
        notes.append(f"{lacking.name}: has no names: labels are matched by number")
    keys_fixed, keys_moving = (
        {v: _key(m, v) if by_name else str(v) for v in present}
        for m, present in zip((fixed, moving), values.values(), strict=True)
    )
    number_of: dict[str, int] = {}
    for value, key in keys_fixed.items():
        number_of.setdefault(key, value)
    common = set(number_of) & set(keys_moving.values())
    if not common:
        raise ImageContentError(
            f"{moving.name}: expected labels in common with {fixed.name}, which has "
            f"{_listed(fixed)}; got {_listed(moving)}"
        )
    notes += _left_out(fixed, keys_fixed, common, moving)
    notes += _left_out(moving, keys_moving, common, fixed)
    numbers = sorted(number_of[key] for key in common)
    titles = {v: fixed.names.get(v) or moving.names.get(v) or "" for v in numbers}
    titles = {v: name for v, name in titles.items() if name}
    first, second = (
        _renamed(m, {v: number_of[k] for v, k in keys.items() if k in common}, titles)
        for m, keys in ((fixed, keys_fixed), (moving, keys_moving))
    )
    return MatchedLabels(first, second, tuple(notes))


def _renamed(labels: LabelMap, numbers: dict[int, int], names: dict[int, str]) -> LabelMap:
    return replace(labels, data=_relabel(labels.data, numbers), names=dict(names))


def _key(labels: LabelMap, value: int) -> str:
    """What a label is compared by: its name, spelling aside. A bare number matches no name."""
    name = labels.names.get(value)
    if name is None:
        return f"#{value}"
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _left_out(
    labels: LabelMap, keys: dict[int, str], common: set[str], other: LabelMap
) -> list[str]:
    """Notes on labels that the other map lacks, and on those that share a name."""
    lost = [_numbered(labels, v) for v, key in keys.items() if key not in common]
    notes = []
    if lost:
        notes.append(f"{labels.name}: {', '.join(lost)} not in {other.name}: taken as background")
    for key in sorted(common):
        same = [_numbered(labels, v) for v, k in keys.items() if k == key]
        if len(same) > 1:
            notes.append(f"{labels.name}: {', '.join(same)} share a name: taken as one label")
    return notes


def _numbered(labels: LabelMap, value: int) -> str:
    return f"{value} ({labels.names[value]})" if value in labels.names else str(value)


# Numbers --------------------------------------------------------------------------------------


def _present(labels: LabelMap) -> list[int]:
    """The labels that occur, ascending; refuses a map without any.

    Raises:
        ImageContentError: every voxel is background.
    """
    data = labels.data.flatten()
    low, high = int(data.min()), int(data.max())
    if high - low < TABLE_RANGE:
        count = torch.bincount(data - low, minlength=1)
        values = [low + k for k in count.nonzero().flatten().tolist() if low + k != 0]
    else:
        values = labels.values
    if not values:
        raise ImageContentError(f"{labels.name}: expected labels, but every voxel is background")
    return values


def _relabel(data: torch.Tensor, numbers: dict[int, int]) -> torch.Tensor:
    """Renumber labels through one lookup table; those without a number become background."""
    known = sorted(numbers)
    if not known:
        return torch.zeros_like(data)
    low, high = known[0], known[-1]
    if high - low < TABLE_RANGE:
        table = torch.zeros(high - low + 3, dtype=torch.int32)
        for value, number in numbers.items():
            table[value - low + 1] = number
        return table.to(data.device)[data.clamp(low - 1, high + 1) - (low - 1)]
    keys = torch.tensor(known, dtype=torch.int32, device=data.device)
    targets = torch.tensor([numbers[k] for k in known], dtype=torch.int32, device=data.device)
    position = torch.searchsorted(keys, data).clamp_(max=len(known) - 1)
    return torch.where(keys[position] == data, targets[position], 0).to(torch.int32)
