"""Regions of a pair in one numbering, and how each two of them move along each other."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from iterreg.config import Smoothness
from iterreg.errors import ConfigError
from iterreg.image import LabelMap, Mask, RoiPair
from iterreg.labels import compact_labels, dissolve
from iterreg.names import fits, fits_any
from iterreg.optimize.pair import Interfaces
from iterreg.optimize.partners import Mismatch


@dataclass(frozen=True)
class Regions:
    """The regions of a pair, in one numbering.

    Args:
        fixed, moving: label maps with the same labels and names, each on its image's grid.
        empty_background: whether label 0 is known to hold no anatomy (air around the body).
        notes: sentences for the user, such as labels that were left out.
    """

    fixed: LabelMap
    moving: LabelMap
    empty_background: bool = False
    notes: tuple[str, ...] = ()

    @property
    def values(self) -> list[int]:
        """Labels of the regions, ascending; position + 1 is the compact label."""
        return self.fixed.values

    def compact(self, labels: LabelMap) -> Tensor:
        """Number labels 1 ... n in ascending order, (*shape) int32; background is 0."""
        if self.values == [*range(1, len(self.values) + 1)] and labels.values == self.values:
            return labels.data
        return compact_labels(labels.data, self.values)

    def without(self, mismatches: Sequence[Mismatch]) -> tuple[Regions, dict[str, str]]:
        """Dissolve regions into those around them.

        Returns:
            The regions that are left, with a note on each that went, and why it went, by name.
        """
        reasons = {self.values[m.value - 1]: m.why for m in mismatches}
        if not reasons:
            return self, {}
        fixed, moving = (_dissolved(m, reasons.keys()) for m in (self.fixed, self.moving))
        titled = {self.fixed.title(value): why for value, why in reasons.items()}
        notes = [f"{name}: {why}; merged into what lies around it" for name, why in titled.items()]
        return replace(self, fixed=fixed, moving=moving, notes=(*notes, *self.notes)), titled


def _dissolved(labels: LabelMap, values: Set[int]) -> LabelMap:
    return replace(
        labels,
        data=dissolve(labels.data, sorted(values)),
        names={v: name for v, name in labels.names.items() if v not in values},
        whole={v: mask for v, mask in labels.whole.items() if v not in values},
    )


def regions_of_rois(pairs: Sequence[RoiPair]) -> Regions:
    """Make a partition of ROI pairs: a voxel belongs to the smallest of the ROIs that contain it.

    Args:
        pairs: at least one.

    Returns:
        Regions numbered 1 ... n in the order of ``pairs``, without names.
    """
    maps = []
    for side in ("fixed", "moving"):
        masks = [getattr(pair, side) for pair in pairs]
        data = torch.zeros(masks[0].grid.shape_zyx, dtype=torch.int32)
        sizes = [int(mask.inside.sum()) for mask in masks]
        for number in sorted(range(len(masks)), key=lambda k: -sizes[k]):
            data[masks[number].data] = number + 1
        maps.append(LabelMap(data, masks[0].grid, name=f"{side} ROIs"))
    return Regions(maps[0], maps[1])


def overlapping_pairs(regions: Regions) -> list[RoiPair]:
    """The regions that share voxels with others, whole: they guide the overlap beside the labels.

    Args:
        regions: matched; their maps may hold labels whole.

    Returns:
        A pair for each label that is whole in one of the maps.
    """
    fixed, moving = regions.fixed, regions.moving
    pairs = []
    for value in regions.values:
        if value in fixed.whole or value in moving.whole:
            masks = [
                labels.whole.get(value)
                or Mask.of(replace(labels, data=(labels.data == value).int(), whole={}))
                for labels in (fixed, moving)
            ]
            pairs.append(RoiPair(masks[0], masks[1]))
    return pairs


def interfaces_of(regions: Regions, config: Smoothness) -> Interfaces:
    """Look up how every two regions move along each other, by their names.

    A pair of regions is *glued* (an edge across it weighs 1, as inside a region), *sliding* (an
    edge weighs ``sliding_weight``, and the normal part of a jump ``gap_weight`` in total), or
    *free* (nothing is weighed). The first of these rules decides:

    1. background without anatomy, or a pair in ``glued``, is glued;
    2. a pair in ``free`` is free;
    3. a pair in ``sliding``, or with a region without a name, slides;
    4. any other pair is glued.

    Args:
        regions: of the pair of images.
        config: the pairs of names; ``*`` stands for any.

    Returns:
        Two tables over the compact labels, each (n + 1, n + 1) float32.
    """
    names = ["background", *(regions.fixed.names.get(v, "") for v in regions.values)]
    tangential = torch.ones(len(names), len(names))
    normal = torch.zeros(len(names), len(names))
    for a, first in enumerate(names):
        for b, second in enumerate(names):
            background = regions.empty_background and 0 in (a, b)
            if a == b or background or _named(config.glued, first, second):
                continue
            if _named(config.free, first, second):
                tangential[a, b] = 0
            elif not (first and second) or _named(config.sliding, first, second):
                tangential[a, b] = config.sliding_weight
                normal[a, b] = max(0, config.gap_weight - config.sliding_weight)
    return Interfaces(tangential, normal, regions.empty_background)


def values_named(key: str, patterns: Sequence[str], regions: Regions) -> tuple[int, ...]:
    """Find the compact labels of the regions that a setting names.

    Args:
        key: of the setting, for the message.
        patterns: names; ``*`` stands for any, and a region without a name is ``label N``.
        regions: of the pair of images.

    Raises:
        ConfigError: a pattern names no region.
    """
    titles = [regions.fixed.title(value) for value in regions.values]
    for pattern in patterns:
        if not any(fits(title, pattern) for title in titles):
            known = ", ".join(titles) or "none"
            raise ConfigError(f"{key}: expected the name of a region ({known}), got {pattern}")
    return tuple(number for number, title in enumerate(titles, 1) if fits_any(title, patterns))


def _named(pairs: tuple[tuple[str, ...], ...], first: str, second: str) -> bool:
    """Whether a list of pairs of patterns matches two regions, in either order."""
    both = (first, second), (second, first)
    return any(fits(a, left) and fits(b, right) for left, right in pairs for a, b in both)
