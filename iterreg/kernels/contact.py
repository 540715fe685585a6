"""Gap and overlap across interfaces that slide: the normal part of the jump, edge by edge.

Interfaces are surfaces, so this is a list of edges. Each list holds the edges along one axis, in
which no voxel is twice the low or twice the high end: what is added is deterministic on every
device.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from iterreg.kernels.reference import PAIRS, invert_blocks


@dataclass(frozen=True)
class Contact:
    """The edges across sliding interfaces, axis by axis.

    Args:
        low, high: per axis (E,) int64, flat indices of the edges' voxels.
        across: per axis (3, E), the unit normal times the root of the edge's weight, 1/mm: an edge
            costs ``(across . (v_high - v_low))^2``.
    """

    low: tuple[Tensor, ...]
    high: tuple[Tensor, ...]
    across: tuple[Tensor, ...]

    @cached_property
    def _blocks(self) -> tuple[Tensor, Tensor]:
        """The voxels at interfaces (N,), and the blocks (6, N) of C on its diagonal."""
        ends = torch.cat((*self.low, *self.high))
        across = torch.cat((*self.across, *self.across), 1)
        voxels, place = torch.unique(ends, return_inverse=True)
        blocks = across.new_zeros(6, len(voxels))
        first = 0
        for part in (*self.low, *self.high):
            at = slice(first, first + len(part))
            blocks[:, place[at]] += torch.stack([across[a, at] * across[b, at] for a, b in PAIRS])
            first += len(part)
        return voxels, blocks

    def precondition(self, curvature: Tensor, diagonal: Tensor, inverse: Tensor) -> None:
        """Put this into the inverse blocks of the preconditioner.

        Args:
            curvature: (6, Z, Y, X). diagonal: (Z, Y, X), what the preconditioner adds to it.
            inverse: (6, Z, Y, X), changed where interfaces are.
        """
        voxels, blocks = self._blocks
        own = curvature.view(6, -1)[:, voxels] + blocks
        inverse.view(6, -1)[:, voxels] = invert_blocks(own, diagonal.flatten()[voxels])
