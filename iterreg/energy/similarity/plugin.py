"""Similarities of plug-ins: any cost that torch can differentiate becomes a term of the energy.

::

    E(u) = N C(F, W)        or        E(u) = sum_n C_n(F, W)

W is the warped moving image, C the plug-in's cost: a mean, or one number per voxel n of the N that
both images see. The gradient by W is torch's, its slope by u that of linear interpolation.

Gauss-Newton needs a curvature too. A cost that is 0 for equal images and never negative is taken as
a sum of squares E = sum r_n^2, of which E = sum (dE/dr_n)^2 / 4 holds. So the curvature by W is set
to k = sum (dE/dW)^2 / (2 E), the same for all voxels. For the squared difference it is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from iterreg.config import Similarity
from iterreg.energy.similarity.types import ComparedImages
from iterreg.energy.terms import NormalEquations
from iterreg.errors import PluginError
from iterreg.kernels import IndexMap, normal_equations, outside_equations, sample_with_slope
from iterreg.plugins import guarded

OUTSIDE_WEIGHT = 0.1
"""Cost of a squared voxel outside the moving image, as a share of the mean cost at the start."""

LEAST_ENERGY = 1e-12


@dataclass(frozen=True)
class SimilarityContext:
    """What a similarity may want to know beside the two images.

    Args:
        mask: (Z, Y, X) bool, the voxels that both images see.
        spacing_zyx_mm: of the grid.
        radius_mm: ``similarity.radius_mm`` of the configuration, for local windows.

    Example:
        >>> mask = torch.ones(2, 3, 4, dtype=torch.bool)
        >>> SimilarityContext(mask, (3.0, 1.0, 1.0), (4.0,)).spacing_zyx_mm
        (3.0, 1.0, 1.0)
    """

    mask: Tensor
    spacing_zyx_mm: tuple[float, ...]
    radius_mm: tuple[float, ...]


Cost = Callable[[Tensor, Tensor, SimilarityContext], Tensor]
"""(fixed, warped, context): both images (C, Z, Y, X), scaled to 0 ... 1."""


@dataclass(frozen=True)
class CostTerm:
    """A plug-in's cost over the voxels that both images see.

    Args:
        label: the plug-in, for messages.
        cost: its function.
        fixed: (C, Z, Y, X).
        moving: (Z', Y', X', C).
        context: what it is told.
        weight: of a voxel.
        outside_weight: energy per squared voxel outside ``moving``, as a share of the mean cost of
            the first displacement that is asked for.
        typical: holds that mean cost, once it is known.
    """

    label: str
    cost: Cost
    fixed: Tensor
    moving: Tensor
    context: SimilarityContext
    weight: float
    outside_weight: float = OUTSIDE_WEIGHT
    typical: list[float] = field(default_factory=list, repr=False)

    def accumulate(self, u_mm: Tensor, mapping: IndexMap, into: NormalEquations) -> Tensor:
        """See :class:`iterreg.energy.terms.Term`."""
        shape = self.fixed.shape[1:]
        axes = [torch.arange(n, device=u_mm.device) for n in shape]
        at = torch.cartesian_prod(*axes).view(-1, 3).T.to(u_mm.dtype)
        q = mapping.apply(at, u_mm.reshape(3, -1))
        values, slopes, outside = sample_with_slope(self.moving, q)
        energy, by_warped = self._differentiated(values.T.reshape(self.fixed.shape))
        seen = self.context.mask.flatten()
        if not self.typical:
            self.typical.append(float(energy) / max(1, int(seen.sum())))
        by_warped = by_warped.flatten(1).T * seen.unsqueeze(1)
        curvature = by_warped.square().sum(dtype=torch.float64) / (2 * energy + LEAST_ENERGY)
        # Half of each: the equations hold half the gradient, and J^T J of the residuals.
        gradient, square = normal_equations(0.5 * by_warped, slopes, mapping.from_mm)
        outside_weight = self.outside_weight * self.typical[0]
        outside_g, outside_h = outside_equations(outside, mapping.from_mm, outside_weight)
        half = (0.5 * curvature).to(u_mm.dtype) * seen
        into.gradient += (gradient + seen * outside_g).view_as(into.gradient)
        into.curvature += (half * square + seen * outside_h).view_as(into.curvature)
        beyond = (seen * outside.square().sum(0)).sum(dtype=torch.float64)
        total: Tensor = energy.double() + outside_weight * beyond
        return total

    def without_outside_cost(self) -> CostTerm:
        """See :class:`iterreg.energy.terms.Term`."""
        return replace(self, outside_weight=0.0)

    def _differentiated(self, warped: Tensor) -> tuple[Tensor, Tensor]:
        """The energy at a warped image, and its gradient, (C, Z, Y, X)."""
        with torch.enable_grad():
            warped = warped.detach().requires_grad_(True)
            answer = guarded(self.label, self.cost, self.fixed, warped, self.context)
            energy = self._energy(answer)
            slope = guarded(self.label, _gradient, energy, warped)
        if not bool(torch.isfinite(slope).all()):
            raise PluginError(f"{self.label}: expected a finite gradient, got NaN or infinity")
        return energy.detach(), slope

    def _energy(self, answer: Any) -> Tensor:
        mask = self.context.mask
        shapes = f"one number, or {tuple(mask.shape)}"
        if not isinstance(answer, Tensor) or not answer.is_floating_point():
            raise PluginError(
                f"{self.label}: expected a tensor of {shapes}, got {type(answer).__name__}"
            )
        if answer.ndim and answer.shape != mask.shape:
            raise PluginError(
                f"{self.label}: expected a tensor of {shapes}, got shape {tuple(answer.shape)}"
            )
        if answer.grad_fn is None:
            raise PluginError(
                f"{self.label}: expected a cost that torch can differentiate by the warped image, "
                "got one without a gradient"
            )
        energy = answer[mask].sum() if answer.ndim else answer * int(mask.sum())
        low = float(answer.detach().min())
        if not bool(torch.isfinite(energy)) or low < -1e-6:
            raise PluginError(
                f"{self.label}: expected costs of 0 (equal images) or more, got {low:g}; return "
                "1 - similarity"
            )
        return self.weight * energy.clamp(min=0)


def _gradient(energy: Tensor, warped: Tensor) -> Tensor:
    return torch.autograd.grad(energy, warped)[0]


def adapt(label: str, cost: Any) -> Callable[[Similarity, ComparedImages], CostTerm]:
    """Make a row of ``SIMILARITIES`` of a plug-in's cost.

    Raises:
        PluginError: it is no function.
    """
    if not callable(cost):
        raise PluginError(
            f"{label}: expected a function (fixed, warped, context), got {type(cost).__name__}"
        )

    def term(config: Similarity, images: ComparedImages) -> CostTerm:
        context = SimilarityContext(
            images.common_fov, tuple(images.fixed_spacing_mm), config.radius_mm
        )
        moving = images.moving.permute(1, 2, 3, 0).contiguous()
        return CostTerm(label, cost, images.fixed, moving, context, config.weight)

    return term
