"""NCC: local correlation, for images whose contrast is alike up to a slow change of brightness.

::

    E(u) = sum_n w / 2 (W*(n) - F*(n))^2        V* = (V - mean V) / deviation V

W is the warped moving image. Mean and deviation are those of a box around the voxel, so the sum is
that of 1 - NCC. They are taken anew at every step and held constant in its linearisation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from iterreg.config import Similarity
from iterreg.energy.similarity.types import ComparedImages
from iterreg.energy.terms import NormalEquations
from iterreg.kernels import IndexMap, normal_equations, sample_with_slope
from iterreg.neighbourhood import box_mean

OUTSIDE_WEIGHT = 0.05
"""Cost of a squared voxel outside the moving image: a tenth of a typical cost."""

NOISE_VARIANCE = 1e-4
"""Added to local variances, so that noise in flat tissue does not count. Intensities are scaled to
0 ... 1, so this is a deviation of 1 % of the range."""


@dataclass(frozen=True)
class LocalNcc:
    """1 - NCC in a box around each voxel, as half the squared difference of standard scores.

    Args:
        fixed: (Z, Y, X).
        moving: (Z', Y', X', 1).
        weights: (Z, Y, X), 0 outside the common field of view.
        radius: (z, y, x), half-width of the box in voxels.
    """

    fixed: Tensor
    moving: Tensor
    weights: Tensor
    radius: list[int]

    def accumulate(self, u_mm: Tensor, mapping: IndexMap, into: NormalEquations) -> Tensor:
        """See :class:`iterreg.energy.terms.Term`."""
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
        gradient = 0.5 * gradient + OUTSIDE_WEIGHT * mapping.from_mm.T @ outside
        into.gradient += self.weights * gradient.view_as(into.gradient)
        into.curvature += self.weights * 0.5 * curvature.view_as(into.curvature)
        cost = 0.5 * residual.square().squeeze(-1) + OUTSIDE_WEIGHT * outside.square().sum(0)
        return (self.weights.flatten() * cost).sum(dtype=torch.float64)

    def without_outside_cost(self) -> LocalNcc:
        """The same term: NCC keeps its outside cost, with which its results were measured."""
        return self

    def _standardised(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """The standard score of every voxel in its box, and the deviation there."""
        mean = box_mean(volume, self.radius, "cut")
        variance = box_mean(volume.square(), self.radius, "cut") - mean.square()
        deviation = (variance.clamp(min=0) + NOISE_VARIANCE).sqrt()
        return (volume - mean) / deviation, deviation


def ncc_term(config: Similarity, images: ComparedImages) -> LocalNcc:
    """See :func:`iterreg.energy.similarity.similarity_term`."""
    radius = [max(1, round(config.radius_mm[0] / s)) for s in images.fixed_spacing_mm]
    weights = images.common_fov.float() * config.weight
    return LocalNcc(images.fixed.mean(0), images.moving.mean(0).unsqueeze(-1), weights, radius)
