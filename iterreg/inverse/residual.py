"""The residual of an inverse: how far from a moving voxel the way there and back ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from iterreg.displacement import Transform, displacement_vox_to_mm
from iterreg.inverse._indices import apply_to_index, index_slabs
from iterreg.inverse.branches import InverseStatus
from iterreg.sampling import sample


@dataclass(frozen=True)
class ResidualSummary:
    """The residual over some moving voxels; None if there are none.

    Args:
        voxels: how many there are.
        median_mm, p95_mm, max_mm: of the residual; p95 is the 95th percentile.
    """

    voxels: int
    median_mm: float | None = None
    p95_mm: float | None = None
    max_mm: float | None = None

    @classmethod
    def of(cls, residual_mm: Tensor) -> ResidualSummary:
        """Summarise the residual (n,) of n voxels."""
        if residual_mm.numel() == 0:
            return cls(0)
        low, high, top = np.percentile(residual_mm.numpy(), (50, 95, 100))
        return cls(residual_mm.numel(), float(low), float(high), float(top))


@dataclass(frozen=True)
class InverseResidual:
    """The residual by status: see :class:`InverseStatus`.

    Args:
        domain: all voxels whose answer lies in the fixed image: ok, gap, overlap and blended.
        ok, gap, overlap, blended: those of one status. In a gap no fixed point maps onto the voxel,
            so the residual tells how far the regions drew apart.
        outside_voxels: how many voxels come from outside the fixed image.
    """

    domain: ResidualSummary
    ok: ResidualSummary
    gap: ResidualSummary
    overlap: ResidualSummary
    blended: ResidualSummary
    outside_voxels: int


def inverse_residual(transform: Transform, inverse: Transform, status: Tensor) -> InverseResidual:
    """Measure how far from each moving voxel the inverse, and then the transform, lead.

    Args:
        transform: fixed to moving.
        inverse: moving to fixed, on the moving grid, from :func:`iterreg.inverse.invert_to_grid`.
        status: (*moving shape), from there too.

    Example:
        >>> from iterreg.displacement import DisplacementField
        >>> from iterreg.geometry import Grid
        >>> from iterreg.inverse import invert_to_grid
        >>> grid = Grid((8, 8), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> shift = Transform(np.eye(3), DisplacementField(torch.full((2, 8, 8), 2.0), grid))
        >>> found = inverse_residual(shift, *invert_to_grid(shift, grid))
        >>> found.domain.max_mm, found.outside_voxels
        (0.0, 28)
    """
    residual_mm = torch.cat(list(_residuals_mm(transform, inverse)))
    status = status.detach().cpu().flatten()
    by_status = {s: ResidualSummary.of(residual_mm[status == s.value]) for s in InverseStatus}
    return InverseResidual(
        ResidualSummary.of(residual_mm[status != InverseStatus.OUTSIDE.value]),
        by_status[InverseStatus.OK],
        by_status[InverseStatus.GAP],
        by_status[InverseStatus.OVERLAP],
        by_status[InverseStatus.BLENDED],
        by_status[InverseStatus.OUTSIDE].voxels,
    )


def _residuals_mm(transform: Transform, inverse: Transform) -> Iterator[Tensor]:
    """(n,) residuals of runs of flat moving voxels."""
    fixed, moving = transform.grid, inverse.grid
    there = moving.lps_to_index @ transform.affine_lps @ fixed.index_to_lps
    back = fixed.lps_to_index @ inverse.affine_lps @ moving.index_to_lps
    u, w = (t.field.vox.detach().cpu() for t in (transform, inverse))
    for part, index in index_slabs(moving):
        x = apply_to_index(back, index + w.flatten(1)[:, part])
        landed = apply_to_index(there, x + sample(u, x, outside=0.0))
        yield displacement_vox_to_mm(landed - index.float(), moving).norm(dim=0)
