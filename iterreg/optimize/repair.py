"""The repair of folds: inside regions, and between regions that are glued, nothing may fold.

It runs after each level and at full resolution. A map folds where the determinant of a simplex is
not positive: ten tetrahedra a voxel, eight corners and two inner ones (see ``iterreg.metrics``). A
simplex is repaired if its voxel is glued to the other vertices; regions that slide may fold where
they meet. The determinant is linear in the displacement of each vertex, so the smallest move that
makes it positive is a projection. Simplices that share a voxel average their moves, again and again
until none folds. Nothing else moves, so boundaries that were brought together stay together. An
affine that keeps the orientation does not change where x + u(x) folds inside the image. Beyond its
border an evaluator lets the *total* displacement go on, so there the affine counts.

Source:
    The projection is that of position-based dynamics (Müller et al., J Vis Commun Image Represent
    18, 2007, eq. 9), with the determinant as the constraint.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from iterreg.geometry import Matrix
from iterreg.kernels import Lattice, folding_voxels, folds_among, surroundings, unfold
from iterreg.kernels.lattice import FACES, LEAST_DET, Neighbourhoods
from iterreg.optimize.field import Field
from iterreg.optimize.pair import Interfaces
from iterreg.to_device import on_device

ROUNDS = 600
"""Most rounds of projecting the folds and looking again."""

ROUNDS_UNTIL_AVERAGED = 10
"""After so many rounds, simplices that disagree hold what still folds: it is moved half way to its
neighbours."""

ROUNDS_PER_REACH = 20
"""After so many rounds the averaging reaches one voxel farther, to spread an inverted flap out."""

LEAST_MINOR = 0.25
"""Of the affine alone at the border, 1 for none: with less, a field would have to bend for what the
affine does."""

ROUNDING = 1e-4
"""A voxel that folds by the metric has a determinant below this here: the two round differently."""


def repair_folds(
    field: Field, interfaces: Interfaces, still: Tensor | None = None, among: Tensor | None = None
) -> tuple[Field, int]:
    """Remove folding inside regions, and between regions that are glued.

    Args:
        field: its tensor is changed in place.
        interfaces: how regions may move along each other.
        still: (Z, Y, X) bool, voxels that keep their displacement; None: all may move.
        among: (n,) int64, flat indices of the voxels that may fold; None: all may.

    Returns:
        The field, and how many voxels still have a glued simplex that folds.
    """
    lattice = _lattice(field, interfaces, still)
    folds = _all_folds(lattice) if among is None else folds_among(lattice, among, ROUNDING)
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


def repair_border(
    field: Field, interfaces: Interfaces, affine_lps: Matrix, still: Tensor | None = None
) -> tuple[Field, int]:
    """Remove folding of the total displacement at the border of the image.

    An affine that turns far folds at the border whatever the field does; then nothing is changed.

    Args:
        field: without folds; its tensor is changed in place.
        interfaces: how regions may move along each other.
        affine_lps: what follows the field.
        still: (Z, Y, X) bool, voxels that keep their displacement; None: all may move.

    Returns:
        The field, and how many voxels still have a glued simplex that folds.
    """
    frame = _Frame.of(field, affine_lps)
    if frame.least_minor < LEAST_MINOR or not frame.folds_at_border(field.u_mm):
        return field, 0
    total_mm = frame.total_mm(field.u_mm)
    border = _border(field.side.shape, total_mm.device)
    repaired, folds = repair_folds(Field(total_mm.clone(), field.side), interfaces, still, border)
    moved = (repaired.u_mm != total_mm).any(0)
    field.u_mm[:, moved] = frame.residual_mm(repaired.u_mm)[:, moved]
    return field, folds


@dataclass(frozen=True)
class _Frame:
    """The linear part of an affine, in mm along the axes of the fixed image.

    Args:
        linear: (3, 3) float64; the identity along an axis of length 1.
        spacing_mm: (z, y, x).
    """

    linear: Tensor
    spacing_mm: tuple[float, ...]

    @classmethod
    def of(cls, field: Field, affine_lps: Matrix) -> _Frame:
        grid, spacing_mm = field.side.grid, field.side.spacing_mm
        rank = grid.rank
        axes = grid.index_to_lps[:rank, :rank] / np.asarray(spacing_mm[3 - rank :])
        linear = torch.eye(3, dtype=torch.float64)
        turned = np.linalg.solve(axes, affine_lps[:rank, :rank] @ axes)
        linear[3 - rank :, 3 - rank :] = torch.from_numpy(turned)
        return cls(linear, tuple(spacing_mm))

    @property
    def least_minor(self) -> float:
        """The least determinant of an undeformed simplex, of which some edges leave the image."""
        subsets = itertools.chain(*(itertools.combinations(range(3), n) for n in (1, 2, 3)))
        return min(float(torch.linalg.det(self.linear[list(s)][:, list(s)])) for s in subsets)

    def folds_at_border(self, u_mm: Tensor) -> bool:
        """Whether the total displacement folds at a voxel of the border."""
        for axis, n in enumerate(u_mm.shape[1:]):
            for first in {0, max(0, n - 2)} if n > 1 else ():
                slab = self.total_mm(u_mm.narrow(axis + 1, first, 2))
                spacing_mm = on_device(self.spacing_mm, slab.device, slab.dtype)
                folds = folding_voxels(slab / spacing_mm.view(3, 1, 1, 1))
                if bool(folds.select(axis, 0 if first == 0 else 1).any()):
                    return True
        return False

    def total_mm(self, u_mm: Tensor) -> Tensor:
        """The displacement by field and affine, up to a shift."""
        return self._add_affine(torch.einsum("ij,jzyx->izyx", self.linear.to(u_mm), u_mm), 1)

    def residual_mm(self, total_mm: Tensor) -> Tensor:
        """The field that leads to a total displacement."""
        back = torch.linalg.inv(self.linear).to(total_mm)
        bent = self._add_affine(total_mm.clone(), -1)
        return torch.einsum("ij,jzyx->izyx", back, bent)

    def _add_affine(self, displaced: Tensor, times: float) -> Tensor:
        """Add the affine's own displacement at each voxel, from the middle, in place."""
        bends = (self.linear - torch.eye(3)) * times
        for axis, (n, spacing) in enumerate(zip(displaced.shape[1:], self.spacing_mm, strict=True)):
            place = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * spacing
            along = [n if k == axis else 1 for k in range(3)]
            rows = on_device(bends[:, axis].outer(place), displaced.device, displaced.dtype)
            displaced += rows.view(3, *along)
        return displaced


def _lattice(field: Field, interfaces: Interfaces, still: Tensor | None) -> Lattice:
    """A view of a field."""
    u_mm, glued = field.u_mm, interfaces.tangential >= 1
    return Lattice(
        u_mm.view(3, -1),
        tuple(u_mm.shape[1:]),
        field.side.labels.flatten(),
        None if bool(glued.all()) else glued,
        on_device([1 / s for s in field.side.spacing_mm], u_mm.device, u_mm.dtype),
        None if still is None else still.flatten(),
    )


def _border(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """(n,) flat indices of the voxels at the border of the image, and of their neighbours."""
    inner = torch.ones(shape, dtype=torch.bool, device=device)
    for axis, n in enumerate(shape):
        if n > 1:
            inner.narrow(axis, 0, min(2, n)).zero_()
            inner.narrow(axis, max(0, n - 2), min(2, n)).zero_()
    return (~inner).flatten().nonzero().flatten()


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
