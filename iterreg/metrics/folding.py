"""Folding of x + d(x), counted by simplices.

``d`` is the total displacement in voxels. An axis of length 1 has no part in a determinant. The map
is piecewise linear on ten tetrahedra per voxel in 3-D, four triangles in 2-D (see
``kernels/simplices.py``), and one to one if the determinants of all of them are positive.

Only simplices that lie in the grid count: of what lies beyond, a field says nothing. A voxel of the
border is judged by those of its simplices that do, and they stand for its whole volume. So an
affine map folds nowhere or, as a mirror, everywhere.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from iterreg.kernels import folding_voxels
from iterreg.kernels.simplices import (
    INNER_DETERMINANT,
    moving_axes,
    require_field,
    simplices_at,
    simplices_inside,
)
from iterreg.metrics._shared import ratio, require_shape
from iterreg.neighbourhood import face_pairs

FOLDS_AT_ONCE = 1 << 16
"""Voxels whose simplices are computed at once, in some 30 MB."""


@dataclass(frozen=True)
class Folding:
    """How much of a map folds, in the interior of regions and at their interfaces.

    A voxel is interior if all vertices of its simplices have its label: in 3-D its six face
    neighbours and the six edge neighbours of the two inner tetrahedra.

    Args:
        interior_share, interface_share: folding voxels over the voxels of their kind, 0 to 1;
            NaN if there is no voxel of that kind.
        interior_folds, interface_folds: how many voxels fold.
        interior_voxels, interface_voxels: how many voxels there are.
        interior_ndv_vox, interface_ndv_vox: non-diffeomorphic volume, in voxels: the mapped volume
            of all simplices that are turned over, averaged over the two ways to cut a cell. At the
            border the simplices in the grid stand for the whole voxel. NaN if the displacement is
            not finite.
    """

    interior_share: float
    interface_share: float
    interior_folds: int
    interface_folds: int
    interior_voxels: int
    interface_voxels: int
    interior_ndv_vox: float
    interface_ndv_vox: float

    @property
    def share_interior(self) -> float:
        """The share of all counted voxels that is interior."""
        return ratio(self.interior_voxels, self.interior_voxels + self.interface_voxels)

    @property
    def ndv_vox(self) -> float:
        """Non-diffeomorphic volume of all counted voxels, in voxels."""
        return self.interior_ndv_vox + self.interface_ndv_vox

    @property
    def ndv_percent(self) -> float:
        """Non-diffeomorphic volume in % of all counted voxels."""
        return 100 * ratio(self.ndv_vox, self.interior_voxels + self.interface_voxels)

    @property
    def interior_ndv_percent(self) -> float:
        """Non-diffeomorphic volume of the interior voxels, in % of them."""
        return 100 * ratio(self.interior_ndv_vox, self.interior_voxels)

    def __repr__(self) -> str:
        """Counts, for people."""
        return (
            f"Folding(interior {self.interior_folds} of {self.interior_voxels}, "
            f"interface {self.interface_folds} of {self.interface_voxels}, "
            f"{100 * self.share_interior:.1f} % interior, ndv {self.ndv_vox:.4g} voxels)"
        )


def folding(total_vox: Tensor, labels: Tensor, mask: Tensor | None = None) -> Folding:
    """Count the folding voxels and their non-diffeomorphic volume, interior and interface apart.

    Args:
        total_vox: (rank, *shape), total displacement in voxels of the fixed grid.
        labels: (*shape) integer labels of the fixed image (a partition; background counts).
        mask: (*shape) bool, the voxels to count; None counts all.

    Returns:
        Shares, counts and volumes.

    Raises:
        GeometryError: the shapes disagree.

    Source:
        The non-diffeomorphic volume is that of Liu et al. (IJCV 2024). Off the border it agrees
        with the number that the authors' package ``digital-diffeomorphism`` prints. At the border
        the package repeats the last displacement beyond the grid, which turns simplices over in
        any map that turns by 90 degrees or more; challenges leave the border out.

    Example:
        >>> folding(torch.zeros(2, 4, 5), torch.ones(4, 5, dtype=torch.int32))
        Folding(interior 0 of 20, interface 0 of 0, 100.0 % interior, ndv 0 voxels)
    """
    require_shape("folding", "labels", labels, total_vox.shape[1:])
    field = moving_axes(total_vox)
    shape = field.shape[1:]
    interior = simplices_in_one_region(labels.reshape(shape))
    parts = [interior, ~interior]
    if mask is not None:
        parts = [part & mask.reshape(shape) for part in parts]
    at, lost = _folds(total_vox)
    kinds = [part.flatten()[at] for part in parts]
    counts = [int(torch.count_nonzero(kind)) for kind in kinds]
    volumes = [float(lost[kind].sum()) for kind in kinds]
    voxels = [int(torch.count_nonzero(part)) for part in parts]
    shares = [ratio(n, of) for n, of in zip(counts, voxels, strict=True)]
    return Folding(shares[0], shares[1], *counts, *voxels, *volumes)


def _folds(total_vox: Tensor) -> tuple[Tensor, Tensor]:
    """The voxels that fold, (n,) flat indices, and the volume lost in each, (n,) float64 voxels."""
    field = moving_axes(total_vox)
    at = folding_voxels(total_vox).flatten().nonzero().flatten()
    parts = [_judged(field, part) for part in at.split(FOLDS_AT_ONCE) if len(part)]
    if not parts:
        return at, at.double()
    folds, lost = (torch.cat(column) for column in zip(*parts, strict=True))
    return at[folds], lost[folds]


def _judged(field: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Whether some voxels fold in the grid, (n,) bool, and their lost volume, (n,) float64.

    The kernel that found them looks beyond the grid too. Within the grid its word stands.
    """
    inside = torch.stack(simplices_inside(field.shape[1:], at))
    found = torch.stack(simplices_at(field, at)).double()
    corners = 2 ** len(field)
    still = torch.ones(len(found), 1, dtype=torch.float64, device=at.device)
    still[corners:] = INNER_DETERMINANT
    lost = torch.where(inside, (-found).clamp(min=0), 0).sum(0) / (inside * still).sum(0)
    return (inside & ~(found > 0)).any(0) | inside.all(0), lost


def folding_mask(total_vox: Tensor) -> Tensor:
    """Find where x + d(x) folds: a simplex of the voxel in the grid has a determinant <= 0 or NaN.

    Args:
        total_vox: (rank, *shape), total displacement in voxels of the fixed grid.

    Returns:
        (*shape) bool.

    Raises:
        GeometryError: ``total_vox`` has another rank than its components say.

    Example:
        >>> line = torch.zeros(3, 1, 1, 5)
        >>> line[2, 0, 0, 3] = -1.5  # this voxel passes its neighbour
        >>> folding_mask(line).flatten().tolist()
        [False, False, True, True, False]
    """
    require_field(total_vox)
    at, _ = _folds(total_vox)
    found = torch.zeros(total_vox[0].numel(), dtype=torch.bool, device=total_vox.device)
    found[at] = True
    return found.view(total_vox.shape[1:])


def simplices_in_one_region(labels: Tensor) -> Tensor:
    """Find the voxels whose simplices have one label at all their vertices.

    Args:
        labels: (*shape) integers, without axes of length 1. Beyond the grid its border goes on.

    Returns:
        (*shape) bool.
    """
    interior = interior_mask(labels)
    for one, other in itertools.combinations(range(labels.ndim), 2) if labels.ndim == 3 else ():
        # The edge neighbours of the inner tetrahedra are both ahead or both behind.
        low, high = (
            tuple(side if k in (one, other) else slice(None) for k in range(3))
            for side in (slice(None, -1), slice(1, None))
        )
        same = labels[low] == labels[high]
        interior[low] &= same
        interior[high] &= same
    return interior


def interior_mask(labels: Tensor) -> Tensor:
    """Find the voxels whose face neighbours all have the same label; the others are interface.

    Args:
        labels: (*shape) integers. Neighbours outside the grid do not count.

    Returns:
        (*shape) bool.

    Example:
        >>> interior_mask(torch.tensor([[1, 1, 2, 2]]))
        tensor([[ True, False, False,  True]])
    """
    interior = torch.ones_like(labels, dtype=torch.bool)
    for axis in range(labels.ndim):
        first, second = face_pairs(labels, axis)
        same = first == second
        for side in face_pairs(interior, axis):
            side.logical_and_(same)
    return interior
