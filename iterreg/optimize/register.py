"""The algorithm on tensors alone: start, pyramid, rigid regions, repair."""

from __future__ import annotations

from dataclasses import dataclass

from iterreg.config import Config
from iterreg.displacement import Transform
from iterreg.geometry import Matrix
from iterreg.optimize.field import Field
from iterreg.optimize.history import LevelHistory
from iterreg.optimize.levels import coarse_to_fine
from iterreg.optimize.pair import Pair
from iterreg.optimize.partners import Mismatch
from iterreg.optimize.repair import repair_border, repair_folds
from iterreg.optimize.rigid import hold_rigid, rigid_bodies
from iterreg.optimize.start import find_start
from iterreg.optimize.volumes import preserve_volumes
from iterreg.progress import StageTimer

VOLUME_ROUNDS = 2
"""Repairing folds may change a volume that must not change, so both are done again."""


@dataclass(frozen=True)
class Solution:
    """The result of the algorithm.

    Args:
        affine_lps: homogeneous, fixed to moving, LPS mm; it follows the field.
        field: the residual displacement at full resolution.
        start: where the affine came from, in words.
        history: of each level, coarse to fine.
        improved: whether the finest level's energy is no higher than without any displacement.
        folds: voxels that still fold inside regions or between glued ones.
        pair: at full resolution, without the regions that cannot correspond.
        mismatches: those regions.
    """

    affine_lps: Matrix
    field: Field
    start: str
    history: tuple[LevelHistory, ...]
    improved: bool
    folds: int
    pair: Pair
    mismatches: tuple[Mismatch, ...] = ()


def register(
    pair: Pair, config: Config, initial: Transform | None = None, timer: StageTimer | None = None
) -> Solution:
    """Register a pair of tensors.

    Args:
        pair: both sides at full resolution.
        config: resolved: see :meth:`iterreg.Config.resolve`.
        initial: the user's transform, its field on the fixed grid; None for the identity.
        timer: announces and times each stage.

    Example:
        >>> import torch
        >>> from iterreg.config import load_config
        >>> from iterreg.geometry import Grid
        >>> from iterreg.optimize.pair import Interfaces
        >>> from iterreg.optimize.side import Side
        >>> axes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
        >>> grid = Grid((16, 16, 16), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), axes)
        >>> labels, fov = torch.zeros(16, 16, 16).int(), torch.ones(16, 16, 16).bool()
        >>> ball = (torch.cartesian_prod(*[torch.arange(16.0)] * 3) - 7.5).norm(dim=1) < 5
        >>> side = Side(ball.view(1, 16, 16, 16).float(), labels, fov, grid)
        >>> solution = register(Pair(side, side, Interfaces.glued(1)), load_config("general"))
        >>> bool(solution.field.u_mm.abs().max() < 0.1), solution.folds
        (True, 0)
    """
    timer = timer or StageTimer()
    with timer.stage("start", 0.2, "looking for the start"):
        start = find_start(pair, config, initial)
    pair = start.pair
    solved = coarse_to_fine(pair, config, start, timer)
    with timer.stage("finish", 0.95, "finishing"):
        field, folds = _finish(solved.field, pair, start.affine_lps)
    return Solution(
        start.affine_lps,
        field,
        start.how,
        solved.history,
        solved.improved,
        folds,
        pair,
        start.mismatches,
    )


def _finish(field: Field, pair: Pair, affine_lps: Matrix) -> tuple[Field, int]:
    """Put rigid regions in place, give volumes back, repair folds, and count those left."""
    still = None
    if pair.rigid:
        bodies = rigid_bodies(field, affine_lps, pair.rigid)
        field, still = hold_rigid(field, bodies, pair.interfaces), bodies.mask(pair.fixed.shape)
    field, folds = repair_folds(field, pair.interfaces, still)
    for _ in range(VOLUME_ROUNDS if pair.preserved else 0):
        field = preserve_volumes(field, pair, affine_lps, still)
        field, folds = repair_folds(field, pair.interfaces, still)
    return (field, folds) if folds else repair_border(field, pair.interfaces, affine_lps, still)
