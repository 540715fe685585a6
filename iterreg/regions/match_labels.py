"""Match the labels of two maps, by name if both have names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from iterreg.errors import ImageContentError
from iterreg.image import LabelMap
from iterreg.labels import relabel
from iterreg.names import spelled
from iterreg.partition import Regions
from iterreg.regions._label_numbers import listed, present_labels, with_name


def match_labels(fixed: LabelMap, moving: LabelMap) -> Regions:
    """Bring two label maps to the fixed one's numbering, and keep the labels that both have.

    Labels match by name if both maps have names (capitals, spaces, hyphens and underscores do not
    matter), and by number otherwise.

    Args:
        fixed: labels of the fixed image.
        moving: labels of the moving image; its grid may be another.

    Returns:
        The two maps with the same labels and names, and notes on every label that was left out.

    Raises:
        ImageContentError: a map is empty, or they have no label in common.

    Example:
        >>> import torch
        >>> from iterreg.geometry import Grid
        >>> grid = Grid((1, 3), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> fixed = LabelMap(torch.tensor([[1, 2, 0]]).int(), grid, {1: "Left Lung", 2: "heart"})
        >>> moving = LabelMap(torch.tensor([[5, 0, 5]]).int(), grid, {5: "left_lung"})
        >>> match_labels(fixed, moving).moving.data
        tensor([[1, 0, 1]], dtype=torch.int32)
    """
    present_fixed, present_moving = present_labels(fixed), present_labels(moving)
    fixed_named = bool(set(fixed.names) & set(present_fixed))
    by_name = fixed_named and bool(set(moving.names) & set(present_moving))
    notes: list[str] = []
    if not by_name and (fixed.names or moving.names):
        unnamed = moving if fixed_named else fixed
        notes.append(f"{unnamed.name}: has no names: labels are matched by number")
    keys_fixed = {v: _key(fixed, v) if by_name else str(v) for v in present_fixed}
    keys_moving = {v: _key(moving, v) if by_name else str(v) for v in present_moving}
    number_of: dict[str, int] = {}
    for value, key in keys_fixed.items():
        number_of.setdefault(key, value)
    common = set(number_of) & set(keys_moving.values())
    if not common:
        raise ImageContentError(
            f"{moving.name}: expected labels in common with {fixed.name}, which has "
            f"{listed(fixed, fixed.names)}; got {listed(moving, moving.names)}"
        )
    notes += _left_out(fixed, keys_fixed, common, moving)
    notes += _left_out(moving, keys_moving, common, fixed)
    numbers = {key: number_of[key] for key in common}
    names = _names(sorted(numbers.values()), fixed, moving)
    return Regions(
        _renumbered(fixed, keys_fixed, numbers, names),
        _renumbered(moving, keys_moving, numbers, names),
        notes=tuple(notes),
    )


def _key(labels: LabelMap, value: int) -> str:
    """The form of a name that is compared, spelling aside. A bare number matches no name."""
    name = labels.names.get(value)
    return f"#{value}" if name is None else spelled(name)


def _names(numbers: list[int], fixed: LabelMap, moving: LabelMap) -> dict[int, str]:
    """The fixed map's name of each number, else the moving one's; no name is made up."""
    names = {v: fixed.names.get(v) or moving.names.get(v) or "" for v in numbers}
    return {v: name for v, name in names.items() if name}


def _renumbered(
    labels: LabelMap, keys: dict[int, str], numbers: dict[str, int], names: dict[int, str]
) -> LabelMap:
    new = {value: numbers[key] for value, key in keys.items() if key in numbers}
    if not labels.whole and all(new.get(value) == value for value in labels.values):
        return replace(labels, names=dict(names))
    whole = {new[v]: mask for v, mask in labels.whole.items() if v in new}
    data = relabel(labels.data, new)
    # What a left out label hid of the others is theirs again.
    for number, mask in sorted(whole.items(), key=lambda item: -int(item[1].inside.sum())):
        hidden = mask.data & torch.isin(
            labels.data, torch.tensor(left_out(labels, new), dtype=torch.int32)
        )
        data[hidden] = number
    return replace(labels, data=data, names=dict(names), whole=whole)


def left_out(labels: LabelMap, kept: Mapping[int, int]) -> list[int]:
    """Labels of a map that share voxels with others and have no new number."""
    return [value for value in labels.whole if value not in kept]


def _left_out(
    labels: LabelMap, keys: dict[int, str], common: set[str], other: LabelMap
) -> list[str]:
    """Notes on labels that the other map lacks, and on those that share a name."""
    lost = [with_name(v, labels.names) for v, key in keys.items() if key not in common]
    notes = []
    if lost:
        notes.append(f"{labels.name}: {', '.join(lost)} not in {other.name}: taken as background")
    for key in sorted(common):
        same = [with_name(v, labels.names) for v, k in keys.items() if k == key]
        if len(same) > 1:
            notes.append(f"{labels.name}: {', '.join(same)} share a name: taken as one label")
    return notes
