"""Which masks may be regions of interest: neither specks nor background, each thing once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from iterreg.errors import ConfigError
from iterreg.samreg.everything import Rois, differs_from_border
from iterreg.samreg.rle import stacked

AREA_OF = ("picture", "body", "mm2")
NESTED = ("keep", "outer", "inner")

THINNED = 128
"""Overlaps are counted on masks thinned to this many pixels along their longer side."""


@dataclass(frozen=True)
class RoiFilter:
    """What a region of interest is.

    Args:
        area: least and most. The papers' 200 and 7000 pixels of pictures of 200 x 200 would be
            shares of 0.005 and 0.175; the heart's apex is smaller where a chest fills the picture,
            the pelvic organs together are larger, and both are worth matching.
        area_of: what the limits are shares of: the ``picture``, or the ``body`` (what differs from
            the picture's border colour); or ``mm2``.
        overlap: two masks are one thing when they share more than this of their union; the papers'
            0.8. One lies in the other when it shares more than this of itself.
        nested: ``keep`` both, or only the ``outer`` or the ``inner`` one. The papers' own code
            drops the inner one, and with it every organ inside a body.
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


def filtered(rois: Rois, wanted: RoiFilter, unit: float) -> Rois:
    """The masks of a slice that pass.

    Args:
        rois: of the slice, best judged first.
        wanted: the limits.
        unit: voxels that the limits count as 1: those of the picture, of its body, or of a mm^2.

    Returns:
        What is left, in the same order.
    """
    low, high = wanted.area
    fits = [k for k, m in enumerate(rois.masks) if low * unit <= m.area <= high * unit]
    rois = rois.only(fits)
    masks = torch.from_numpy(stacked(rois.masks, THINNED)).flatten(1).float()
    shared = masks @ masks.T
    own = shared.diagonal()
    union = own[:, None] + own[None] - shared
    twins = shared > wanted.overlap * union.clamp(min=1)
    smaller = torch.minimum(own[:, None], own[None]).clamp(min=1)
    nested = (shared > wanted.overlap * smaller) & ~twins
    return rois.only(_left(twins, nested, own, wanted.nested))


def _left(twins: Tensor, nested: Tensor, size: Tensor, rule: str) -> list[int]:
    """Indices to keep: the first of twins, then the outer or inner of nested ones."""
    kept: list[int] = []
    for k in range(len(size)):
        if not any(bool(twins[k, j]) for j in kept):
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
    """How many of a slice's voxels show something else than its border colour.

    Args:
        picture: (H, W, 3) uint8. shape: rows and columns of the slice's voxels.
    """
    return float(differs_from_border(picture).float().mean()) * shape[0] * shape[1]
