"""The pyramid: coarse to fine, each level solved, unfolded, and carried to the next."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import torch

from iterreg.config import Config
from iterreg.energy.breaks import edge_shares
from iterreg.energy.changed import without_changed_tissue
from iterreg.optimize.correction import correct_boundaries
from iterreg.optimize.field import Field
from iterreg.optimize.history import LevelHistory
from iterreg.optimize.pair import Pair
from iterreg.optimize.problem import Problem
from iterreg.optimize.repair import repair_folds
from iterreg.optimize.solver import better_start, level_history, solve, terminated
from iterreg.optimize.start import StartingPoint
from iterreg.progress import StageTimer

FIRST_LEVEL, LAST_LEVEL = 0.35, 0.9
"""The share of the whole work that is done before the first and after the last level."""


@dataclass(frozen=True)
class Solved:
    """The result of the pyramid.

    Args:
        field: at full resolution.
        history: of each level, coarse to fine.
        improved: whether the finest level's energy is no higher than without any displacement.
    """

    field: Field
    history: tuple[LevelHistory, ...]
    improved: bool


def coarse_to_fine(pair: Pair, config: Config, start: StartingPoint, timer: StageTimer) -> Solved:
    """Solve each level from the result of the one before, then bring boundaries together.

    Args:
        pair: at full resolution.
        config: the levels and the weights of the energy.
        start: the affine, and the field that the first level starts from.
        timer: announces and times every level.

    Source:
        SegReg (arXiv 2509.15784), iterative mode: eq. 5 minimised for one pair.
    """
    affine_lps, interfaces, tolerance = start.affine_lps, pair.interfaces, config.levels.tolerance
    level, field, history, improved = pair, start.field, [], True
    levels = list(zip(config.levels.spacing_mm, config.levels.steps, strict=True))
    for number, (spacing_mm, steps) in enumerate(levels, 1):
        share = FIRST_LEVEL + (LAST_LEVEL - FIRST_LEVEL) * (number - 1) / len(levels)
        finest_mm = max(spacing_mm, pair.fixed.least_spacing_mm)
        with timer.stage(f"level {number}", share, f"level {number}: {finest_mm:.3g} mm"):
            level = pair.at(spacing_mm)
            field = field.on(level.fixed, interfaces)
            if number == 1:
                problem = Problem.of(config, level, affine_lps, None)
                field = Field(better_start(problem, field.u_mm), level.fixed)
            else:
                problem = Problem.of(config, level, affine_lps, field)
            breaking = Breaking.of(config, level)
            field, record, improved = minimise(problem, field, steps, tolerance, breaking)
            history.append(record)
            # The features and equations of the finest level are most of a run's memory.
            del problem
            # An inverted flap is a few voxels here, and thousands at the finest level.
            field, _ = repair_folds(field, interfaces)
    with timer.stage("boundaries", LAST_LEVEL, "bringing boundaries together"):
        field = correct_boundaries(config, level, affine_lps, field)
    return Solved(field.on(pair.fixed, interfaces), tuple(history), improved)


@dataclass(frozen=True)
class Breaking:
    """How edges give way, and changed tissue is spared.

    Args:
        scale: gradient at which edges do, mm per mm; 0: never.
        changed: difference of the intensities of changed tissue; 0: none is.
    """

    scale: float = 0.0
    changed: float = 0.0

    @property
    def stages(self) -> int:
        """How often weights are found anew in a level."""
        return 3 if self.scale else 2 if self.changed else 1

    @classmethod
    def of(cls, config: Config, level: Pair) -> Breaking:
        """As configured; regions say themselves where tissue slides."""
        alone = level.interfaces.label_count == 1
        is_mse = config.similarity.kind == "mse"
        return cls(
            config.smoothness.break_at if alone else 0.0,
            config.similarity.changed_at if is_mse else 0.0,
        )


def minimise(
    problem: Problem, field: Field, steps: int, tolerance: float, breaking: Breaking = Breaking()
) -> tuple[Field, LevelHistory, bool]:
    """Lower the energy of a level.

    Args:
        problem: the level's energy.
        field: where to start.
        steps: at most so many.
        tolerance: stop when a step removes less than this share of the energy.
        breaking: how edges give way.

    Returns:
        The field, the record of the energy, and whether it is no higher than without displacement.
    """
    whole, state = problem, None
    u_mm, spacing_mm = field.u_mm, field.side.spacing_mm
    spares = breaking.changed > 0
    for part in _parts(steps, breaking):
        if breaking.scale:
            shares = edge_shares(u_mm, spacing_mm, breaking.scale)
            problem = replace(whole, edges=whole.edges * shares)
        if spares:
            own = whole.similarity
            spared = without_changed_tissue(own, u_mm, whole.mapping, spacing_mm, breaking.changed)
            problem = replace(problem, similarity=spared)
            # What does not differ now will differ less when the images lie closer.
            spares = any(new is not old for new, old in zip(spared, own, strict=True))
        state = solve(problem, u_mm, part, tolerance)
        u_mm = state.u_mm
    assert state is not None, "there is at least one part"
    converged = terminated(state, tolerance)
    record = level_history(state, field.side.spacing_mm, problem.voxels, converged)
    still, _ = problem.evaluate(torch.zeros_like(state.u_mm))
    return Field(state.u_mm, field.side), record, state.energy <= sum(still)


def _parts(steps: int, breaking: Breaking) -> list[int]:
    """The steps between two times that the weights of the edges are found."""
    count = breaking.stages
    ends = [steps * k // count for k in range(count + 1)]
    return [last - first for first, last in itertools.pairwise(ends)]
