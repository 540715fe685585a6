"""Segmenters by name: each finds the regions of a pair of images.

A segmenter is a function ``(fixed: Image, moving: Image, device: str) -> Regions``. To add one,
write such a function, in any module, and give it a row here. The configuration, the command line
and the messages read the table. Nothing heavy is imported before a segmenter runs. Plug-ins add
rows: ``plugin.py`` makes one of a function that segments one image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from iterreg.plugins import OpenTable

if TYPE_CHECKING:
    from iterreg.image import Image, LabelMap
    from iterreg.partition import Regions

    Segmenter = Callable[[Image, Image, str], Regions]

SEGMENTERS = OpenTable(
    "segmenter",
    {
        "none": "iterreg.regions.segmenters:no_regions",
        "thorax-ct": "iterreg.regions.segmenters:thorax_ct",
        "totalsegmentator": "iterreg.regions.segmenters:totalsegmentator",
    },
    group="iterreg.segmenters",
    adapt="iterreg.regions.plugin:adapt",
)


def no_regions(fixed: Image, moving: Image, device: str) -> Regions:
    """Find no regions: everything is background, and the field is smooth everywhere.

    Args:
        fixed, moving: the images.
        device: not used.
    """
    import torch

    from iterreg.image import LabelMap
    from iterreg.partition import Regions

    def empty(image: Image) -> LabelMap:
        data = torch.zeros(image.grid.shape_zyx, dtype=torch.int32)
        return LabelMap(data, image.grid, name=f"regions of {image.name}")

    return Regions(empty(fixed), empty(moving))


def thorax_ct(fixed: Image, moving: Image, device: str) -> Regions:
    """Find body, lungs, airways and bone in two chest CT, without weights.

    Args:
        fixed, moving: the images.
        device: not used; this segmenter runs on the CPU.

    Raises:
        SegmentationError: one of them is no chest CT.
    """
    from dataclasses import replace

    from iterreg.regions.thorax_ct import segment_thorax_ct

    # What is outside the body is air, so background holds no anatomy.
    return replace(_match((fixed, moving), segment_thorax_ct), empty_background=True)


def totalsegmentator(fixed: Image, moving: Image, device: str) -> Regions:
    """Find the structures of TotalSegmentator in two CT, merged into SegReg's 13 classes.

    Args:
        fixed, moving: the images.
        device: runs the network: ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        MissingDependencyError: TotalSegmentator is not installed.
        ImageContentError, SegmentationError: it cannot segment one of the images.
    """
    from iterreg.regions.totalsegmentator import segment_totalsegmentator

    return _match((fixed, moving), lambda image: segment_totalsegmentator(image, device))


def _match(images: tuple[Image, Image], segment: Callable[[Image], LabelMap]) -> Regions:
    """Segment each image, and match the labels of the two."""
    from iterreg.regions.match_labels import match_labels

    return match_labels(segment(images[0]), segment(images[1]))
