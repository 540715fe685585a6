"""A map on a level of the pair, and how alike it makes the images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from iterreg.geometry import Matrix
from iterreg.metrics import ImageSimilarity, image_similarity
from iterreg.neighbourhood import dilate
from iterreg.optimize.field import Field
from iterreg.optimize.pair import Pair
from iterreg.sampling import sample


@dataclass(frozen=True)
class Mapped:
    """A pair at one level with an affine and a displacement on its fixed side.

    Args:
        level: the pair.
        affine_lps: homogeneous, LPS mm.
        u_mm: (3, Z, Y, X).
    """

    level: Pair
    affine_lps: Matrix
    u_mm: Tensor

    @classmethod
    def still(cls, level: Pair, affine_lps: Matrix) -> Mapped:
        """A level mapped by an affine alone."""
        return cls(level, affine_lps, Field.zero(level.fixed).u_mm)

    @cached_property
    def moving_index(self) -> Tensor:
        """(3, Z, Y, X): where each fixed voxel lands."""
        shape, device = self.level.fixed.shape, self.u_mm.device
        axes = [torch.arange(float(n), device=device) for n in shape]
        voxels = torch.stack(torch.meshgrid(*axes, indexing="ij")).view(3, -1)
        landed = self.level.index_map(self.affine_lps).apply(voxels, self.u_mm.reshape(3, -1))
        return landed.view(3, *shape)

    @cached_property
    def common_fov(self) -> Tensor:
        """(Z, Y, X) bool: fixed voxels with anatomy that both images see."""
        return anatomy(self.level) & self.level.seen_at(self.moving_index)

    def similarity(self, where: Tensor | None = None) -> ImageSimilarity:
        """How alike the fixed and the warped image are.

        Args:
            where: (Z, Y, X) bool; None takes where both images see.
        """
        moving = self.level.moving.image.mean(0, keepdim=True)
        warped = sample(moving, self.moving_index)[0]
        where = self.common_fov if where is None else where
        return image_similarity(self.level.fixed.image.mean(0), warped, where)


def anatomy(level: Pair) -> Tensor:
    """(Z, Y, X) bool: the fixed field of view without air, if the background is known to be air."""
    if not level.interfaces.empty_background:
        return level.fixed.fov
    return level.fixed.fov & dilate(level.fixed.labels > 0, 1)


def voxels_at(pair: Pair, spacing_mm: float) -> float:
    """About so many voxels the fixed image has at a spacing; a coarser axis stays as it is."""
    sides = zip(pair.fixed.shape, pair.fixed.spacing_mm, strict=True)
    return float(np.prod([n * min(1.0, s / spacing_mm) if n > 1 else 1.0 for n, s in sides]))
