"""A registration on one coarse level alone."""

from __future__ import annotations

from dataclasses import replace

import torch

from iterreg.config import Config
from iterreg.displacement import DisplacementField, Transform
from iterreg.geometry import Grid, Matrix
from iterreg.optimize.discrete import search
from iterreg.optimize.field import Field
from iterreg.optimize.levels import minimise
from iterreg.optimize.mapped import Mapped, voxels_at
from iterreg.optimize.pair import Pair
from iterreg.optimize.problem import Problem
from iterreg.optimize.solver import better_start
from iterreg.optimize.start import find_start

CHECK_SHARE = 1 / 8
LEAST_CHECK_VOXELS, MOST_CHECK_VOXELS = 4_000, 60_000
"""A result is checked on a level of this share of the finest level's voxels, within these limits:
it is fine enough, and costs little."""

CHECK_STEPS = 12

SEARCH_COARSER = 1.4
"""Large motion is searched on a coarser level by this factor: it costs the square of its voxels."""


def level_to_check(pair: Pair, config: Config) -> float:
    """Spacing in mm of the level at which a result is checked.

    Args:
        pair: at full resolution.
        config: no finer than its finest level.
    """
    finest_mm = max(config.levels.spacing_mm[-1], pair.fixed.least_spacing_mm)
    wanted = voxels_at(pair, finest_mm) * CHECK_SHARE
    wanted = min(max(wanted, LEAST_CHECK_VOXELS), MOST_CHECK_VOXELS)
    spacing_mm = finest_mm
    while voxels_at(pair, spacing_mm) > wanted:
        spacing_mm *= 1.05
    return spacing_mm


def register_coarse(pair: Pair, config: Config, spacing_mm: float, first_lps: Matrix) -> Mapped:
    """Register a pair on one level.

    Args:
        pair: at full resolution.
        config: start and energy; the first level's steps are made.
        spacing_mm: of the level.
        first_lps: the affine that the search for the start begins with.
    """
    unsearched = replace(config, start=replace(config.start, search_mm=0.0))
    start = find_start(pair.at(spacing_mm), unsearched, linear(first_lps, pair.fixed.grid))
    level, field = start.pair, start.field
    if config.start.search_mm > 0:
        coarser = level.at(spacing_mm * SEARCH_COARSER)
        field = search(coarser, start.affine_lps, config.start.search_mm)
    field = field.on(level.fixed, pair.interfaces)
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
