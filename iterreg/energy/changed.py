"""Changed tissue: places that look different in the two images however well they are aligned.

A resection, a tumour or a bleeding has no partner. Squared intensities pull what lies around it
into it. Misaligned tissue differs in thin sheets along its edges, and changed tissue as a whole. So
where nearly all voxels of a neighbourhood differ by more than ``scale``, every sample near it
counts by Geman and McClure's weight, ``(1 + (r / scale)^2)^-2``, and elsewhere fully.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from iterreg.energy.terms import SquaredDifference, Term, reweighted
from iterreg.kernels import IndexMap, SampleGroup, squared_residuals
from iterreg.neighbourhood import box_mean

RADIUS_MM = 6.0
"""Half-width of the neighbourhood: a gyrus that is off differs over 3 to 4 mm."""

CHANGED_SHARE = 0.7
"""Of the samples of a neighbourhood that has changed."""


def without_changed_tissue(
    terms: Sequence[Term],
    u_mm: Tensor,
    mapping: IndexMap,
    spacing_mm: Sequence[float],
    scale: float,
) -> list[Term]:
    """The same terms, with less weight in and around changed tissue.

    Args:
        terms: of the similarity; only squared differences of one channel change.
        u_mm: (3, Z, Y, X), the displacement at which they are compared.
        mapping: from a fixed voxel and its displacement to a moving index.
        spacing_mm: (z, y, x).
        scale: difference of the intensities, which are scaled to 0 ... 1.
    """
    return [
        _spared(term, u_mm, mapping, spacing_mm, scale)
        if isinstance(term, SquaredDifference) and term.fixed.shape[1] == 1 and len(term.voxels)
        else term
        for term in terms
    ]


def _spared(
    term: SquaredDifference,
    u_mm: Tensor,
    mapping: IndexMap,
    spacing_mm: Sequence[float],
    scale: float,
) -> SquaredDifference:
    shape = tuple(u_mm.shape[1:])
    differ = squared_residuals(SampleGroup((term,), shape), u_mm, mapping) > scale**2
    near = changed_tissue(differ, term.voxels, shape, spacing_mm)
    if not bool(near.any()):
        return term
    robust = reweighted([term], u_mm, mapping, scale)[0]
    return replace(term, weights=torch.where(near, robust.weights, term.weights))


def changed_tissue(
    differ: Tensor, voxels: Tensor, shape: tuple[int, ...], spacing_mm: Sequence[float]
) -> Tensor:
    """(N,) bool: the samples in and around neighbourhoods of which nearly all differ.

    Args:
        differ: (N,) bool.
        voxels: (N, 3), where each sample lies.
        shape: (Z, Y, X).
        spacing_mm: (z, y, x).

    Example:
        >>> place = torch.cartesian_prod(*[torch.arange(24)] * 3)
        >>> block = ((place - 12).abs().amax(1) < 5), ((place[:, 0] - 12).abs() < 2)
        >>> [round(float(changed_tissue(d, place, (24,) * 3, (2.0,) * 3).float().mean()), 2)
        ...  for d in block]
        [0.45, 0.0]
    """
    z, y, x = voxels.long().T
    marks = torch.zeros(2, *shape, device=differ.device)
    marks[0, z, y, x], marks[1, z, y, x] = differ.float(), 1.0
    radius = [
        min(max(1, round(RADIUS_MM / s)), (n - 1) // 2)
        for n, s in zip(shape, spacing_mm, strict=True)
    ]
    among, of = (box_mean(part, radius, "zero") for part in marks)
    core = (among > CHANGED_SHARE * of) & (of > 0)
    wide = [min(2 * r, (n - 1) // 2) for r, n in zip(radius, shape, strict=True)]
    return box_mean(core.float(), wide, "zero")[z, y, x] > 0.5 / core.numel()
