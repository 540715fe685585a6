"""The lattice of a field as simplices: ten tetrahedra per voxel, four triangles in a picture."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from iterreg.optimize.field import Field
from iterreg.optimize.pair import Interfaces

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
        corners = tuple((z, y, x) for z, y, x in itertools.product(*sides))
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
            edge = (there - here if sign(offset) > 0 else here - there).mul_(scale)
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


def sign(offset: Offset) -> int:
    """1 if a neighbour lies ahead, -1 if it lies behind."""
    return 1 if sum(offset) > 0 else -1


def rest_det(simplex: Simplex) -> float:
    """The determinant of a simplex if nothing moves."""
    return INNER_DET if simplex in INNER else 1.0


def around(at: Tensor, shape: tuple[int, ...], reach: int) -> Tensor:
    """Flat indices of the voxels in boxes of half-width ``reach`` around some voxels, once each."""
    for axis, n in enumerate(shape):
        stride = (shape[1] * shape[2], shape[2], 1)[axis]
        index = at // stride % n
        wider = [at]
        for step in (*range(-reach, 0), *range(1, reach + 1)):
            wider.append(at[(index + step >= 0) & (index + step < n)] + step * stride)
        at = torch.unique(torch.cat(wider))
    return at
