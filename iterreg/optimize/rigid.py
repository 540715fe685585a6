"""Rigid regions: a region that must not bend moves as one body, and its surroundings make room.

After the last level each rigid region takes the rigid motion nearest to its field. The change at
its surface is carried into its surroundings, where it dies out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from iterreg.energy.smoothness import edge_weights
from iterreg.geometry import Matrix, apply_affine
from iterreg.kernels import LinearSystem, Workspace, conjugate_gradient
from iterreg.optimize.field import Field
from iterreg.optimize.pair import Interfaces
from iterreg.optimize.problem import active_rows

FALLOFF_MM = 10.0
"""Over this length the surroundings make room."""

RIGID_STIFFNESS = 100.0
"""Stiffness (1/mm^2) that holds a rigid voxel in place meanwhile; that of an edge is about 1."""

CG_STEPS = 40


@dataclass(frozen=True)
class RigidBodies:
    """Voxels that move as rigid bodies.

    Args:
        voxels: (N, 3).
        u_mm: (3, N), the displacement of each.
    """

    voxels: Tensor
    u_mm: Tensor

    def mask(self, shape: tuple[int, ...]) -> Tensor:
        """(Z, Y, X) bool, the voxels of the bodies."""
        inside = torch.zeros(shape, dtype=torch.bool, device=self.voxels.device)
        inside[self.voxels.unbind(1)] = True
        return inside

    def impose(self, u_mm: Tensor) -> None:
        """Give the voxels of a field (3, Z, Y, X) this displacement, in place."""
        z, y, x = self.voxels.unbind(1)
        u_mm[:, z, y, x] = self.u_mm


def rigid_bodies(field: Field, affine_lps: Matrix, values: tuple[int, ...]) -> RigidBodies:
    """The displacement that moves each region as one rigid body.

    Args:
        field: at full resolution.
        affine_lps: the affine behind it: the total motion is rigid, not the residual.
        values: compact labels, each one body.

    Source:
        Kabsch, "A solution for the best rotation to relate two sets of vectors", 1976.
    """
    grid, first, u_mm = field.side.grid, 3 - field.side.grid.rank, field.u_mm
    direction = torch.as_tensor(np.asarray(grid.direction_lps)).reshape(grid.rank, grid.rank)
    voxels, moved = [], []
    for value in values:
        at = (field.side.labels == value).nonzero()
        z, y, x = at.unbind(1)
        own = u_mm[first:, z, y, x].double().flip(0).cpu()
        before = _apply(grid.index_to_lps, at[:, first:].cpu().double())
        landed = _nearest_rigid(before, _apply(affine_lps, before + own.T @ direction.T))
        back = _apply(np.linalg.inv(affine_lps).astype(np.float64), landed)
        change = u_mm.new_zeros(3, len(at))
        change[first:] = ((back - before) @ direction).T.flip(0).to(u_mm)
        voxels.append(at)
        moved.append(change)
    return RigidBodies(torch.cat(voxels), torch.cat(moved, 1))


def _apply(affine: Matrix, points: Tensor) -> Tensor:
    return torch.from_numpy(apply_affine(affine, points.numpy()))


def _nearest_rigid(before: Tensor, after: Tensor) -> Tensor:
    """The points (N, rank) moved by the rotation and shift that bring them nearest to others."""
    from_mean, to_mean = before.mean(0), after.mean(0)
    left, _, right = torch.linalg.svd((after - to_mean).T @ (before - from_mean))
    sign = torch.ones(len(left), dtype=left.dtype)
    sign[-1] = torch.sign(torch.linalg.det(left @ right))
    rotation: Tensor = left @ torch.diag(sign) @ right
    return to_mean + (before - from_mean) @ rotation.T


def hold_rigid(field: Field, bodies: RigidBodies, interfaces: Interfaces) -> Field:
    """Put bodies in their place and let the surroundings follow.

    Args:
        field: at full resolution.
        bodies: voxels and their displacement.
        interfaces: little is carried across regions that slide, nothing across free ones.
    """
    side, u_mm = field.side, field.u_mm
    z, y, x = bodies.voxels.unbind(1)
    edges = edge_weights(side.labels, interfaces.tangential, side.spacing_mm)
    curvature = u_mm.new_zeros(6, *side.shape)
    residual = torch.zeros_like(u_mm)
    residual[:, z, y, x] = RIGID_STIFFNESS * (bodies.u_mm - u_mm[:, z, y, x])
    for entry in (0, 3, 5):
        curvature[entry] = 1 / FALLOFF_MM**2
        curvature[entry, z, y, x] = RIGID_STIFFNESS
    system = LinearSystem(curvature, edges, active_rows(None, side.fov))
    u_mm = u_mm + conjugate_gradient(system, residual, CG_STEPS, 0.0, Workspace())
    bodies.impose(u_mm)
    return Field(u_mm, side)
