"""The values that kernels take and return. No kernel is needed to make one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
"""The six entries of a symmetric 3 x 3 matrix, in the order (zz, zy, zx, yy, yx, xx)."""


@dataclass(frozen=True)
class IndexMap:
    """Fixed voxel i with displacement u lands on the moving index ``linear i + shift + from_mm u``.

    Args:
        linear: (3, 3), moving voxels per fixed voxel.
        shift: (3,), moving voxels.
        from_mm: (3, 3), moving voxels per mm along the fixed axes.

    Example:
        >>> half = IndexMap(torch.eye(3), torch.zeros(3), 0.5 * torch.eye(3))
        >>> half.apply(torch.tensor([[1.0], [2.0], [3.0]]), torch.ones(3, 1)).flatten()
        tensor([1.5000, 2.5000, 3.5000])
    """

    linear: Tensor
    shift: Tensor
    from_mm: Tensor

    def to_mm(self) -> Tensor:
        """(3, 3), mm along the fixed axes per moving voxel; zero along an axis of length 1.

        The result is rounded: linear algebra rounds by where its arguments lie in memory, and the
        same call has to give the same bytes.
        """
        inverse: Tensor = torch.linalg.pinv(self.from_mm.double().cpu())
        return torch.round(inverse, decimals=6).to(self.from_mm)

    def apply(self, voxels: Tensor, u_mm: Tensor) -> Tensor:
        """Moving indices (3, N) of fixed voxels (3, N) with displacements (3, N)."""
        return self.linear @ voxels + self.shift.unsqueeze(1) + self.from_mm @ u_mm


@dataclass
class NormalEquations:
    """Half the gradient and the Gauss-Newton curvature of an energy at a displacement.

    Args:
        gradient: (3, Z, Y, X).
        curvature: (6, Z, Y, X), a symmetric 3 x 3 matrix per voxel, in the order of ``PAIRS``.
    """

    gradient: Tensor
    curvature: Tensor

    @classmethod
    def zero(cls, u_mm: Tensor) -> NormalEquations:
        """Empty equations for displacements (3, Z, Y, X) like this one."""
        return cls(torch.zeros_like(u_mm), u_mm.new_zeros(6, *u_mm.shape[1:]))


@dataclass(frozen=True)
class NormalJump:
    """The faces between regions that slide, and the direction in which a jump is penalised there.

    A face costs ``(across . (v_high - v_low))^2``: the squared normal part of the jump, which
    opens a gap or makes tissue overlap. The tangential part, which is sliding, is free. Faces are
    listed axis by axis. Within one list no voxel is twice the low or twice the high end, so that
    sums over them are deterministic on every device.

    Args:
        low, high: per axis (E,) int64, flat indices of the voxels on both sides of each face.
        across: per axis (3, E), the unit normal times the root of the face's weight, 1/mm.
    """

    low: tuple[Tensor, ...]
    high: tuple[Tensor, ...]
    across: tuple[Tensor, ...]

    @cached_property
    def by_voxel(self) -> FacesByVoxel:
        """The same faces, as each voxel sees them."""
        ends = (*self.low, *self.high)
        voxels, place = torch.unique(torch.cat(ends), return_inverse=True)
        there = voxels.new_full((6, len(voxels)), -1)
        across = self.across[0].new_zeros(6, 3, len(voxels))
        sides = zip(place.split([len(end) for end in ends]), (*self.high, *self.low), strict=True)
        for side, (at, other) in enumerate(sides):
            there[side, at] = other
            across[side, :, at] = self.across[side % 3]
        return FacesByVoxel(voxels, there, across)

    @cached_property
    def diagonal_blocks(self) -> tuple[Tensor, Tensor]:
        """The voxels at interfaces (N,), and the (6, N) diagonal blocks of the penalty's matrix."""
        faces = self.by_voxel
        blocks = [(faces.across[:, a] * faces.across[:, b]).sum(0) for a, b in PAIRS]
        return faces.voxels, torch.stack(blocks)


@dataclass(frozen=True)
class FacesByVoxel:
    """The faces between regions that slide, voxel by voxel.

    Args:
        voxels: (N,) int64, flat indices of the voxels that have such faces.
        there: (6, N) int64, the voxel behind each face: toward higher z, y, x, then toward lower
            ones; -1 without a face.
        across: (6, 3, N), of each face; 0 without one.
    """

    voxels: Tensor
    there: Tensor
    across: Tensor

    @cached_property
    def by_rows(self) -> tuple[Tensor, Tensor]:
        """``there``, (N, 6) int32, and ``across``, (N, 6, 3): a voxel's own values side by side."""
        return self.there.T.int().contiguous(), self.across.permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class LinearSystem:
    """The matrix ``H + L + J`` of a Gauss-Newton step, restricted to the voxels that may move.

    Args:
        curvature: (6, Z, Y, X), H: a symmetric 3 x 3 block per voxel.
        edges: (3, Z, Y, X), L: the weight of the edge to the next voxel along each axis, 0 at the
            last one.
        active_rows: (Z * Y, 2) int32, first and one past the last voxel of each row that may move;
            the others stay.
        normal_jump: J: the faces where gap and overlap are penalised, or None.
    """

    curvature: Tensor
    edges: Tensor
    active_rows: Tensor
    normal_jump: NormalJump | None = None

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.curvature.device


class Workspace:
    """Tensors that are used again from step to step: new memory costs more than filling old one."""

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}

    def zeros(self, name: str, like: Tensor, channels: int = 3) -> Tensor:
        """A zero tensor (channels, Z, Y, X) on the device of ``like``.

        It takes the memory of the last one with this name, whose values are lost.
        """
        if name not in self._tensors:
            self._tensors[name] = like.new_empty(channels, *like.shape[1:])
        return self._tensors[name].zero_()
