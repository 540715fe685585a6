"""The terms of the energy, and the one that most are made of.

A term adds itself to the normal equations of a Gauss-Newton step. For most terms that is a squared
difference of features, sampled at the voxels n of the fixed grid::

    E(u) = sum_n w_n |M(q_n) - F_n|^2        q_n = linear n + shift + from_mm u(n)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from iterreg.kernels import (
    IndexMap,
    NormalEquations,
    SampleGroup,
    Samples,
    squared_difference,
    squared_differences,
    squared_residuals,
)

__all__ = [
    "NormalEquations",
    "SquaredDifference",
    "SquaredDifferences",
    "Term",
    "grouped",
    "reweighted",
]


class Term(Protocol):
    """A term of the energy."""

    def accumulate(self, u_mm: Tensor, mapping: IndexMap, into: NormalEquations) -> Tensor:
        """Add half the gradient and the curvature at a displacement; return the energy.

        Args:
            u_mm: (3, Z, Y, X), components (z, y, x), mm along the fixed grid's axes.
            mapping: from a fixed voxel and its displacement to a moving index.
            into: the equations to add to.

        Returns:
            A float64 scalar.
        """

    def without_outside_cost(self) -> Term:
        """The same term, in which leaving the moving image adds no cost."""


@dataclass(frozen=True)
class SquaredDifference(Samples):
    """``sum_n weight_n |moving(q_n) - fixed_n|^2`` over samples of the fixed grid.

    Example:
        >>> ramp = torch.arange(4.0).view(1, 1, 4, 1)
        >>> voxels = torch.tensor([[0, 0, 1]], dtype=torch.int32)
        >>> term = SquaredDifference(torch.zeros(1, 1), ramp, voxels, torch.ones(1), 0.1)
        >>> u_mm, into = torch.zeros(3, 1, 1, 4), NormalEquations.zero(torch.zeros(3, 1, 1, 4))
        >>> term.accumulate(u_mm, IndexMap(torch.eye(3), torch.zeros(3), torch.eye(3)), into).item()
        1.0
    """

    @classmethod
    def of_features(
        cls, fixed: Tensor, moving: Tensor, voxels: Tensor, weight: float, outside_weight: float
    ) -> SquaredDifference:
        """The mean over the channels of each sample's squared difference.

        Args:
            fixed: (N, C) features at the samples.
            moving: (Z, Y, X, C) features of the moving image.
            voxels: (N, 3) int32, the fixed voxel of each sample.
            weight: of every sample.
            outside_weight: energy per squared voxel outside ``moving``, for weight 1.
        """
        channels = fixed.shape[-1]
        weights = torch.full((len(voxels),), weight / channels, device=fixed.device)
        return cls(fixed, moving, voxels, weights, outside_weight * channels)

    def accumulate(self, u_mm: Tensor, mapping: IndexMap, into: NormalEquations) -> Tensor:
        """See :class:`Term`."""
        return squared_difference(self, u_mm, mapping, into)

    def without_outside_cost(self) -> SquaredDifference:
        """See :class:`Term`."""
        return replace(self, outside_weight=0.0)

    def nearest_across_slices(self, repeats: Sequence[int]) -> SquaredDifference:
        """The same samples of a moving image that is constant over most of a voxel.

        Linear interpolation between two thick slices gives a shape that neither slice has. Label
        maps, which are sampled at the nearest voxel, never show it.

        Args:
            repeats: (z, y, x), how often each voxel is repeated; 1 keeps an axis as it is.
        """
        moving = self.moving
        for axis, times in enumerate(repeats):
            moving = moving.repeat_interleave(times, axis) if times > 1 else moving
        return replace(self, moving=moving.contiguous(), repeats=tuple(repeats))


@dataclass(frozen=True)
class SquaredDifferences(SampleGroup):
    """The sum of many squared differences of one channel each."""

    def accumulate(self, u_mm: Tensor, mapping: IndexMap, into: NormalEquations) -> Tensor:
        """See :class:`Term`."""
        return squared_differences(self, u_mm, mapping, into)

    def without_outside_cost(self) -> SquaredDifferences:
        """See :class:`Term`."""
        return replace(self, parts=tuple(replace(p, outside_weight=0.0) for p in self.parts))


def reweighted(
    terms: Sequence[SquaredDifference], u_mm: Tensor, mapping: IndexMap, scale: float
) -> list[SquaredDifference]:
    """The same samples, with less weight where they differ by more than ``scale``.

    Args:
        terms: of one channel.
        u_mm: (3, Z, Y, X), the displacement at which the difference is taken.
        mapping: from a fixed voxel and its displacement to a moving index.
        scale: in units of the features.

    Source: Geman and McClure's weight, ``(1 + (r / scale)^2)^-2``.
    """
    some = [term for term in terms if len(term.voxels)]
    if not some:
        return []
    squared = squared_residuals(SampleGroup(tuple(some), tuple(u_mm.shape[1:])), u_mm, mapping)
    shares = (1 + squared / scale**2).square().reciprocal()
    parts = shares.split([len(term.voxels) for term in some])
    return [replace(t, weights=t.weights * share) for t, share in zip(some, parts, strict=True)]


def grouped(terms: Sequence[Term], shape: tuple[int, ...]) -> list[Term]:
    """The same terms, with all squared differences of one channel as one, without empty ones.

    The cost of a step then hardly depends on the number of regions.

    Args:
        terms: of one level.
        shape: (Z, Y, X) of the fixed grid.
    """
    parts, others = [], []
    for term in terms:
        if not isinstance(term, SquaredDifference) or term.fixed.shape[1] > 1:
            others.append(term)
        elif len(term.voxels):
            parts.append(term)
    return [*others, SquaredDifferences(tuple(parts), shape)] if parts else others
