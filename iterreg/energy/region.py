"""A region as its own crop: many small regions then cost no more than a few large ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import pad

Box = tuple[slice, ...]


@dataclass(frozen=True)
class Region:
    """The voxels of one region within a box of the grid.

    Args:
        mask: (z, y, x) bool.
        box: where that lies, with explicit ends.
        shape: (Z, Y, X) of the whole grid.
    """

    mask: Tensor
    box: Box
    shape: tuple[int, ...]

    @classmethod
    def of(cls, mask: Tensor) -> Region | None:
        """The region of a mask of the whole grid (Z, Y, X); None where it is empty."""
        box = []
        for axis in range(3):
            others = [a for a in range(3) if a != axis]
            hit = mask.any(others[1]).any(others[0]).nonzero()
            if len(hit) == 0:
                return None
            box.append(slice(int(hit[0]), int(hit[-1]) + 1))
        return cls(mask[tuple(box)].clone(), tuple(box), tuple(mask.shape))

    def grown(self, margins: Sequence[int]) -> Region:
        """The same region in a box that is wider by so many voxels, as far as the grid reaches."""
        box = [
            slice(max(0, part.start - margin), min(n, part.stop + margin))
            for part, margin, n in zip(self.box, margins, self.shape, strict=True)
        ]
        return Region(self.spread(self.mask, box, False), tuple(box), self.shape)

    def spread(self, values: Tensor, box: Sequence[slice], fill: float) -> Tensor:
        """Values of this region's box on a wider one, ``fill`` around them."""
        sides = [
            side
            for here, there in zip(reversed(self.box), reversed(box), strict=True)
            for side in (here.start - there.start, there.stop - here.stop)
        ]
        return pad(values, sides, value=fill)
