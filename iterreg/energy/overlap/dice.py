"""Dice: the overlap of the fixed region F and the linearly warped moving one W.

::

    E(u) = w |F| (1 - 2 sum_n F_n W(q_n) / (sum_n F_n + sum_n W(q_n)))

The factor |F|, the region's voxels, lets it weigh against the other terms, which are sums over
voxels. The gradient is exact. The curvature is that of the squared difference, which has the same
minimum for binary masks.

Source: SegReg, eq. 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from iterreg.config import Overlap
from iterreg.energy.distance import distance_mm
from iterreg.energy.overlap.crops import Crop, margin_voxels, voxels_of
from iterreg.energy.overlap.types import Frame, RegionPair
from iterreg.energy.terms import NormalEquations, Term
from iterreg.kernels import IndexMap, normal_equations, sample_with_slope


@dataclass(frozen=True)
class SoftDice:
    """1 - Dice of the fixed region and the linearly warped moving one, near the fixed region.

    Args:
        fixed: (N,) 0 or 1.
        moving: (Z, Y, X, 1) 0 or 1.
        voxels: (3, N), the fixed voxel of each sample.
        weight: of the term.
        corner: (z, y, x), moving index of the crop's first voxel.
    """

    fixed: Tensor
    moving: Tensor
    voxels: Tensor
    weight: float
    corner: tuple[float, ...] = (0.0, 0.0, 0.0)

    def accumulate(self, u_mm: Tensor, mapping: IndexMap, into: NormalEquations) -> Tensor:
        """See :class:`iterreg.energy.terms.Term`."""
        z, y, x = self.voxels
        q = mapping.apply(self.voxels.to(u_mm.dtype), u_mm[:, z, y, x])
        q = q - q.new_tensor(self.corner).unsqueeze(1)
        values, slopes, _ = sample_with_slope(self.moving, q)
        warped = values.squeeze(-1)
        both, size = (warped * self.fixed).sum(), warped.sum() + self.fixed.sum()
        dice = 2 * both / size.clamp(min=1e-6)
        scale = self.weight * self.fixed.sum()
        derivative = -(2 * self.fixed - dice) / size.clamp(min=1e-6)
        residual = (derivative * scale).unsqueeze(-1)
        gradient, curvature = normal_equations(residual, slopes, mapping.from_mm)
        into.gradient[:, z, y, x] += 0.5 * gradient
        into.curvature[:, z, y, x] += curvature * (scale / size.clamp(min=1e-6))
        return (scale * (1 - dice)).double()

    def without_outside_cost(self) -> SoftDice:
        """See :class:`iterreg.energy.terms.Term`."""
        return self


def dice_terms(config: Overlap, pairs: Sequence[RegionPair], frame: Frame) -> list[Term]:
    """Dice in a band around each fixed region; see :mod:`iterreg.energy.overlap`."""
    return [_of_pair(config, pair, frame) for pair in pairs]


def _of_pair(config: Overlap, pair: RegionPair, frame: Frame) -> SoftDice:
    band_mm = frame.band_mm(config.band_mm)
    region = pair.fixed.grown(margin_voxels(band_mm, frame.fixed_spacing_mm))
    moving = pair.moving.grown((1, 1, 1))
    is_near = distance_mm(region.mask, frame.fixed_spacing_mm, band_mm) < band_mm
    chosen = is_near & frame.common_fov[region.box]
    mask = Crop(moving.mask.float(), moving.box)
    return SoftDice(
        region.mask[chosen].float(),
        mask.values.unsqueeze(-1),
        voxels_of(chosen, region.box).T,
        config.weight * pair.weight,
        mask.corner(),
    )
