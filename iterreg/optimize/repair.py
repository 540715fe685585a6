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
from dataclasses import dataclass

import torch
from torch import Tensor

from iterreg.metrics import folding_mask
from iterreg.optimize.field import Field
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
"""After so many rounds the averaging reaches one voxel farther: an inverted flap has to be spread
out."""

ROUNDING = 1e-4
"""A voxel that the metric says folds is repaired if a determinant here is below this: the two
round differently."""

Offset = tuple[int, int, int]
Simplex = tuple[Offset, Offset, Offset]
"""The vertices of a tetrahedron, seen from its voxel, which is the fourth."""

FACES: tuple[tuple[Offset, Offset], ...] = (
    ((-1, 0, 0), (1, 0, 0)),
    ((0, -1, 0), (0, 1, 0)),
    ((0, 0, -1), (0, 0, 1)),
)
"""The face neighbours behind and ahead along each axis."""

INNER: tuple[Simplex, ...] = (
    ((0, -1, -1), (-1, 0, -1), (-1, -1, 0)),
    ((0, 1, 1), (1, 0, 1), (1, 1, 0)),
)
"""The inner tetrahedra."""

INNER_DET = 2.0
"""Their determinant if nothing moves; that of a corner is 1."""


@dataclass(frozen=True)
class Lattice:
    """The field under repair, voxel by voxel.

    Beyond the image the displacement goes on with its value at the border.

    Args:
        u_mm: (3, voxels), a view of the field, changed in place.
        shape: (Z, Y, X).
        labels: (voxels,).
        glued: (labels, labels) bool, regions that may not move along each other.
        scale: (3,) voxels per mm.
    """

    u_mm: Tensor
    shape: tuple[int, ...]
    labels: Tensor
    glued: Tensor
    scale: Tensor

    @property
    def simplices(self) -> tuple[Simplex, ...]:
        """Ten, or the four corners of a picture, which has one slice."""
        sides = [side if n > 1 else side[1:] for side, n in zip(FACES, self.shape, strict=True)]
        corners = tuple(itertools.product(*sides))
        return corners + (INNER if min(self.shape) > 1 else ())

    @property
    def offsets(self) -> tuple[Offset, ...]:
        """The vertices of all simplices, once each."""
        return tuple(dict.fromkeys(itertools.chain(*self.simplices)))

    def neighbours(self, at: Tensor, offset: Offset) -> tuple[Tensor, Tensor]:
        """The neighbours of some voxels, or what stands in for them beyond the border.

        Args:
            at: (n,) flat indices.
            offset: from each voxel to its neighbour.

        Returns:
            (n,) flat indices, and (n,) bool, where the image has that neighbour.
        """
        there, inside, stride = at, torch.ones_like(at, dtype=torch.bool), 1
        for step, n in zip(reversed(offset), reversed(self.shape), strict=True):
            if step:
                index = at // stride % n + step
                within = (index >= 0) & (index < n)
                there = there + within * (step * stride)
                inside &= within
            stride *= n
        return there, inside

    def edge(self, at: Tensor, offset: Offset) -> Tensor:
        """(3, n), the edge of x + u(x) between some voxels and a neighbour, ahead, in voxels."""
        there, _ = self.neighbours(at, offset)
        edge = (self.u_mm[:, there] - self.u_mm[:, at]) * _sign(offset) * self.scale.unsqueeze(1)
        for axis, step in enumerate(offset):
            if step:
                edge[axis] += 1
        return edge

    def is_glued(self, at: Tensor, offset: Offset) -> Tensor:
        """(n,) bool, whether some voxels are glued to a neighbour."""
        there, _ = self.neighbours(at, offset)
        return self.glued[self.labels[at].long(), self.labels[there].long()]


def repair_folds(field: Field, interfaces: Interfaces) -> tuple[Field, int]:
    """Remove folding inside regions, and between regions that are glued.

    Args:
        field: its tensor is changed in place.
        interfaces: how regions may move along each other.

    Returns:
        The field, and how many voxels still have a glued simplex that folds.
    """
    u_mm, spacing_mm = field.u_mm, field.side.spacing_mm
    scale = u_mm.new_tensor([1 / s for s in spacing_mm])
    shape, labels = tuple(u_mm.shape[1:]), field.side.labels.flatten()
    lattice = Lattice(u_mm.view(3, -1), shape, labels, interfaces.tangential >= 1, scale)
    folds = _all_folds(lattice)
    for attempt in range(1, ROUNDS + 1):
        if len(folds) == 0:
            break
        reach = 0
        if attempt % ROUNDS_UNTIL_AVERAGED == 0:
            reach = attempt // ROUNDS_PER_REACH
            _average(lattice, _around(folds, shape, reach), 2 * reach + 1)
        _unfold(lattice, folds)
        folds = _folds(lattice, _around(folds, shape, reach + 2), LEAST_DET)
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
    below = _determinants(lattice, at) < limit
    some = below.any(0)
    at, below = at[some], below[:, some]
    for row, simplex in zip(below, lattice.simplices, strict=True):
        for offset in simplex:
            row &= lattice.is_glued(at, offset)
    return at[below.any(0)]


def _determinants(lattice: Lattice, at: Tensor) -> Tensor:
    """(simplices, n), determinants at some voxels, 1 if nothing moves."""
    edges = {offset: lattice.edge(at, offset) for offset in lattice.offsets}
    crosses: dict[tuple[Offset, Offset], Tensor] = {}
    found = []
    for first, *rest in lattice.simplices:
        pair = (rest[0], rest[1])
        if pair not in crosses:
            crosses[pair] = torch.linalg.cross(edges[pair[0]], edges[pair[1]], dim=0)
        found.append((edges[first] * crosses[pair]).sum(0) / _rest_det((first, *pair)))
    return torch.stack(found)


def _unfold(lattice: Lattice, at: Tensor) -> None:
    """Move some voxels and their neighbours until their simplices do not fold, a step, in place.

    Args:
        lattice: changed.
        at: (n,) flat indices of voxels, once each.
    """
    ends = {offset: lattice.neighbours(at, offset) for offset in lattice.offsets}
    members = torch.cat([at, *(there for there, _ in ends.values())])
    voxels, place = torch.unique(members, return_inverse=True)
    own, *others = place.view(1 + len(ends), -1)
    places = dict(zip(ends, others, strict=True))
    move, count = lattice.u_mm.new_zeros(3, len(voxels)), lattice.u_mm.new_zeros(len(voxels))
    for simplex in lattice.simplices:
        slopes, det = _slopes(lattice, at, simplex)
        bad = det < LEAST_DET
        for offset in simplex:
            bad &= lattice.is_glued(at, offset)
        slopes = [slope[:, bad] for slope in slopes]
        # Beyond the border a neighbour's stand-in may be the voxel itself: that edge is fixed.
        first, second, third = (
            slope * (ends[offset][0] != at)[bad]
            for slope, offset in zip(slopes, simplex, strict=True)
        )
        # Of the other stand-ins none moves, so that each voxel occurs once.
        slopes = [
            slope * ends[offset][1][bad] for slope, offset in zip(slopes, simplex, strict=True)
        ]
        slopes.append(-first - second - third)
        length = torch.stack([slope.square().sum(0) for slope in slopes]).sum(0)
        step = (WANTED_DET - det[bad]) / length.clamp(min=1e-2)
        for row, slope in zip([*(places[o] for o in simplex), own], slopes, strict=True):
            move.index_add_(1, row[bad], step * slope)
            count.index_add_(0, row[bad], slope.any(0).to(count.dtype))
    lattice.u_mm[:, voxels] += OVERSHOOT * move / count.clamp(min=1)


def _slopes(lattice: Lattice, at: Tensor, simplex: Simplex) -> tuple[list[Tensor], Tensor]:
    """Derivatives of a simplex's determinant by its vertices' displacements in mm.

    Returns:
        Three of (3, n), one a vertex, and the determinant itself, (n,), 1 if nothing moves.
    """
    a, b, c = (lattice.edge(at, offset) for offset in simplex)
    first = torch.linalg.cross(b, c, dim=0)
    cofactors = first, torch.linalg.cross(c, a, dim=0), torch.linalg.cross(a, b, dim=0)
    rest = _rest_det(simplex)
    slopes = [
        cofactor * (_sign(offset) / rest) * lattice.scale.unsqueeze(1)
        for cofactor, offset in zip(cofactors, simplex, strict=True)
    ]
    return slopes, (a * first).sum(0) / rest


def _average(lattice: Lattice, at: Tensor, times: int) -> None:
    """Move voxels half way to the mean of the neighbours that they are glued to, in place."""
    sides = []
    for offset in itertools.chain(*FACES):
        there, _ = lattice.neighbours(at, offset)
        sides.append(torch.where(lattice.is_glued(at, offset), there, at))
    for _ in range(times):
        mean = torch.stack([lattice.u_mm[:, there] for there in sides]).mean(0)
        lattice.u_mm[:, at] = torch.lerp(lattice.u_mm[:, at], mean, 0.5)


def _sign(offset: Offset) -> int:
    """1 if a neighbour lies ahead, -1 if it lies behind."""
    return 1 if sum(offset) > 0 else -1


def _rest_det(simplex: Simplex) -> float:
    """The determinant of a simplex if nothing moves."""
    return INNER_DET if simplex in INNER else 1.0


def _around(at: Tensor, shape: tuple[int, ...], reach: int) -> Tensor:
    """Flat indices of the voxels in boxes of half-width ``reach`` around some voxels, once each."""
    for axis, n in enumerate(shape):
        stride = (shape[1] * shape[2], shape[2], 1)[axis]
        index = at // stride % n
        wider = [at]
        for step in (*range(-reach, 0), *range(1, reach + 1)):
            wider.append(at[(index + step >= 0) & (index + step < n)] + step * stride)
        at = torch.unique(torch.cat(wider))
    return at
