"""The pair as the optimiser takes it: two sides, their interfaces, and what guides them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from iterreg.energy.overlap import RegionPair
from iterreg.geometry import Matrix, Points, apply_affine, fixed_to_moving_index
from iterreg.kernels import IndexMap
from iterreg.optimize.side import Side
from iterreg.to_device import on_device


@dataclass(frozen=True)
class Interfaces:
    """How every two regions may move along each other.

    Args:
        tangential: (labels, labels) symmetric, w[a, b]: the weight of an edge between two regions.
            1 on the diagonal and where they are glued, near 0 where they slide, 0 where they are
            free.
        normal: (labels, labels) symmetric, the additional weight of the normal part of a jump,
            which opens a gap or makes tissue overlap; 0 on the diagonal.
        empty_background: whether label 0 holds no anatomy (air around the body).
    """

    tangential: Tensor
    normal: Tensor
    empty_background: bool = False

    @classmethod
    def glued(cls, label_count: int) -> Interfaces:
        """Interfaces that hold all regions together: one smooth field.

        Example:
            >>> Interfaces.glued(2).tangential
            tensor([[1., 1.],
                    [1., 1.]])
        """
        return cls(torch.ones(label_count, label_count), torch.zeros(label_count, label_count))

    @property
    def label_count(self) -> int:
        """How many labels there are, background included."""
        return len(self.tangential)

    def to(self, device: torch.device) -> Interfaces:
        """The same tables on another device."""
        return replace(
            self,
            tangential=on_device(self.tangential, device),
            normal=on_device(self.normal, device),
        )


@dataclass(frozen=True)
class Guidance:
    """Guidance of the overlap in addition to the labels.

    Args:
        rois: matched regions on the pair's grids; they may overlap.
        by_labels: whether the regions of the label maps are matched too.
        landmarks: fixed and moving points, or None.
    """

    rois: tuple[RegionPair, ...] = ()
    by_labels: bool = True
    landmarks: tuple[Points, Points] | None = None


@dataclass(frozen=True)
class Pair:
    """A fixed and a moving image, ready for the optimiser, at one resolution.

    Args:
        fixed, moving: both sides, on one device.
        interfaces: how the regions may move along each other.
        guidance: ROI pairs and landmarks.
        rigid: compact labels of the regions that must not bend.
        preserved: of those whose volume must not change.
    """

    fixed: Side
    moving: Side
    interfaces: Interfaces
    guidance: Guidance = Guidance()
    rigid: tuple[int, ...] = ()
    preserved: tuple[int, ...] = ()

    def at(self, spacing_mm: float) -> Pair:
        """This pair at a coarser level.

        Args:
            spacing_mm: wanted; an axis that is coarser stays as it is.
        """
        fixed, moving = self.fixed.at(spacing_mm), self.moving.at(spacing_mm)
        rois = []
        for roi in self.guidance.rois:
            fixed_roi = self.fixed.pooled_region(roi.fixed, fixed)
            moving_roi = self.moving.pooled_region(roi.moving, moving)
            if fixed_roi is not None and moving_roi is not None:
                rois.append(replace(roi, fixed=fixed_roi, moving=moving_roi))
        guidance = replace(self.guidance, rois=tuple(rois))
        return replace(self, fixed=fixed, moving=moving, guidance=guidance)

    def index_map(self, affine_lps: Matrix) -> IndexMap:
        """Where fixed voxels land among the moving voxels, through an affine and a displacement.

        A displacement along a fixed axis of length 1 moves nothing.

        Args:
            affine_lps: homogeneous, fixed to moving, LPS mm.
        """
        full = torch.eye(4, dtype=torch.float64)
        matrix = fixed_to_moving_index(self.fixed.grid, affine_lps, self.moving.grid)
        first = 3 - self.fixed.grid.rank
        full[first:, first:] = torch.from_numpy(matrix)
        # Without rounding, noise of 1e-13 would choose between the one-sided slopes at voxel
        # centres.
        full[:3, :3] = torch.round(full[:3, :3], decimals=6)
        full[:3, 3] = torch.round(full[:3, 3], decimals=4)
        linear = full[:3, :3]
        moves = torch.tensor([0.0 if n == 1 else 1.0 for n in self.fixed.shape]).double()
        from_mm = linear * (moves / torch.tensor(self.fixed.spacing_mm, dtype=torch.float64))
        # One transfer to the device for all three.
        parts = torch.cat((linear.flatten(), full[:3, 3], from_mm.flatten())).float()
        parts = on_device(parts, self.fixed.device)
        return IndexMap(parts[:9].view(3, 3), parts[9:12], parts[12:].view(3, 3))

    def turn(self, affine_lps: Matrix) -> Matrix:
        """(3, 3), the rotation of an affine: how the fixed axes (z, y, x) lie in the moving image.

        Args:
            affine_lps: homogeneous, fixed to moving, LPS mm.
        """
        fixed, moving = self.fixed.grid, self.moving.grid
        linear = fixed_to_moving_index(fixed, affine_lps, moving)[:-1, :-1]
        ratio = np.array(moving.spacing_zyx_mm)[:, None] / np.array(fixed.spacing_zyx_mm)
        left, _, right = np.linalg.svd(linear * ratio)
        turn: Matrix = np.eye(3)
        first = 3 - fixed.rank
        turn[first:, first:] = left @ right
        return turn

    def region_pairs(self) -> dict[int, RegionPair]:
        """The regions that both sides hold, by label."""
        return {
            v: RegionPair(self.fixed.region(v), self.moving.region(v)) for v in self.shared_labels()
        }

    def shared_labels(self) -> list[int]:
        """The labels of the regions that both sides hold, ascending."""
        return sorted((self.fixed.boxes.keys() & self.moving.boxes.keys()) - {0})

    def common_fov(self, mapping: IndexMap, u_mm: Tensor | None) -> Tensor:
        """(Z, Y, X) bool: fixed voxels in the field of view that land in the moving one.

        Args:
            mapping: of this pair.
            u_mm: (3, Z, Y, X), the displacement, or None for none.
        """
        z, y, x = at = self.fixed.fov.nonzero().T
        u = at.new_zeros(3, 1).float() if u_mm is None else u_mm[:, z, y, x]
        common = torch.zeros_like(self.fixed.fov)
        common[z, y, x] = self.seen_at(mapping.apply(at.float(), u))
        return common

    def seen_at(self, index: Tensor) -> Tensor:
        """Whether places of the moving image lie in its field of view.

        Args:
            index: (3, ...) moving voxel indices.

        Returns:
            (...) bool.
        """
        q = index.round().long()
        last = on_device(self.moving.shape, q.device).view(3, *[1] * (q.ndim - 1)) - 1
        inside = ((q >= 0) & (q <= last)).all(0)
        q = torch.minimum(q.clamp(min=0), last)
        return inside & self.moving.fov[q[0], q[1], q[2]]

    def landmark_indices(self) -> tuple[Tensor, Tensor] | None:
        """Continuous voxel indices (3, N) of fixed and moving landmarks; None without any."""
        if self.guidance.landmarks is None:
            return None
        fixed, moving = self.guidance.landmarks
        return _indices(fixed, self.fixed), _indices(moving, self.moving)


def _indices(points: Points, side: Side) -> Tensor:
    index = torch.from_numpy(apply_affine(side.grid.lps_to_index, np.asarray(points.lps)).T)
    flat = index.new_zeros(3 - side.grid.rank, index.shape[1])
    return on_device(torch.cat((flat, index)).float(), side.device)
