"""Choose regions of interest among masks: neither specks nor background, nor duplicates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from iterreg.errors import ConfigError
from iterreg.samreg.everything import Rois, differs_from_border
from iterreg.samreg.rle import stack_masks

AREA_OF = ("picture", "body", "mm2")
NESTED = ("keep", "outer", "inner")

SUBSAMPLED_PX = 128
"""Overlaps are counted on masks subsampled to this many pixels along their longer side."""


@dataclass(frozen=True)
class RoiFilter:
    """Limits for a region of interest.

    Args:
        area: least and most. The papers use 200 and 7000 pixels in pictures of 200 x 200, which are
            fractions of 0.005 and 0.175. Our limits are wider: the apex of a heart is smaller if
            the whole chest fills the picture, the pelvic organs together are larger.
        area_of: unit of the limits: fractions of the ``picture``; fractions of the ``body`` (the
            pixels that differ from the picture's border colour); or ``mm2``.
        overlap: two masks are duplicates if their intersection over union exceeds this (0.8 in the
            papers). One is nested in the other if more than this fraction of it lies inside.
        nested: ``keep`` both, or only the ``outer`` or the ``inner`` one. The papers' code drops
            the inner one, and with it every organ inside a body.
    """

    area: tuple[float, float] = (0.001, 0.3)
    area_of: str = "picture"
    overlap: float = 0.8
    nested: str = "keep"

    def __post_init__(self) -> None:
        if self.area_of not in AREA_OF:
            raise ConfigError(
                f"area_of: expected one of {', '.join(AREA_OF)}, got {self.area_of!r}"
            )
        if self.nested not in NESTED:
            raise ConfigError(f"nested: expected one of {', '.join(NESTED)}, got {self.nested!r}")
        if not 0 <= self.area[0] < self.area[1]:
            raise ConfigError(f"area: expected least < most, got {self.area}")


def filter_rois(rois: Rois, limits: RoiFilter, unit_voxels: float) -> Rois:
    """Keep the masks of a slice that pass the limits.

    Args:
        rois: of the slice, highest predicted IoU first.
        limits: the limits.
        unit_voxels: voxels of one unit of area: of the picture, of its body, or of a mm^2.

    Returns:
        The masks that pass, in the same order.
    """
    low, high = (limit * unit_voxels for limit in limits.area)
    rois = rois.only([k for k, m in enumerate(rois.masks) if low <= m.area <= high])
    masks = torch.from_numpy(stack_masks(rois.masks, SUBSAMPLED_PX)).flatten(1).float()
    intersection = masks @ masks.T
    size = intersection.diagonal()
    union = size[:, None] + size[None] - intersection
    duplicates = intersection > limits.overlap * union.clamp(min=1)
    smaller = torch.minimum(size[:, None], size[None]).clamp(min=1)
    nested = (intersection > limits.overlap * smaller) & ~duplicates
    return rois.only(_indices_to_keep(duplicates, nested, size, limits.nested))


def _indices_to_keep(duplicates: Tensor, nested: Tensor, size: Tensor, rule: str) -> list[int]:
    """Keep the first of duplicates, then the outer or inner of nested masks."""
    kept: list[int] = []
    for k in range(len(size)):
        if not any(bool(duplicates[k, j]) for j in kept):
            kept.append(k)
    if rule == "keep":
        return kept
    sign = 1 if rule == "outer" else -1
    return [
        k
        for k in kept
        if not any(bool(nested[k, j]) and sign * size[j] > sign * size[k] for j in kept)
    ]


def body_voxels(picture: Tensor, shape: tuple[int, int]) -> float:
    """Count the voxels of a slice that differ from its border colour.

    Args:
        picture: (H, W, 3) uint8.
        shape: rows and columns of the slice's voxels.
    """
    return float(differs_from_border(picture).float().mean()) * shape[0] * shape[1]
