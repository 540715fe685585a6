"""What a term of the energy is: something that adds itself to the normal equations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from iterreg.kernels import IndexMap, sample_with_slope, squared_difference


@dataclass
class NormalEquations:
    """Half the gradient and the Gauss-Newton curvature of an energy at a displacement.

    Args:
        gradient: (3, Z, Y, X).
        curvature: (6, Z, Y, X), symmetric 3 x 3 per voxel (zz, zy, zx, yy, yx, xx).
    """

    gradient: Tensor
    curvature: Tensor

    @classmethod
    def zero(cls, u_mm: Tensor) -> NormalEquations:
        """Nothing yet, for displacements like this one."""
        return cls(torch.zeros_like(u_mm), u_mm.new_zeros(6, *u_mm.shape[1:]))


class Term(Protocol):
    """A term of the energy."""

    def accumulate(self, u_mm: Tensor, mapping: IndexMap, into: NormalEquations) -> Tensor:
        """Add gradient and curvature at ``u_mm`` and return the energy, a float64 scalar."""

    def without_outside_cost(self) -> Term:
        """The same term, leaving the moving image costing nothing in itself."""


@dataclass(frozen=True)
class SquaredDifference:
    """``sum_n weight_n |moving(q_n) - fixed_n|^2`` over samples of the fixed grid.

    Args:
        fixed: (N, C) features at the samples.
        moving: (Z, Y, X, C) features of the moving image, or of a crop of it.
        voxels: (N, 3) int32, the fixed voxel of each sample.
        weights: (N,).
        pull: energy per squared voxel outside ``moving``.
        corner: (3,), moving index of the crop's first voxel.
        copies: (3,), how often each voxel of the crop stands in ``moving`` along each axis.
    """

    fixed: Tensor
    moving: Tensor
    voxels: Tensor
    weights: Tensor
    pull: float
    corner: Tensor | None = None
    copies: Tensor | None = None

    def accumulate(self, u_mm: Tensor, mapping: IndexMap, into: NormalEquations) -> Tensor:
        """See :class:`Term`."""
        mapping = self._own(mapping)
        return squared_difference(
            self.fixed,
            self.moving,
            self.voxels,
            self.weights,
            u_mm,
            mapping,
            self.pull,
            into.gradient,
            into.curvature,
        )

    def without_outside_cost(self) -> SquaredDifference:
        """The same samples, leaving the moving image costing nothing in itself."""
        return replace(self, pull=0.0)

    def trusting(self, u_mm: Tensor, mapping: IndexMap, scale: float) -> SquaredDifference:
        """The same samples, those that differ by much more than ``scale`` here counting less.

        Source: Geman and McClure's weight, (1 + (r / scale)^2)^-2.
        """
        z, y, x = self.voxels.long().T
        q = self._own(mapping).apply(self.voxels.T.to(u_mm.dtype), u_mm[:, z, y, x])
        values, _, _ = sample_with_slope(self.moving, q)
        apart = (values - self.fixed).square().sum(-1) / scale**2
        return replace(self, weights=self.weights / (1 + apart).square())

    def stepped(self, copies: Sequence[int]) -> SquaredDifference:
        """The same samples of a moving image that is constant over most of a voxel.

        Linear interpolation between two thick slices is a shape that neither has, and that labels,
        which are pulled by their nearest voxel, never show.
        """
        moving = self.moving
        for axis, times in enumerate(copies):
            moving = moving.repeat_interleave(times, axis) if times > 1 else moving
        return replace(
            self, moving=moving.contiguous(), copies=torch.tensor(copies, device=moving.device)
        )

    def _own(self, mapping: IndexMap) -> IndexMap:
        """The mapping to indices of ``moving``."""
        linear, shift, from_mm = mapping.linear, mapping.shift, mapping.from_mm
        if self.corner is not None:
            shift = shift - self.corner
        if self.copies is not None:
            times = self.copies.to(shift.dtype)
            shift = shift * times + (times - 1) / 2
            linear, from_mm = linear * times.unsqueeze(1), from_mm * times.unsqueeze(1)
        return IndexMap(linear, shift, from_mm)
