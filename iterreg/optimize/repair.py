"""The repair: interiors do not fold.

After the last level, what is left of folding inside a region is smoothed away: around each fold
the field is replaced by the average of its neighbours, weighted by the edges, in a neighbourhood
that grows until the folds are gone. An affine that keeps the orientation does not change where
x + u(x) folds, so the residual field alone is looked at.
"""

from __future__ import annotations

import torch
from torch import Tensor

from iterreg.metrics import folding_mask, interior_mask

ROUNDS = 12
"""Most rounds; the neighbourhood grows by a voxel every second round."""

SWEEPS = 10
"""Averaging sweeps a round."""


def repair_folds(
    u_mm: Tensor, labels: Tensor, edges: Tensor, spacing_mm: tuple[float, ...]
) -> tuple[Tensor, int]:
    """Remove folding inside regions.

    Args:
        u_mm: (3, Z, Y, X), mm along the fixed axes.
        labels: (Z, Y, X) labels of the partition.
        edges: (3, Z, Y, X), edge weights over squared length.
        spacing_mm: (z, y, x).

    Returns:
        The field, and how many interior voxels still fold.
    """
    interior = interior_mask(labels)
    scale = u_mm.new_tensor([1 / s for s in spacing_mm]).view(3, 1, 1, 1)
    for attempt in range(ROUNDS + 1):
        folds = folding_mask(u_mm * scale) & interior
        count = int(folds.sum())
        if count == 0 or attempt == ROUNDS:
            return u_mm, count
        u_mm = _smoothed_around(u_mm, folds, edges, 2 + attempt // 2)
    raise AssertionError("unreachable")


def _smoothed_around(u_mm: Tensor, folds: Tensor, edges: Tensor, reach: int) -> Tensor:
    """The field with the voxels within ``reach`` of a fold averaged over their neighbours."""
    where = _grown(folds.nonzero(), reach, folds.shape).T
    strides = u_mm[0].stride()
    here = sum(w * s for w, s in zip(where, strides, strict=True))
    flat = u_mm.reshape(3, -1).clone()
    neighbours, weights = [], []
    for axis in range(3):
        last = folds.shape[axis] - 1
        flat_edges = edges[axis].reshape(-1)
        ahead = torch.where(where[axis] < last, here + strides[axis], here)
        behind = torch.where(where[axis] > 0, here - strides[axis], here)
        neighbours += [ahead, behind]
        weights += [flat_edges[here] * (ahead != here), flat_edges[behind] * (behind != here)]
    mass = torch.stack(weights).sum(0)
    mass = torch.where(mass > 0, mass, torch.ones_like(mass))
    for _ in range(SWEEPS):
        total = sum(w * flat[:, n] for w, n in zip(weights, neighbours, strict=True))
        flat[:, here] = torch.where(mass > 0, 0.5 * (flat[:, here] + total / mass), flat[:, here])
    return flat.view_as(u_mm)


def _grown(voxels: Tensor, reach: int, shape: torch.Size) -> Tensor:
    """All voxels within a box of half-width ``reach`` around the given ones, (N, 3), once each."""
    sides = [torch.arange(-reach, reach + 1, device=voxels.device) if n > 1 else
             torch.zeros(1, dtype=torch.int64, device=voxels.device) for n in shape]
    offsets = torch.cartesian_prod(*sides)
    last = torch.tensor(shape, device=voxels.device) - 1
    around = (voxels.unsqueeze(1) + offsets).reshape(-1, 3)
    around = torch.minimum(around.clamp(min=0), last)
    flat = (around[:, 0] * shape[1] + around[:, 1]) * shape[2] + around[:, 2]
    flat = torch.unique(flat)
    return torch.stack((flat // (shape[1] * shape[2]), flat // shape[2] % shape[1], flat % shape[2]), 1)
