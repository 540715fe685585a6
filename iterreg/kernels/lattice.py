"""The lattice of a field as simplices, and a step that unfolds some of them.

Ten tetrahedra per voxel, four triangles in a picture. This is plain torch, the definition of the
kernels that look for folds and take them out.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

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

LEAST_DET, WANTED_DET = 0.05, 0.1
"""A determinant below the first is raised to the second, so that rounding does not fold it
again."""

LEAST_LENGTH = 1e-2
"""Of the squared slopes of a determinant: a flat simplex must not leap."""

OVERSHOOT = 1.5
"""Averaged moves fall short, so each is lengthened: a factor of 1 takes half as many rounds
again."""


@dataclass(frozen=True)
class Lattice:
    """The field under repair.

    Args:
        u_mm: (3, voxels), a view of the field, changed in place.
        shape: (Z, Y, X).
        labels: (voxels,).
        glued: (labels, labels) bool, which regions move as one; None: all.
        scale: (3,) voxels per mm.
        still: (voxels,) bool, those that may not move; None: all may.
    """

    u_mm: Tensor
    shape: tuple[int, ...]
    labels: Tensor
    glued: Tensor | None
    scale: Tensor
    still: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.u_mm.device

    def free(self, at: Tensor) -> Tensor:
        """(n,) bool, whether some voxels may move."""
        if self.still is None:
            return torch.ones_like(at, dtype=torch.bool)
        return ~self.still[at]

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


def surroundings(at: Tensor, shape: tuple[int, ...], reach: int) -> Tensor:
    """Flat indices of the voxels in boxes of half-width ``reach`` around some voxels, once each.

    Args:
        at: (n,) int64, flat indices.
        shape: (Z, Y, X).
        reach: in voxels.

    Returns:
        (m,) int64, ascending.
    """
    for axis, n in enumerate(shape):
        stride = (shape[1] * shape[2], shape[2], 1)[axis]
        index = at // stride % n
        wider = [at]
        for step in (*range(-reach, 0), *range(1, reach + 1)):
            wider.append(at[(index + step >= 0) & (index + step < n)] + step * stride)
        at = torch.unique(torch.cat(wider))
    return at


def folds_among(lattice: Lattice, at: Tensor, limit: float) -> Tensor:
    """Those of some voxels that have a glued simplex with a determinant below a limit.

    Args:
        lattice: the field.
        at: (n,) int64, flat indices.
        limit: the determinant is 1 if nothing moves.

    Returns:
        (m,) int64, in the order of ``at``.
    """
    voxels = Neighbourhoods.of(lattice, at)
    low, _ = voxels.low(voxels.edges(), limit)
    return at[low.any(0)]


def unfold(lattice: Lattice, at: Tensor) -> None:
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
        step = (WANTED_DET - det[bad]) / length.clamp(min=LEAST_LENGTH)
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
