"""Merge the structures of a label map into classes, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from iterreg.errors import ConfigError, ImageContentError
from iterreg.image import LabelMap, require_same_space
from iterreg.labels import relabel
from iterreg.regions._label_numbers import listed, present_labels
from iterreg.regions.label_tables import LabelTable, load_label_table

TableLike = str | Path | LabelTable


@dataclass(frozen=True)
class MergedLabels:
    """A merged label map, and notes on it.

    Args:
        labels: the merged label map, with names.
        notes: sentences for the user: classes without a source, numbers without a name.
    """

    labels: LabelMap
    notes: tuple[str, ...] = ()


def merge_labels(
    labels: LabelMap,
    source: TableLike,
    target: TableLike = "thorax13",
    extra: Sequence[tuple[LabelMap, TableLike]] = (),
) -> MergedLabels:
    """Merge a label map into the classes of a target, structure by structure, by name.

    An extra map fills only the classes that no map before it can have, such as the pulmonary
    artery, which TotalSegmentator 2 does not segment in its main task. In these classes it
    overwrites the other maps, because it was made for that structure and they were not.

    Args:
        labels: the label map.
        source: the table that says what its numbers mean.
        target: the table of classes; the default is SegReg's 13 for the thorax.
        extra: further label maps of the same space, each with its table.

    Returns:
        The merged label map with names, and notes.

    Raises:
        ConfigError: a table is unknown or not a merge table.
        GeometryError: an extra map lies in another space.
        ImageContentError: a map is empty, or has none of the target's structures.

    Source:
        SegReg, appendix C (the classes of the thorax).

    Example:
        >>> from iterreg.geometry import Grid
        >>> grid = Grid((1, 3), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> lobes = LabelMap(torch.tensor([[10, 11, 52]]).int(), grid)
        >>> merge_labels(lobes, "totalsegmentator-v2").labels.data
        tensor([[3, 3, 1]], dtype=torch.int32)
    """
    goal, table = _as_table(target), _as_table(source)
    if not goal.members:
        raise ConfigError(f"merge: target: {goal.name} names numbers but merges nothing")
    classes = _classes(table, goal)
    notes = _unnamed(labels, table)
    data = relabel(labels.data, classes)
    filled, tables = set(classes.values()), [table.name]
    for more, more_source in extra:
        require_same_space(more, labels)
        more_table = _as_table(more_source)
        notes += _unnamed(more, more_table)
        new = {k: v for k, v in _classes(more_table, goal).items() if v not in filled}
        added = relabel(more.data, new).to(data.device)
        data = torch.where(added > 0, added, data)
        filled |= set(new.values())
        tables.append(more_table.name)
    notes += _missing_classes(goal, filled, tables)
    if not bool((data > 0).any()):
        raise ImageContentError(
            f"{labels.name}: expected structures of {goal.name}, got none: it has "
            f"{listed(labels, table.names)} by {table.name}"
        )
    return MergedLabels(replace(labels, data=data, names=dict(goal.names)), tuple(notes))


def _as_table(which: TableLike) -> LabelTable:
    return which if isinstance(which, LabelTable) else load_label_table(which)


def _classes(table: LabelTable, goal: LabelTable) -> dict[int, int]:
    """The class of each number whose structure belongs to one."""
    found = {number: goal.class_of(name) for number, name in table.names.items()}
    return {number: cls for number, cls in found.items() if cls}


def _unnamed(labels: LabelMap, table: LabelTable) -> list[str]:
    """A note on the labels that occur without a name in the table; refuses an empty map."""
    unnamed = [str(v) for v in present_labels(labels) if v not in table.names]
    if not unnamed:
        return []
    return [
        f"{labels.name}: {', '.join(unnamed)} not in {table.name}: taken as background "
        "(is it of another version?)"
    ]


def _missing_classes(goal: LabelTable, filled: set[int], tables: list[str]) -> list[str]:
    """Notes on the classes that no table can fill."""
    notes = []
    for number, name in goal.names.items():
        if number in filled:
            continue
        other = goal.elsewhere.get(number)
        advice = f"; give {other} to fill it" if other and other not in tables else ""
        notes.append(f"{name}: not in {', '.join(tables)}{advice}")
    return notes
