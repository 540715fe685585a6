"""A registration on one coarse level alone, and measures of a map on such a level."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from iterreg.config import Config
from iterreg.displacement import DisplacementField, Transform
from iterreg.geometry import Grid, Matrix
from iterreg.metrics import ImageSimilarity, image_similarity
from iterreg.neighbourhood import dilate
from iterreg.optimize.field import Field
from iterreg.optimize.levels import minimise
from iterreg.optimize.pair import Pair
from iterreg.optimize.problem import Problem
from iterreg.optimize.solver import better_start
from iterreg.optimize.start import find_start
from iterreg.sampling import sample

CHECK_SHARE = 1 / 8
LEAST_CHECK_VOXELS, MOST_CHECK_VOXELS = 4_000, 60_000
"""A result is checked on a level of this share of the finest level's voxels, within these limits:
it is fine enough, and costs little."""

CHECK_STEPS = 12


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

    def similarity(self) -> ImageSimilarity:
        """How alike the fixed and the warped image are, where both see."""
        moving = self.level.moving.image.mean(0, keepdim=True)
        warped = sample(moving, self.moving_index)[0]
        return image_similarity(self.level.fixed.image.mean(0), warped, self.common_fov)


def anatomy(level: Pair) -> Tensor:
    """(Z, Y, X) bool: the fixed field of view without air, if the background is known to be air."""
    if not level.interfaces.empty_background:
        return level.fixed.fov
    return level.fixed.fov & dilate(level.fixed.labels > 0, 1)


def level_to_check(pair: Pair, config: Config) -> float:
    """Spacing in mm of the level at which a result is checked.

    Args:
        pair: at full resolution.
        config: no finer than its finest level.
    """
    finest_mm = max(config.levels.spacing_mm[-1], pair.fixed.least_spacing_mm)
    wanted = _voxels_at(pair, finest_mm) * CHECK_SHARE
    wanted = min(max(wanted, LEAST_CHECK_VOXELS), MOST_CHECK_VOXELS)
    spacing_mm = finest_mm
    while _voxels_at(pair, spacing_mm) > wanted:
        spacing_mm *= 1.05
    return spacing_mm


def _voxels_at(pair: Pair, spacing_mm: float) -> float:
    """About so many voxels has the fixed image; an axis that is coarser stays as it is."""
    sides = zip(pair.fixed.shape, pair.fixed.spacing_mm, strict=True)
    return float(np.prod([n * min(1.0, s / spacing_mm) if n > 1 else 1.0 for n, s in sides]))


def register_coarse(pair: Pair, config: Config, spacing_mm: float, first_lps: Matrix) -> Mapped:
    """Register a pair on one level.

    Args:
        pair: at full resolution.
        config: start and energy; the first level's steps are made.
        spacing_mm: of the level.
        first_lps: the affine that the search for the start begins with.
    """
    level = pair.at(spacing_mm)
    start = find_start(level, config, linear(first_lps, pair.fixed.grid))
    field = start.field.on(level.fixed, pair.interfaces)
    problem = Problem.of(config, level, start.affine_lps, None)
    field = Field(better_start(problem, field.u_mm), level.fixed)
    steps = min(config.levels.steps[0], CHECK_STEPS)
    field, _, _ = minimise(problem, field, steps, config.levels.tolerance)
    return Mapped(level, start.affine_lps, field.u_mm)


def linear(affine_lps: Matrix, grid: Grid) -> Transform:
    """An affine as a transform; its field is zero, on a grid of one voxel an axis."""
    small = Grid((1,) * grid.rank, grid.spacing_xyz_mm, grid.origin_lps_mm, grid.direction_lps)
    zero = DisplacementField(torch.zeros(grid.rank, *small.shape_zyx), small)
    return Transform(affine_lps, zero)
