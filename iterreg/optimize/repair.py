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

from iterreg.kernels import Lattice, folding_voxels, folds_among, surroundings, unfold
from iterreg.kernels.lattice import FACES, LEAST_DET, Neighbourhoods
from iterreg.optimize.field import Field
from iterreg.optimize.pair import Interfaces

ROUNDS = 600
"""Most rounds of projecting the folds and looking again."""

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
    lattice = _lattice(field, interfaces, still)
    folds = _all_folds(lattice)
    for attempt in range(1, ROUNDS + 1):
        if len(folds) == 0:
            break
        reach = 0
        if attempt % ROUNDS_UNTIL_AVERAGED == 0:
            reach = attempt // ROUNDS_PER_REACH
            _average(lattice, surroundings(folds, lattice.shape, reach), 2 * reach + 1)
        unfold(lattice, folds)
        folds = folds_among(lattice, surroundings(folds, lattice.shape, reach + 2), LEAST_DET)
    if len(folds):
        folds = _all_folds(lattice)
    return field, len(folds)


def _lattice(field: Field, interfaces: Interfaces, still: Tensor | None) -> Lattice:
    """A view of a field."""
    u_mm, glued = field.u_mm, interfaces.tangential >= 1
    return Lattice(
        u_mm.view(3, -1),
        tuple(u_mm.shape[1:]),
        field.side.labels.flatten(),
        None if bool(glued.all()) else glued,
        u_mm.new_tensor([1 / s for s in field.side.spacing_mm]),
        None if still is None else still.flatten(),
    )


def _all_folds(lattice: Lattice) -> Tensor:
    """(n,) flat indices of the voxels with a glued simplex that folds."""
    vox = lattice.u_mm * lattice.scale.unsqueeze(1)
    at = folding_voxels(vox.view(3, *lattice.shape)).flatten().nonzero().flatten()
    return folds_among(lattice, at, ROUNDING)


def _average(lattice: Lattice, at: Tensor, times: int) -> None:
    """Move voxels half way to the mean of the neighbours that they are glued to, in place."""
    at = at[lattice.free(at)]
    voxels = Neighbourhoods.of(lattice, at)
    sides = [voxels.there(offset) for offset in itertools.chain(*FACES)]
    sides = [torch.where(lattice.are_glued(at, there), there, at) for there in sides]
    for _ in range(times):
        mean = torch.stack([lattice.u_mm[:, there] for there in sides]).mean(0)
        lattice.u_mm[:, at] = torch.lerp(lattice.u_mm[:, at], mean, 0.5)
