"""The repair of folds: inside regions, and between regions that are glued, nothing may fold.

It runs after each level and at full resolution. A voxel that folds is moved just as far as it
needs. Its determinant is linear in the displacement of each of the four voxels of a corner stencil,
so the smallest move that makes it positive is a projection. Stencils that share a voxel average
their moves, again and again until none folds. Nothing else moves, so boundaries that were brought
together stay together. An affine that keeps the orientation does not change where x + u(x) folds,
so the repair looks at the residual field alone.

Source:
    The projection is that of position-based dynamics (Müller et al., J Vis Commun Image Represent
    18, 2007, eq. 9), with the determinant as the constraint.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from iterreg.energy.interfaces import faces
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
"""A voxel that still folds after so many rounds is held by stencils that disagree: it is moved half
way to its neighbours."""

ROUNDS_PER_REACH = 20
"""After so many rounds the averaging reaches one voxel farther: an inverted flap has to be spread
out."""

CORNERS = tuple(itertools.product((0, 1), repeat=3))


def repair_folds(field: Field, interfaces: Interfaces) -> tuple[Field, int]:
    """Remove folding inside regions, and between regions that are glued.

    Args:
        field: its tensor is changed in place.
        interfaces: how regions may move along each other.

    Returns:
        The field, and how many such voxels still fold.
    """
    u_mm, spacing_mm = field.u_mm, field.side.spacing_mm
    scale = u_mm.new_tensor([1 / s for s in spacing_mm])
    glued = _glued(field.side.labels, interfaces.tangential)
    folds = _folds(u_mm, glued, scale)
    for attempt in range(1, ROUNDS + 1):
        if len(folds) == 0:
            break
        reach = 0
        if attempt % ROUNDS_UNTIL_AVERAGED == 0:
            reach = attempt // ROUNDS_PER_REACH
            _average(u_mm, folds, glued, scale, reach)
        _unfold(u_mm, folds, scale)
        near = _around(folds, tuple(glued.shape), reach + 2)
        near = near[glued.flatten()[near]]
        folds = near[_determinants(u_mm, near, scale).min(0).values < LEAST_DET]
    if len(folds):
        folds = _folds(u_mm, glued, scale)
    return field, len(folds)


def _folds(u_mm: Tensor, glued: Tensor, scale: Tensor) -> Tensor:
    """(n,) flat indices of the glued voxels that fold."""
    return (folding_mask(u_mm * scale.view(3, 1, 1, 1)) & glued).flatten().nonzero().flatten()


def _glued(labels: Tensor, tangential: Tensor) -> Tensor:
    """(Z, Y, X) bool, voxels that are glued to all their face neighbours."""
    glued = torch.ones_like(labels, dtype=torch.bool)
    for axis, n in enumerate(labels.shape):
        at, weight = faces(labels, tangential, axis)
        z, y, x = (index[weight < 1] for index in at)
        glued.narrow(axis, 0, n - 1)[z, y, x] = False
        glued.narrow(axis, 1, n - 1)[z, y, x] = False
    return glued


def _unfold(u_mm: Tensor, at: Tensor, scale: Tensor) -> None:
    """Move some voxels and their neighbours until they do not fold, a step, in place.

    Args:
        u_mm: (3, Z, Y, X), changed.
        at: (n,) flat indices of voxels, once each.
        scale: (3,) voxels per mm.
    """
    sides = _sides(u_mm, at, scale)
    members = torch.cat([at, *(side[0] for pair in sides for side in pair)])
    voxels, place = torch.unique(members, return_inverse=True)
    places = place.view(7, -1)
    move, count = u_mm.new_zeros(3, len(voxels)), u_mm.new_zeros(len(voxels))
    for corner in CORNERS:
        chosen = [sides[axis][side] for axis, side in enumerate(corner)]
        _, sign, column = zip(*chosen, strict=True)
        cofactors, det = _cofactors(column)
        bad = det < LEAST_DET
        slopes = [
            (c * s)[:, bad] * scale.unsqueeze(1) for c, s in zip(cofactors, sign, strict=True)
        ]
        slopes.append(-slopes[0] - slopes[1] - slopes[2])
        length = torch.stack([slope.square().sum(0) for slope in slopes]).sum(0)
        step = (WANTED_DET - det[bad]) / length.clamp(min=1e-2)
        rows = [1 + 2 * axis + side for axis, side in enumerate(corner)] + [0]
        for row, slope in zip(rows, slopes, strict=True):
            move[:, places[row, bad]] += step * slope
            count[places[row, bad]] += slope.any(0)
    u_mm.view(3, -1)[:, voxels] += OVERSHOOT * move / count.clamp(min=1)


def _average(u_mm: Tensor, folds: Tensor, glued: Tensor, scale: Tensor, reach: int) -> None:
    """Move voxels within ``reach`` of a fold half way to the mean of their neighbours, in place."""
    at = _around(folds, tuple(glued.shape), reach)
    at = at[glued.flatten()[at]]
    flat = u_mm.view(3, -1)
    sides = [side[0] for pair in _sides(u_mm, at, scale) for side in pair]
    for _ in range(2 * reach + 1):
        mean = torch.stack([flat[:, there] for there in sides]).mean(0)
        flat[:, at] = torch.lerp(flat[:, at], mean, 0.5)


Neighbour = tuple[Tensor, Tensor, Tensor]
"""A neighbour of each voxel along an axis: its flat index (n,), the sign of the difference to it
(n,), and the column (3, n) of the Jacobian of x + u(x), in voxels."""


def _sides(u_mm: Tensor, at: Tensor, scale: Tensor) -> list[tuple[Neighbour, Neighbour]]:
    """Both neighbours along each axis; at the border the inner one stands in for the missing
    one."""
    shape, flat = u_mm.shape[1:], u_mm.view(3, -1)
    strides = (shape[1] * shape[2], shape[2], 1)
    here = flat[:, at]
    sides = []
    for axis, (n, stride) in enumerate(zip(shape, strides, strict=True)):
        index = at // stride % n
        both = []
        for step in (-1, 1):
            outside = (index + step < 0) | (index + step >= n)
            sign = torch.where(outside, -step, step) if n > 1 else torch.zeros_like(at)
            there = at + sign * stride
            column = (flat[:, there] - here) * sign * scale.unsqueeze(1)
            column[axis] += 1
            both.append((there, sign.to(u_mm.dtype), column))
        sides.append((both[0], both[1]))
    return sides


def _cofactors(columns: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Tensor]:
    """The derivative of a determinant by each of its columns, (3, n) each, and itself, (n,)."""
    a, b, c = columns
    first = torch.linalg.cross(b, c, dim=0)
    rest = torch.linalg.cross(c, a, dim=0), torch.linalg.cross(a, b, dim=0)
    return (first, *rest), (a * first).sum(0)


def _determinants(u_mm: Tensor, at: Tensor, scale: Tensor) -> Tensor:
    """(8, n), det J of the corner stencils at some voxels."""
    sides = _sides(u_mm, at, scale)
    columns = [[sides[axis][side][2] for axis, side in enumerate(corner)] for corner in CORNERS]
    return torch.stack([_cofactors(tuple(column))[1] for column in columns])


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
