"""The repair of folds: inside regions, and between regions that are glued, nothing may fold.

It runs after each level and at full resolution. A map folds where the determinant of a simplex is
not positive: ten tetrahedra a voxel, eight corners and two inner ones (see ``iterreg.metrics``). A
simplex is repaired if its voxel is glued to the other vertices; regions that slide may fold where
they meet. The determinant is linear in the displacement of each vertex, so the smallest move that
makes it positive is a projection. Simplices that share a voxel average their moves, again and again
until none folds. Nothing else moves, so boundaries that were brought together stay together. An
affine that keeps the orientation does not change where x + u(x) folds, so the repair looks at the
residual field alone.

Source:
    The projection is that of position-based dynamics (Müller et al., J Vis Commun Image Represent
    18, 2007, eq. 9), with the determinant as the constraint.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from iterreg.metrics import folding_mask
from iterreg.optimize.field import Field
from iterreg.optimize.lattice import FACES, Lattice, Neighbourhoods, Simplex, around, rest_det, sign
from iterreg.optimize.pair import Interfaces

ROUNDS = 600
"""Most rounds of projecting the folds and looking again."""

LEAST_DET, WANTED_DET = 0.05, 0.1
"""A determinant below the first is raised to the second, so that rounding does not fold it
again."""

OVERSHOOT = 1.5
"""Averaged moves fall short, so each is lengthened: a factor of 1 takes half as many rounds
again."""

ROUNDS_UNTIL_AVERAGED = 10
"""After so many rounds, simplices that disagree hold what still folds: it is moved half way to its
neighbours."""

ROUNDS_PER_REACH = 20
"""After so many rounds the averaging reaches one voxel farther, to spread an inverted flap out."""

ROUNDING = 1e-4
"""A voxel that folds by the metric has a determinant below this here: the two round differently."""


def repair_folds(
    field: Field, interfaces: Interfaces, still: Tensor | None = None
) -> tuple[Field, int]:
    """Remove folding inside regions, and between regions that are glued.

    Args:
        field: its tensor is changed in place.
        interfaces: how regions may move along each other.
        still: (Z, Y, X) bool, voxels that keep their displacement; None: all may move.

    Returns:
        The field, and how many voxels still have a glued simplex that folds.
    """
    lattice = Lattice.of(field, interfaces, still)
    folds = _all_folds(lattice)
    for attempt in range(1, ROUNDS + 1):
        if len(folds) == 0:
            break
        reach = 0
        if attempt % ROUNDS_UNTIL_AVERAGED == 0:
            reach = attempt // ROUNDS_PER_REACH
            _average(lattice, around(folds, lattice.shape, reach), 2 * reach + 1)
        _unfold(lattice, folds)
        folds = _folds(lattice, around(folds, lattice.shape, reach + 2), LEAST_DET)
    if len(folds):
        folds = _all_folds(lattice)
    return field, len(folds)


def _all_folds(lattice: Lattice) -> Tensor:
    """(n,) flat indices of the voxels with a glued simplex that folds."""
    vox = lattice.u_mm * lattice.scale.unsqueeze(1)
    at = folding_mask(vox.view(3, *lattice.shape)).flatten().nonzero().flatten()
    return _folds(lattice, at, ROUNDING)


def _folds(lattice: Lattice, at: Tensor, limit: float) -> Tensor:
    """Those of some voxels that have a glued simplex with a determinant below a limit."""
    voxels = Neighbourhoods.of(lattice, at)
    low, _ = voxels.low(voxels.edges(), limit)
    return at[low.any(0)]


def _unfold(lattice: Lattice, at: Tensor) -> None:
    """Move some voxels and their neighbours until their simplices do not fold, a step, in place.

    Args:
        lattice: changed.
        at: (n,) flat indices of voxels, once each.
    """
    voxels = Neighbourhoods.of(lattice, at)
    edges = voxels.edges()
    low, determinants = voxels.low(edges, LEAST_DET)
    members = torch.cat([at, *(voxels.there(offset) for offset in edges)])
    moved, place = torch.unique(members, return_inverse=True)
    own, *others = place.view(1 + len(edges), -1)
    free = lattice.free(moved)
    places = dict(zip(edges, others, strict=True))
    move, count = lattice.u_mm.new_zeros(len(moved), 3), lattice.u_mm.new_zeros(len(moved))
    for simplex, row, det in zip(lattice.simplices, low, determinants, strict=True):
        bad = row.nonzero().flatten()
        if len(bad) == 0:
            continue
        slopes = _slopes([edges[o][:, bad] for o in simplex], simplex, lattice.scale)
        # An edge to a stand-in that is the voxel itself is fixed. Other stand-ins do not move, so
        # that no voxel moves twice for one simplex.
        turns = [s * (voxels.there(o) != at)[bad] for s, o in zip(slopes, simplex, strict=True)]
        slopes = [s * voxels.inside(o)[bad] for s, o in zip(slopes, simplex, strict=True)]
        slopes.append(-turns[0] - turns[1] - turns[2])
        indices = [*(places[o] for o in simplex), own]
        slopes = [s * free[i[bad]] for s, i in zip(slopes, indices, strict=True)]
        length = torch.stack([slope.square().sum(0) for slope in slopes]).sum(0)
        step = (WANTED_DET - det[bad]) / length.clamp(min=1e-2)
        for index, slope in zip(indices, slopes, strict=True):
            # Not index_add_: on a GPU it adds in any order.
            move.index_put_((index[bad],), (step * slope).T, accumulate=True)
            count.index_add_(0, index[bad], slope.any(0).to(count.dtype))
    lattice.u_mm[:, moved] += OVERSHOOT * move.T / count.clamp(min=1)


def _slopes(edges: list[Tensor], simplex: Simplex, scale: Tensor) -> list[Tensor]:
    """Derivatives of a simplex's determinant by the displacements of three vertices in mm."""
    a, b, c = edges
    cofactors = [torch.linalg.cross(*pair, dim=0) for pair in ((b, c), (c, a), (a, b))]
    factors = [sign(offset) / rest_det(simplex) for offset in simplex]
    return [c * f * scale.unsqueeze(1) for c, f in zip(cofactors, factors, strict=True)]


def _average(lattice: Lattice, at: Tensor, times: int) -> None:
    """Move voxels half way to the mean of the neighbours that they are glued to, in place."""
    at = at[lattice.free(at)]
    voxels = Neighbourhoods.of(lattice, at)
    sides = [voxels.there(offset) for offset in itertools.chain(*FACES)]
    sides = [torch.where(lattice.are_glued(at, there), there, at) for there in sides]
    for _ in range(times):
        mean = torch.stack([lattice.u_mm[:, there] for there in sides]).mean(0)
        lattice.u_mm[:, at] = torch.lerp(lattice.u_mm[:, at], mean, 0.5)
