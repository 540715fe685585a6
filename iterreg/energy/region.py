"""A region as its own crop: many small regions then cost no more than a few large ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import pad

from iterreg.neighbourhood import Box, bounding_box


@dataclass(frozen=True)
class Region:
    """The voxels of one region within a box of the grid.

    Args:
        mask: (z, y, x) bool.
        box: the place of the mask in the grid, a slice per axis with explicit ends.
        shape: (Z, Y, X) of the whole grid.

    Example:
        >>> import torch
        >>> region = Region.of(torch.tensor([[[False, True, True, False, False]]]))
        >>> region.box[2], region.grown((0, 0, 1)).box[2]
        (slice(1, 3, None), slice(0, 4, None))
    """

    mask: Tensor
    box: Box
    shape: tuple[int, ...]

    @classmethod
    def of(cls, mask: Tensor) -> Region | None:
        """The region of a mask of the whole grid (Z, Y, X), or None if the mask is empty."""
        box = bounding_box(mask)
        return None if box is None else cls(mask[box].clone(), box, tuple(mask.shape))

    def grown(self, margins: Sequence[int]) -> Region:
        """The same region in a box that is wider by so many voxels, as far as the grid reaches."""
        box = self.grown_box(margins)
        return Region(self.spread(self.mask, box, False), box, self.shape)

    def grown_box(self, margins: Sequence[int]) -> Box:
        """The box of :meth:`grown`."""
        return tuple(
            slice(max(0, part.start - margin), min(n, part.stop + margin))
            for part, margin, n in zip(self.box, margins, self.shape, strict=True)
        )

    def spread(self, values: Tensor, box: Sequence[slice], fill: float) -> Tensor:
        """Values of this region's box on a wider box, with ``fill`` around them."""
        sides = [
            side
            for here, there in zip(reversed(self.box), reversed(box), strict=True)
            for side in (here.start - there.start, there.stop - here.stop)
        ]
        return pad(values, sides, value=fill)
