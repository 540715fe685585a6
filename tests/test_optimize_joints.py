"""Joints inside the optimiser that no result shows by itself: halving, repair, the search.

These import the optimiser's own modules; the other joints are tested from outside.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic import CENTRE_MM, LOCAL, Pair, World, grid_around, rotation, texture
from torch import Tensor

from iterreg import Points, optimize_pair
from iterreg.energy.terms import NormalEquations
from iterreg.geometry import Grid
from iterreg.kernels import IndexMap
from iterreg.metrics import folding_mask
from iterreg.optimize import levels
from iterreg.optimize.discrete import search
from iterreg.optimize.pair import Interfaces
from iterreg.optimize.pair import Pair as TensorPair
from iterreg.optimize.problem import Problem, active_rows
from iterreg.optimize.side import Side
from iterreg.optimize.solver import HALVINGS, State, init, step, terminated

# The solver -----------------------------------------------------------------------------------

SHAPE = (5, 6, 7)


class Overshooting:
    """One term whose curvature is too small by a factor: a full step goes too far."""

    def __init__(self, factor: float) -> None:
        """Take the factor."""
        self.factor = factor

    def accumulate(self, u_mm: Tensor, mapping: IndexMap, into: NormalEquations) -> Tensor:
        """``sum |u - 1|^2``."""
        into.gradient += u_mm - 1
        for entry in (0, 3, 5):
            into.curvature[entry] += 1 / self.factor
        return (u_mm - 1).square().sum(dtype=torch.float64)


def problem(factor: float) -> Problem:
    """That term alone, without a regulariser."""
    whole = torch.ones(SHAPE, dtype=torch.bool)
    mapping = IndexMap(torch.eye(3), torch.zeros(3), torch.eye(3))
    voxels = int(np.prod(SHAPE))
    return Problem(
        [Overshooting(factor)],
        [],
        torch.zeros(3, *SHAPE),
        mapping,
        voxels,
        active_rows(None, whole),
    )


def test_a_step_that_raises_the_energy_is_taken_back_and_halved():
    """A step of 3 times the way, then 1.5: the second one lowers the energy."""
    start = init(problem(3.0), torch.zeros(3, *SHAPE))
    refused = step(problem(3.0), start)
    assert torch.equal(refused.u_mm, start.u_mm) and refused.halvings == 1
    assert refused.energy == start.energy and len(refused.history) == 1
    taken = step(problem(3.0), refused)
    torch.testing.assert_close(taken.u_mm, torch.full_like(start.u_mm, 1.5), atol=1e-3, rtol=0)
    assert taken.energy == pytest.approx(0.25 * start.energy, rel=1e-3)
    assert taken.halvings == 0 and len(taken.history) == 2
    assert taken.gain == pytest.approx(0.75, rel=1e-3)


def test_a_level_ends_when_halving_does_not_help():
    state = init(problem(1000.0), torch.zeros(3, *SHAPE))
    for tried in range(1, HALVINGS + 2):
        assert not terminated(state, 0.0)
        state = step(problem(1000.0), state)
        assert state.halvings == tried
    assert terminated(state, 0.0) and not bool(state.u_mm.any())


# Repair between levels ------------------------------------------------------------------------


def test_no_level_starts_from_a_field_that_folds(monkeypatch):
    """A flap in the start: the first level repairs it, before thousands of voxels inherit it."""
    pair = Pair.of(World(slide_mm=0.0))
    points = CENTRE_MM[3] + 3.0 * np.stack((pair.world.axes[:, 0], -pair.world.axes[:, 0]))
    begun = []
    solve = levels.solve

    def watched(problem: Problem, u_mm: Tensor, steps: int, tolerance: float) -> State:
        begun.append((u_mm.clone(), problem.edges.shape[1:]))
        found = solve(problem, u_mm, steps, tolerance)
        begun.append((found.u_mm.clone(), problem.edges.shape[1:]))
        return found

    monkeypatch.setattr(levels, "solve", watched)
    optimize_pair(
        **pair.images,
        fixed_landmarks=Points(points),
        moving_landmarks=Points(points[::-1]),
        preset="general",
        overrides=LOCAL
        | {
            "similarity.weight": 0.0,
            "smoothness.break_at": 0.0,  # one solve a level
            "landmarks.weight": 100.0,
            "landmarks.radius_mm": 1.5,
            "levels.spacing_mm": [1.5, 1.0],
            "levels.steps": [6, 1],
        },
        device="cpu",
    )
    folds = []
    for u_mm, shape in begun:
        spacing = [n * s / m for n, s, m in zip((13, 26, 40), (3, 1.5, 1), shape, strict=True)]
        folds.append(int(folding_mask(u_mm / torch.tensor(spacing).view(3, 1, 1, 1)).sum()))
    first, after_first, second, _ = folds[:4]  # what follows is the check of the result
    assert first == 0 and after_first > 0
    assert second == 0


# The discrete search --------------------------------------------------------------------------


def straight(origin_mm: float) -> Grid:
    """4 mm voxels along oblique axes."""
    axes = rotation(20, -15, 10)
    grid = grid_around(CENTRE_MM[3], (16, 18, 20), (4.0, 4.0, 4.0), axes)
    first = np.array(grid.origin_lps_mm) + origin_mm * axes.sum(1)
    return replace(grid, origin_lps_mm=tuple(first.tolist()))


@pytest.mark.parametrize("apart_mm", [-1.6, 1.6])
def test_the_search_knows_that_its_voxels_lie_between_those_of_the_other_image(apart_mm):
    """Everything moves by 1.6 mm along each axis, and the moving voxels lie just there."""
    sides = []
    for origin_mm in (0.0, apart_mm):
        grid = straight(origin_mm)
        places = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape_zyx], indexing="ij"), -1)
        image = torch.from_numpy(texture(4.0 * places, 3)).float().unsqueeze(0)
        labels = torch.zeros(grid.shape_zyx, dtype=torch.int32)
        sides.append(Side(image, labels, torch.ones_like(labels, dtype=torch.bool), grid))
    u_mm = search(TensorPair(*sides, Interfaces.glued(1)), np.eye(4), 8.0).u_mm
    inside = u_mm[:, 3:-3, 3:-3, 3:-3]
    assert float((inside - apart_mm).abs().mean()) < 0.3
