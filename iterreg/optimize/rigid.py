"""Rigid regions: what must not bend moves as one body, and its surroundings make room.

After the last level each rigid region takes the rigid motion nearest to its field. What that
changes at its surface is carried into its surroundings, where it dies out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from iterreg.energy.smoothness import edge_weights
from iterreg.geometry import Matrix, apply_affine
from iterreg.kernels import Workspace, conjugate_gradient
from iterreg.optimize.problem import row_spans
from iterreg.optimize.pyramid import Scene

LENGTH_MM = 10.0
"""Over which the surroundings make room."""

HOLD = 100.0
"""Stiffness with which a rigid voxel is held in place meanwhile, 1/mm^2; an edge's is about 1."""

STEPS = 40


def rigid_bodies(
    u_mm: Tensor, scene: Scene, affine_lps: Matrix, values: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """The displacement that moves each region as one rigid body.

    Args:
        u_mm: (3, Z, Y, X) mm along the fixed axes, the residual before the affine.
        scene: the fixed image at that resolution.
        affine_lps: what follows the residual; the total motion is rigid, not the residual.
        values: compact labels, each one body.

    Returns:
        (N, 3) voxels of the bodies, and (3, N) their displacement.

    Source:
        Kabsch, "A solution for the best rotation to relate two sets of vectors", 1976.
    """
    grid, first = scene.grid, 3 - scene.grid.rank
    direction = torch.as_tensor(np.asarray(grid.direction_lps)).reshape(grid.rank, grid.rank)
    places, moved = [], []
    for value in values:
        at = (scene.labels == value).nonzero()
        z, y, x = at.unbind(1)
        own = u_mm[first:, z, y, x].double().flip(0).cpu()
        before = _apply(grid.index_to_lps, at[:, first:].cpu().double())
        landed = _nearest_rigid(before, _apply(affine_lps, before + own.T @ direction.T))
        back = _apply(np.linalg.inv(affine_lps).astype(np.float64), landed)
        change = u_mm.new_zeros(3, len(at))
        change[first:] = ((back - before) @ direction).T.flip(0).to(u_mm)
        places.append(at)
        moved.append(change)
    return torch.cat(places), torch.cat(moved, 1)


def _apply(affine: Matrix, points: Tensor) -> Tensor:
    return torch.from_numpy(apply_affine(affine, points.numpy()))


def _nearest_rigid(before: Tensor, after: Tensor) -> Tensor:
    """Where a rotation and a shift put points that should land on others, (N, rank)."""
    from_mean, to_mean = before.mean(0), after.mean(0)
    left, _, right = torch.linalg.svd((after - to_mean).T @ (before - from_mean))
    sign = torch.ones(len(left), dtype=left.dtype)
    sign[-1] = torch.sign(torch.linalg.det(left @ right))
    rotation: Tensor = left @ torch.diag(sign) @ right
    return to_mean + (before - from_mean) @ rotation.T


def hold_rigid(
    u_mm: Tensor, scene: Scene, at: Tensor, target_mm: Tensor, interfaces: Tensor
) -> Tensor:
    """Put bodies in their place and let the surroundings follow.

    Args:
        u_mm: (3, Z, Y, X).
        scene: the fixed image at that resolution.
        at: (N, 3) voxels of the bodies. target_mm: (3, N), their displacement.
        interfaces: (labels, labels), w[a, b]: nothing is carried across what slides.
    """
    z, y, x = at.unbind(1)
    edges = edge_weights(scene.labels, interfaces, scene.spacing_mm)
    curvature = u_mm.new_zeros(6, *scene.shape)
    residual = torch.zeros_like(u_mm)
    residual[:, z, y, x] = HOLD * (target_mm - u_mm[:, z, y, x])
    for entry in (0, 3, 5):
        curvature[entry] = 1 / LENGTH_MM**2
        curvature[entry, z, y, x] = HOLD
    spans = row_spans(None, scene.known)
    u_mm = u_mm + conjugate_gradient(curvature, edges, residual, spans, STEPS, 0.0, Workspace())
    u_mm[:, z, y, x] = target_mm
    return u_mm
