"""Segmenters by name: each finds the regions of a pair of images.

A segmenter is a function ``(fixed: Image, moving: Image, device: str) -> Regions``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from iterreg.tables import Table

if TYPE_CHECKING:
    from iterreg.image import Image
    from iterreg.partition import Regions

SEGMENTERS = Table(
    "segmenter",
    {
        "none": "iterreg.regions.segmenters:none",
        "thorax-ct": "iterreg.regions.segmenters:thorax_ct",
        "totalsegmentator": "iterreg.regions.segmenters:totalsegmentator",
    },
)


def none(fixed: Image, moving: Image, device: str) -> Regions:
    """No regions: one smooth field."""
    import torch

    from iterreg.image import LabelMap
    from iterreg.partition import Regions

    def empty(image: Image) -> LabelMap:
        data = torch.zeros(image.grid.shape_zyx, dtype=torch.int32)
        return LabelMap(data, image.grid, name=f"regions of {image.name}")

    return Regions(empty(fixed), empty(moving))


def thorax_ct(fixed: Image, moving: Image, device: str) -> Regions:
    """Body, lungs and bones of a chest CT, without weights."""
    from iterreg.partition import Regions
    from iterreg.regions.label_tables import match_labels
    from iterreg.regions.thorax_ct import segment_thorax_ct

    matched = match_labels(*(segment_thorax_ct(image) for image in (fixed, moving)))
    return Regions(matched.fixed, matched.moving, True, tuple(matched.notes))


def totalsegmentator(fixed: Image, moving: Image, device: str) -> Regions:
    """The structures that TotalSegmentator finds."""
    from iterreg.partition import Regions
    from iterreg.regions.label_tables import match_labels
    from iterreg.regions.totalsegmentator import segment_totalsegmentator

    matched = match_labels(*(segment_totalsegmentator(i, device) for i in (fixed, moving)))
    return Regions(matched.fixed, matched.moving, notes=tuple(matched.notes))
