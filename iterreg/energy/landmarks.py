"""Landmark pairs: points of both images that a person or a detector calls the same.

::

    E(u) = sum over landmarks k, voxels n near k of
           w exp(-|n - x_k|^2 / (2 radius^2)) |u(n) - d_k|^2

x_k is the fixed landmark and d_k the displacement that takes it to its moving partner.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from iterreg.config import Landmarks
from iterreg.energy.terms import NormalEquations
from iterreg.kernels import IndexMap

REACH_RADII = 2.0
"""The Gaussian is cut off at so many radii."""


@dataclass(frozen=True)
class LandmarkDistance:
    """Squared distance in mm between the displacement around each landmark and the one it asks for.

    A landmark pulls the tissue around it, because a single voxel that is pulled alone makes a spike
    that folds. Only voxels of its own label follow, so a landmark next to a sliding interface moves
    its own side.

    Args:
        voxels: (3, N) voxels around the landmarks, a voxel once for each landmark near it.
        weights: (N,) per squared mm, falling off with the distance to the landmark.
        wanted_mm: (3, N), the displacement that its landmark asks of each voxel.
    """

    voxels: Tensor
    weights: Tensor
    wanted_mm: Tensor

    def accumulate(self, u_mm: Tensor, mapping: IndexMap, into: NormalEquations) -> Tensor:
        """See :class:`iterreg.energy.terms.Term`."""
        z, y, x = self.voxels
        residual = u_mm[:, z, y, x] - self.wanted_mm
        for axis, entry in enumerate((0, 3, 5)):
            force = self.weights * residual[axis]
            into.gradient[axis].index_put_((z, y, x), force, accumulate=True)
            into.curvature[entry].index_put_((z, y, x), self.weights, accumulate=True)
        return (self.weights * residual.square()).sum(dtype=torch.float64)

    def without_outside_cost(self) -> LandmarkDistance:
        """See :class:`iterreg.energy.terms.Term`; landmarks have no such cost."""
        return self


def landmark_distance(
    config: Landmarks,
    fixed_index: Tensor,
    moving_index: Tensor,
    labels: Tensor,
    mapping: IndexMap,
    spacing_mm: tuple[float, ...],
) -> LandmarkDistance:
    """The term for landmarks given as voxel indices.

    Args:
        config: their weight at the landmark and the radius of the Gaussian.
        fixed_index, moving_index: (3, N) float, of the level's grids.
        labels: (Z, Y, X) compact labels of the fixed grid.
        mapping: from fixed to moving voxels.
        spacing_mm: (z, y, x) of the fixed grid.

    Example:
        >>> labels, eye = torch.zeros(1, 1, 5), torch.eye(3)
        >>> here = torch.tensor([[0.0], [0.0], [2.0]])
        >>> unmoved = IndexMap(eye, torch.zeros(3), eye)
        >>> term = landmark_distance(
        ...     Landmarks(radius_mm=0.5), here, here + 1, labels, unmoved, (1.0, 1.0, 1.0)
        ... )
        >>> term.voxels[2].tolist(), term.wanted_mm[2].tolist()
        ([1, 2, 3], [1.0, 1.0, 1.0])
    """
    device = labels.device
    last = torch.tensor(labels.shape, device=device).view(3, 1) - 1
    spacing = torch.tensor(spacing_mm, device=device).view(3, 1, 1)
    nearest = torch.minimum(fixed_index.round().long().clamp(min=0), last)
    axes = zip(spacing_mm, labels.shape, strict=True)
    reach = [int(REACH_RADII * config.radius_mm / s) if n > 1 else 0 for s, n in axes]
    offsets = torch.cartesian_prod(*[torch.arange(-r, r + 1, device=device) for r in reach])
    voxels = nearest.unsqueeze(2) + offsets.T.unsqueeze(1)
    squared_mm = ((voxels - fixed_index.unsqueeze(2)) * spacing).square().sum(0)
    inside = ((voxels >= 0) & (voxels <= last.unsqueeze(2))).all(0)
    voxels = torch.minimum(voxels.clamp(min=0), last.unsqueeze(2))
    own = labels[tuple(voxels)] == labels[tuple(nearest)].unsqueeze(1)
    weights = config.weight * torch.exp(-0.5 * squared_mm / config.radius_mm**2) * (inside & own)
    missing = moving_index - mapping.linear @ fixed_index - mapping.shift.unsqueeze(1)
    wanted_mm = mapping.to_mm() @ missing
    wanted_mm = wanted_mm.unsqueeze(2).expand(-1, -1, len(offsets))
    keep = weights > 0
    return LandmarkDistance(voxels[:, keep], weights[keep], wanted_mm[:, keep])
