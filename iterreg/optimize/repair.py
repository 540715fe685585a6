"""The repair: interiors do not fold.

After the last level, what is left of folding inside a region is smoothed away: around each fold
the field is replaced by the average of its neighbours of the same region, in a neighbourhood that
grows until the folds are gone. An affine that keeps the orientation does not change where x + u(x)
folds, so the residual field alone is looked at.
"""

from __future__ import annotations

import torch
from torch import Tensor

from iterreg.metrics import folding_mask, interior_mask

ROUNDS = 16
"""Most rounds; the neighbourhood grows by a voxel each round."""

FIRST_REACH = 2
SWEEPS_PER_VOXEL = 8
"""Averaging sweeps a round, per voxel of reach: what is averaged has to get across it."""

ACROSS = 1e-3
"""Weight of a neighbour of another region: it counts only where there is no other."""


def repair_folds(
    u_mm: Tensor, labels: Tensor, spacing_mm: tuple[float, ...]
) -> tuple[Tensor, int]:
    """Remove folding inside regions.

    Args:
        u_mm: (3, Z, Y, X), mm along the fixed axes; changed in place.
        labels: (Z, Y, X) labels of the partition.
        spacing_mm: (z, y, x).

    Returns:
        The field, and how many interior voxels still fold.
    """
    folds = _interior_folds(u_mm, labels, spacing_mm)
    for attempt in range(ROUNDS):
        if len(folds) == 0:
            break
        reach = FIRST_REACH + attempt
        # Nothing changes beyond the reach, so later rounds look at this part alone.
        box = _box_around(folds, reach + 3, labels.shape)
        part, part_labels = u_mm[(slice(None), *box)], labels[box]
        corner = folds.new_tensor([s.start for s in box])
        _smooth_around(part, folds - corner, part_labels, spacing_mm, reach)
        folds = _interior_folds(part, part_labels, spacing_mm) + corner
    return u_mm, len(folds)


def _interior_folds(u_mm: Tensor, labels: Tensor, spacing_mm: tuple[float, ...]) -> Tensor:
    """(n, 3) interior voxels that fold."""
    scale = u_mm.new_tensor([1 / s for s in spacing_mm]).view(3, 1, 1, 1)
    return (folding_mask(u_mm * scale) & interior_mask(labels)).nonzero()


def _box_around(voxels: Tensor, margin: int, shape: torch.Size) -> tuple[slice, ...]:
    low, high = voxels.min(0).values.tolist(), voxels.max(0).values.tolist()
    return tuple(
        slice(max(0, a - margin), min(n, b + margin + 1))
        for a, b, n in zip(low, high, shape, strict=True)
    )


def _smooth_around(
    u_mm: Tensor, folds: Tensor, labels: Tensor, spacing_mm: tuple[float, ...], reach: int
) -> None:
    """Average the voxels within ``reach`` of a fold over their neighbours, in place."""
    where = _grown(folds, reach, labels.shape)
    here = where.unbind(1)
    sides, weights = [], []
    for axis, spacing in enumerate(spacing_mm):
        for step in (-1, 1):
            there = where.clone()
            there[:, axis] = (there[:, axis] + step).clamp(0, labels.shape[axis] - 1)
            side = there.unbind(1)
            same = torch.where(labels[side] == labels[here], 1.0, ACROSS)
            moved = there[:, axis] != where[:, axis]
            sides.append(side)
            weights.append(same * moved / spacing**2)
    mass = torch.stack(weights).sum(0)
    for _ in range(SWEEPS_PER_VOXEL * reach):
        total = torch.zeros(3, len(where), device=u_mm.device)
        for weight, (z, y, x) in zip(weights, sides, strict=True):
            total += weight * u_mm[:, z, y, x]
        z, y, x = here
        u_mm[:, z, y, x] = 0.5 * (u_mm[:, z, y, x] + total / mass)


def _grown(voxels: Tensor, reach: int, shape: torch.Size) -> Tensor:
    """All voxels within a box of half-width ``reach`` around the given ones, (n, 3), once each."""
    grown = torch.zeros(shape, dtype=torch.bool, device=voxels.device)
    grown[voxels.unbind(1)] = True
    for axis, n in enumerate(shape):
        for _ in range(min(reach, n - 1)):
            wider = grown.clone()
            wider.narrow(axis, 1, n - 1).logical_or_(grown.narrow(axis, 0, n - 1))
            wider.narrow(axis, 0, n - 1).logical_or_(grown.narrow(axis, 1, n - 1))
            grown = wider
    return grown.nonzero()
