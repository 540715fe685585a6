"""The voxel-wise term L_v: squared difference of features (MSE, MIND), and local NCC.

Source: SegReg, eq. 5; MSE, NCC and MSE on MIND are its three choices of L_v.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from iterreg.config import Similarity
from iterreg.energy.terms import NormalEquations, SquaredDifference, Term
from iterreg.features import mind_ssc, normalized_intensity
from iterreg.kernels import IndexMap, normal_equations, sample_with_slope

PULL_PER_SQUARED_VOXEL = {"mind": 0.05, "ncc": 0.05, "mse": 0.002}
"""Cost of leaving the moving image, a tenth of a typical feature cost at one voxel outside."""

NCC_NOISE = 1e-4
"""Added to local variances of intensities scaled to 0 ... 1: what counts as flat (1 % of range)."""


def similarity_term(
    config: Similarity,
    fixed: Tensor,
    moving: Tensor,
    fixed_spacing_mm: tuple[float, ...],
    moving_spacing_mm: tuple[float, ...],
    gate: Tensor,
) -> Term:
    """The similarity of a level, as a sum over the gated voxels of the fixed grid.

    Args:
        config: kind, weight and window.
        fixed, moving: (C, Z, Y, X) and (C, Z', Y', X') normalised intensities.
        fixed_spacing_mm, moving_spacing_mm: (z, y, x).
        gate: (Z, Y, X) bool, where there is evidence; fixed for the whole level.
    """
    voxels = gate.nonzero().int()
    if config.kind == "ncc":
        weights = gate.float() * config.weight
        radius = [max(1, round(config.radius_mm[0] / s)) for s in fixed_spacing_mm]
        return LocalNcc(fixed.mean(0), moving.mean(0).unsqueeze(-1), weights, voxels, radius)
    if config.kind == "mind":
        # Gated at once, so that the rest is gone before the moving image's features come.
        first = mind_ssc(fixed.mean(0), fixed_spacing_mm, *config.radius_mm)[gate]
        second = mind_ssc(moving.mean(0), moving_spacing_mm, *config.radius_mm)
    else:
        first = fixed.permute(1, 2, 3, 0)[gate]
        second = moving.permute(1, 2, 3, 0).contiguous()
    weights = torch.full((len(voxels),), config.weight / first.shape[-1], device=first.device)
    outside_weight = PULL_PER_SQUARED_VOXEL[config.kind] * first.shape[-1]
    return SquaredDifference(first, second, voxels, weights, outside_weight)


def prepared(volume: Tensor, config: Similarity) -> Tensor:
    """Intensities of an image as the similarity takes them: (C, ...) clipped and scaled."""
    return normalized_intensity(volume, config.intensity_range)


@dataclass(frozen=True)
class LocalNcc:
    """Half the squared difference of locally standardised intensities, which is 1 - local NCC.

    Means and variances in a box around each fixed voxel are taken of the fixed and of the warped
    image at every step and held while the step is linearised.

    Args:
        fixed: (Z, Y, X). moving: (Z', Y', X', 1).
        weights: (Z, Y, X), 0 outside the gate. voxels: (N, 3), the gate's voxels.
        radius: (z, y, x), half-width of the box in voxels.
    """

    fixed: Tensor
    moving: Tensor
    weights: Tensor
    voxels: Tensor
    radius: list[int]

    def without_outside_cost(self) -> LocalNcc:
        """See :class:`iterreg.energy.terms.Term`."""
        return self

    def accumulate(self, u_mm: Tensor, mapping: IndexMap, into: NormalEquations) -> Tensor:
        """See :class:`Term`."""
        at = torch.cartesian_prod(*[torch.arange(n, device=u_mm.device) for n in self.fixed.shape])
        q = mapping.apply(at.T.to(u_mm.dtype), u_mm.reshape(3, -1))
        values, slopes, outside = sample_with_slope(self.moving, q)
        warped = values.view(self.fixed.shape)
        standard_fixed, _ = self._standardised(self.fixed)
        standard_warped, deviation = self._standardised(warped)
        residual = (standard_warped - standard_fixed).reshape(-1, 1)
        gradient, curvature = normal_equations(
            residual, slopes / deviation.reshape(1, -1, 1), mapping.from_mm
        )
        pull = PULL_PER_SQUARED_VOXEL["ncc"]
        gradient = 0.5 * gradient + pull * mapping.from_mm.T @ outside
        into.gradient += self.weights * gradient.view_as(into.gradient)
        into.curvature += self.weights * 0.5 * curvature.view_as(into.curvature)
        cost = 0.5 * residual.square().squeeze(-1) + pull * outside.square().sum(0)
        return (self.weights.flatten() * cost).sum(dtype=torch.float64)

    def _standardised(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        mean = _box_mean(volume, self.radius)
        variance = _box_mean(volume.square(), self.radius) - mean.square()
        deviation = (variance.clamp(min=0) + NCC_NOISE).sqrt()
        return (volume - mean) / deviation, deviation


def _box_mean(volume: Tensor, radius: list[int]) -> Tensor:
    """Mean over a box, cut at the border."""
    for axis, reach in enumerate(radius):
        n = volume.shape[axis]
        low = (torch.arange(n, device=volume.device) - reach).clamp(min=0)
        high = (torch.arange(n, device=volume.device) + reach + 1).clamp(max=n)
        total = volume.cumsum(axis, dtype=torch.float64)
        total = torch.cat((torch.zeros_like(total.narrow(axis, 0, 1)), total), axis)
        size = (high - low).view(*[-1 if a == axis else 1 for a in range(3)])
        volume = ((total.index_select(axis, high) - total.index_select(axis, low)) / size).float()
    return volume
