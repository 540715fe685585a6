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
"""After so many rounds the averaging reaches one voxel farther, to spread an inverted flap out."""

ROUNDING = 1e-4
"""A voxel that folds by the metric has a determinant below this here: the two round differently."""

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
    """The field under repair.

    Args:
        u_mm: (3, voxels), a view of the field, changed in place.
        shape: (Z, Y, X).
        labels: (voxels,).
        glued: (labels, labels) bool, which regions move as one; None: all.
        scale: (3,) voxels per mm.
    """

    u_mm: Tensor
    shape: tuple[int, ...]
    labels: Tensor
    glued: Tensor | None
    scale: Tensor

    @classmethod
    def of(cls, field: Field, interfaces: Interfaces) -> Lattice:
        """A view of a field."""
        u_mm, glued = field.u_mm, interfaces.tangential >= 1
        scale = u_mm.new_tensor([1 / s for s in field.side.spacing_mm])
        labels = field.side.labels.flatten()
        table = None if bool(glued.all()) else glued
        return cls(u_mm.view(3, -1), tuple(u_mm.shape[1:]), labels, table, scale)

    @property
    def simplices(self) -> tuple[Simplex, ...]:
        """Ten, the inner ones last, or the four corners of a picture, which has one slice."""
        sides = [side if n > 1 else side[1:] for side, n in zip(FACES, self.shape, strict=True)]
        corners = tuple(itertools.product(*sides))
        return corners + (INNER if min(self.shape) > 1 else ())

    def are_glued(self, at: Tensor, there: Tensor) -> Tensor:
        """(n,) bool, whether some voxels are glued to others."""
        if self.glued is None:
            return torch.ones_like(at, dtype=torch.bool)
        return self.glued[self.labels[at].long(), self.labels[there].long()]


@dataclass(frozen=True)
class Neighbourhoods:
    """Some voxels and the vertices of their simplices.

    Beyond the image the displacement goes on: voxels of the border stand in for what lies there.

    Args:
        lattice: the field.
        at: (n,) flat indices of the voxels, once each.
        steps: by axis, what takes an index one voxel behind and ahead, (n,) each; 0 at the border.
    """

    lattice: Lattice
    at: Tensor
    steps: tuple[tuple[Tensor, Tensor], ...]

    @classmethod
    def of(cls, lattice: Lattice, at: Tensor) -> Neighbourhoods:
        """The neighbourhoods of some voxels."""
        steps, stride = [], 1
        for n in reversed(lattice.shape):
            index = at // stride % n
            steps.append(((index > 0) * -stride, (index < n - 1) * stride))
            stride *= n
        return cls(lattice, at, tuple(reversed(steps)))

    def _moves(self, offset: Offset) -> list[Tensor]:
        return [pair[step > 0] for pair, step in zip(self.steps, offset, strict=True) if step]

    def there(self, offset: Offset) -> Tensor:
        """(n,) flat indices of the neighbours at an offset."""
        index = self.at
        for move in self._moves(offset):
            index = index + move
        return index

    def inside(self, offset: Offset) -> Tensor:
        """(n,) bool, where the image has the neighbour at an offset."""
        first, *rest = (move != 0 for move in self._moves(offset))
        return first & rest[0] if rest else first

    def edges(self) -> dict[Offset, Tensor]:
        """(3, n) each, the edges of x + u(x) to the vertices, turned ahead, in voxels."""
        u_mm, scale = self.lattice.u_mm, self.lattice.scale.unsqueeze(1)
        here, found = u_mm[:, self.at], {}
        for offset in dict.fromkeys(itertools.chain(*self.lattice.simplices)):
            there = u_mm[:, self.there(offset)]
            edge = (there - here if _sign(offset) > 0 else here - there).mul_(scale)
            for axis, step in enumerate(offset):
                if step:
                    edge[axis] += 1
            found[offset] = edge
        return found

    def low(self, edges: dict[Offset, Tensor], limit: float) -> tuple[Tensor, Tensor]:
        """Find the glued simplices with a determinant below a limit.

        Returns:
            (simplices, n) bool, and their determinants, 1 if nothing moves.
        """
        crosses: dict[tuple[Offset, Offset], Tensor] = {}
        found = []
        for simplex in self.lattice.simplices:
            first, *pair = simplex
            if simplex[1:] not in crosses:
                crosses[simplex[1:]] = torch.linalg.cross(*(edges[o] for o in pair), dim=0)
            found.append((edges[first] * crosses[simplex[1:]]).sum(0))
        determinants = torch.stack(found)
        if self.lattice.simplices[-1] in INNER:
            determinants[-len(INNER) :] /= INNER_DET
        low = determinants < limit
        if self.lattice.glued is not None:
            some = low.any(0).nonzero().flatten()
            at = self.at[some]
            glued = {o: self.lattice.are_glued(at, self.there(o)[some]) for o in edges}
            for row, simplex in zip(low, self.lattice.simplices, strict=True):
                row[some] &= glued[simplex[0]] & glued[simplex[1]] & glued[simplex[2]]
        return low, determinants


def repair_folds(field: Field, interfaces: Interfaces) -> tuple[Field, int]:
    """Remove folding inside regions, and between regions that are glued.

    Args:
        field: its tensor is changed in place.
        interfaces: how regions may move along each other.

    Returns:
        The field, and how many voxels still have a glued simplex that folds.
    """
    lattice = Lattice.of(field, interfaces)
    folds = _all_folds(lattice)
    for attempt in range(1, ROUNDS + 1):
        if len(folds) == 0:
            break
        reach = 0
        if attempt % ROUNDS_UNTIL_AVERAGED == 0:
            reach = attempt // ROUNDS_PER_REACH
            _average(lattice, _around(folds, lattice.shape, reach), 2 * reach + 1)
        _unfold(lattice, folds)
        folds = _folds(lattice, _around(folds, lattice.shape, reach + 2), LEAST_DET)
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
    places = dict(zip(edges, others, strict=True))
    move, count = lattice.u_mm.new_zeros(3, len(moved)), lattice.u_mm.new_zeros(len(moved))
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
        length = torch.stack([slope.square().sum(0) for slope in slopes]).sum(0)
        step = (WANTED_DET - det[bad]) / length.clamp(min=1e-2)
        for index, slope in zip([*(places[o] for o in simplex), own], slopes, strict=True):
            move.index_add_(1, index[bad], step * slope)
            count.index_add_(0, index[bad], slope.any(0).to(count.dtype))
    lattice.u_mm[:, moved] += OVERSHOOT * move / count.clamp(min=1)


def _slopes(edges: list[Tensor], simplex: Simplex, scale: Tensor) -> list[Tensor]:
    """Derivatives of a simplex's determinant by the displacements of three vertices in mm."""
    a, b, c = edges
    cofactors = [torch.linalg.cross(*pair, dim=0) for pair in ((b, c), (c, a), (a, b))]
    factors = [_sign(offset) / _rest_det(simplex) for offset in simplex]
    return [c * f * scale.unsqueeze(1) for c, f in zip(cofactors, factors, strict=True)]


def _average(lattice: Lattice, at: Tensor, times: int) -> None:
    """Move voxels half way to the mean of the neighbours that they are glued to, in place."""
    voxels = Neighbourhoods.of(lattice, at)
    sides = [voxels.there(offset) for offset in itertools.chain(*FACES)]
    sides = [torch.where(lattice.are_glued(at, there), there, at) for there in sides]
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
