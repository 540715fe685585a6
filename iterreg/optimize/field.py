"""The displacement field and the grid that it lives on; how it gets from one level to another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from iterreg.displacement import DisplacementField, Transform
from iterreg.geometry import Grid, Matrix, canonical
from iterreg.kernels import upsample
from iterreg.optimize.pair import Interfaces
from iterreg.optimize.side import Side
from iterreg.to_device import on_device

LEAST_AFFINITY = 1e-3
"""Of two labels, for upsampling: a voxel takes from other labels only if no corner of its cell has
its own."""


@dataclass(frozen=True)
class Field:
    """A residual displacement, before the affine.

    Args:
        u_mm: (3, Z, Y, X), components (z, y, x), mm along the axes of the side's grid.
        side: the fixed image at the field's resolution.
    """

    u_mm: Tensor
    side: Side

    @classmethod
    def zero(cls, side: Side) -> Field:
        """No motion."""
        return cls(torch.zeros(3, *side.shape, device=side.device), side)

    @classmethod
    def of(cls, transform: Transform, side: Side) -> Field:
        """The field of a transform that lives on the side's own grid."""
        vox = transform.field.vox.to(side.device)
        if side.grid.rank == 2:
            vox = torch.cat((torch.zeros_like(vox[:1]), vox)).unsqueeze(1)
        return cls(vox * on_device(side.spacing_mm, vox.device, vox.dtype).view(3, 1, 1, 1), side)

    def on(self, side: Side, interfaces: Interfaces) -> Field:
        """This field prolonged to another level, so that nothing leaks across interfaces.

        Args:
            side: the fixed image at the other level.
            interfaces: how regions may move along each other.
        """
        if self.side.shape == side.shape:
            return Field(self.u_mm, side)
        ratio = torch.tensor(side.spacing_mm) / torch.tensor(self.side.spacing_mm)
        nodes = Nodes(self.u_mm, self.side.labels, ratio, (ratio - 1) / 2)
        return Field(upsample_nodes(nodes, side, interfaces), side)

    def to_transform(self, affine_lps: Matrix, grid: Grid) -> Transform:
        """The transform on the image's own grid: its axis order, voxels. Uses up ``u_mm``.

        Args:
            affine_lps: what follows the field.
            grid: of the fixed image; this field lives on its canonical order.
        """
        reordered, order = canonical(grid)
        vox = self.u_mm.squeeze(1)[1:] if grid.rank == 2 else self.u_mm
        spacing = on_device(reordered.spacing_zyx_mm, vox.device, vox.dtype)
        vox = vox.div_(spacing.view(-1, *[1] * grid.rank))
        return Transform(affine_lps, DisplacementField(_on_host(order.undo_vectors(vox)), grid))


def _on_host(values: Tensor) -> Tensor:
    """A tensor on the CPU. Filled first: threads touch fresh memory faster than a copy does."""
    if values.device.type == "cpu":
        return values
    return torch.empty(values.shape, dtype=values.dtype).fill_(0).copy_(values)


@dataclass(frozen=True)
class Nodes:
    """Displacements on a lattice that is coarser than a side.

    Args:
        u_mm: (3, z, y, x).
        labels: (z, y, x), of the nodes.
        scale, shift: (3,): voxel i of the side lies at ``scale * i + shift`` of the lattice.
    """

    u_mm: Tensor
    labels: Tensor
    scale: Tensor
    shift: Tensor


def upsample_nodes(nodes: Nodes, side: Side, interfaces: Interfaces) -> Tensor:
    """(3, Z, Y, X) mm: the nodes' displacement at every voxel of a side, label by label."""
    return upsample(
        nodes.u_mm.contiguous(),
        nodes.labels,
        side.labels,
        on_device(nodes.scale.float(), side.device),
        on_device(nodes.shift.float(), side.device),
        interfaces.tangential.clamp(min=LEAST_AFFINITY),
    )
