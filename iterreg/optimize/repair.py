"""The repair: interiors do not fold.

After the last level, what is left of folding inside a region is smoothed away: around each fold
the field moves a little towards the average of its neighbours of the same region, again and again
and in a neighbourhood that grows only where that does not suffice. What does not fold keeps its
place, so boundaries that were brought together stay together. An affine that keeps the orientation
does not change where x + u(x) folds, so the residual field alone is looked at.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from iterreg.metrics import folding_mask

ROUNDS = 160
"""Most rounds of smoothing what folds and looking again."""

FIRST_REACH = 0
"""Voxels around a fold that are mended with it at first."""

ROUNDS_PER_REACH = 10
"""After so many rounds, what still folds is smoothed a voxel further around it."""

SWEEPS = 3
"""Averaging sweeps a round, per voxel of reach: what is averaged has to get across it."""

ACROSS = 1e-3
"""Least weight of a neighbour of another region: it counts only where there is no other."""

EASINGS = 10
"""Rounds in which a correction is taken back where it folds; a thousandth of it is left then."""

TAKEN_BACK = 0.5
"""Share of the correction that a round takes back."""

LEAST_DET = 0.05
"""A repaired voxel keeps at least this determinant, so that rounding does not fold it again."""


def repair_folds(
    u_mm: Tensor, labels: Tensor, spacing_mm: tuple[float, ...], interfaces: Tensor
) -> tuple[Tensor, int]:
    """Remove folding inside regions, and between regions that are glued.

    Args:
        u_mm: (3, Z, Y, X), mm along the fixed axes; changed in place.
        labels: (Z, Y, X) labels of the partition.
        spacing_mm: (z, y, x).
        interfaces: (labels, labels), w[a, b]; 1 where they are glued.

    Returns:
        The field, and how many such voxels still fold.
    """

    def smooth(near: Tensor, reach: int) -> None:
        _smooth(u_mm, near, labels, spacing_mm, interfaces, SWEEPS * (reach + 1))

    whole = _whole(labels, interfaces)
    left = _mended(u_mm, whole, spacing_mm, smooth, ROUNDS)
    if left:
        left = len(_folds(u_mm, whole, _scale(u_mm, spacing_mm)))
    return u_mm, left


def ease_correction(
    u_mm: Tensor,
    change_mm: Tensor,
    labels: Tensor,
    spacing_mm: tuple[float, ...],
    interfaces: Tensor,
) -> Tensor:
    """Add a correction, less and less of it where it folds what may not fold.

    Args:
        u_mm: (3, Z, Y, X), what is corrected.
        change_mm: (3, Z, Y, X), the correction.
        labels, spacing_mm, interfaces: as for :func:`repair_folds`.

    Returns:
        (3, Z, Y, X), the sum.
    """
    total = u_mm + change_mm

    def take_back(near: Tensor, reach: int) -> None:
        z, y, x = near.unbind(1)
        total[:, z, y, x] = torch.lerp(total[:, z, y, x], u_mm[:, z, y, x], TAKEN_BACK)

    _mended(total, _whole(labels, interfaces), spacing_mm, take_back, EASINGS)
    return total


def _mended(
    u_mm: Tensor,
    whole: Tensor,
    spacing_mm: tuple[float, ...],
    mend: Callable[[Tensor, int], None],
    rounds: int,
) -> int:
    """Mend around the whole voxels that fold until none does; how many are left."""
    scale = _scale(u_mm, spacing_mm)
    folds = _folds(u_mm, whole, scale)
    for attempt in range(rounds):
        if len(folds) == 0:
            break
        reach = FIRST_REACH + attempt // ROUNDS_PER_REACH
        near = _grown(folds, reach, whole.shape)
        mend(near, reach)
        touched = _grown(near, 1, whole.shape)
        touched = touched[whole[touched.unbind(1)]]
        folds = touched[_least_det(u_mm, touched, scale) < LEAST_DET]
    return len(folds)


def _whole(labels: Tensor, interfaces: Tensor) -> Tensor:
    """(Z, Y, X) bool, voxels that are glued to all their face neighbours."""
    whole = torch.ones_like(labels, dtype=torch.bool)
    for axis, n in enumerate(labels.shape):
        low, high = labels.narrow(axis, 0, n - 1), labels.narrow(axis, 1, n - 1)
        z, y, x = (low != high).nonzero(as_tuple=True)
        apart = interfaces[low[z, y, x].long(), high[z, y, x].long()] < 1
        z, y, x = z[apart], y[apart], x[apart]
        whole.narrow(axis, 0, n - 1)[z, y, x] = False
        whole.narrow(axis, 1, n - 1)[z, y, x] = False
    return whole


def _folds(u_mm: Tensor, whole: Tensor, scale: Tensor) -> Tensor:
    """(n, 3), the whole voxels that fold."""
    return (folding_mask(u_mm * scale.view(3, 1, 1, 1)) & whole).nonzero()


def _scale(u_mm: Tensor, spacing_mm: tuple[float, ...]) -> Tensor:
    """(3,) voxels per mm."""
    return u_mm.new_tensor([1 / s for s in spacing_mm])


def _least_det(u_mm: Tensor, at: Tensor, scale: Tensor) -> Tensor:
    """(n,) the least det J of the corner stencils at some voxels; at the edge, of those there."""
    here = _values(u_mm, at)
    sides = []
    for axis in range(3):
        last = u_mm.shape[axis + 1] - 1
        below, above = at.clone(), at.clone()
        below[:, axis] = (at[:, axis] - 1).clamp(min=0)
        above[:, axis] = (at[:, axis] + 1).clamp(max=last)
        backward = here - _values(u_mm, below)
        forward = _values(u_mm, above) - here
        backward = torch.where(at[:, axis] == 0, forward, backward)
        forward = torch.where(at[:, axis] == last, backward, forward)
        sides.append([d.T * scale for d in (backward, forward)])
    least = here.new_full((len(at),), torch.inf)
    for corner in itertools.product((0, 1), repeat=3):
        jacobian = torch.stack([sides[axis][side] for axis, side in enumerate(corner)], -1)
        least = torch.minimum(least, torch.linalg.det(jacobian + torch.eye(3, device=at.device)))
    return least


def _values(u_mm: Tensor, at: Tensor) -> Tensor:
    z, y, x = at.unbind(1)
    return u_mm[:, z, y, x]


def _smooth(
    u_mm: Tensor,
    where: Tensor,
    labels: Tensor,
    spacing_mm: tuple[float, ...],
    interfaces: Tensor,
    sweeps: int,
) -> None:
    """Average some voxels over their neighbours, in place."""
    here = where.unbind(1)
    sides, weights = [], []
    for axis, spacing in enumerate(spacing_mm):
        for step in (-1, 1):
            there = where.clone()
            there[:, axis] = (there[:, axis] + step).clamp(0, labels.shape[axis] - 1)
            side = there.unbind(1)
            same = interfaces[labels[side].long(), labels[here].long()].clamp(min=ACROSS)
            moved = there[:, axis] != where[:, axis]
            sides.append(side)
            weights.append(same * moved / spacing**2)
    mass = torch.stack(weights).sum(0)
    for _ in range(sweeps):
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
