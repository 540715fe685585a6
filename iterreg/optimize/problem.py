"""The energy of one level: its terms put together from the pair and the configuration."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from iterreg.config import Config
from iterreg.energy.interfaces import normal_jump
from iterreg.energy.landmarks import landmark_distance
from iterreg.energy.overlap import Frame, RegionPair, overlap_terms
from iterreg.energy.overlap.far import Labelled, far_terms
from iterreg.energy.overlap.visibility import hidden_boundaries
from iterreg.energy.similarity import similarity_term
from iterreg.energy.similarity.types import ComparedImages
from iterreg.energy.smoothness import edge_weights
from iterreg.energy.terms import NormalEquations, Term, grouped
from iterreg.geometry import Matrix
from iterreg.kernels import IndexMap, NormalJump, Workspace, add_laplacian, add_normal_jump
from iterreg.neighbourhood import dilate
from iterreg.optimize.field import Field
from iterreg.optimize.pair import Pair
from iterreg.optimize.side import Side
from iterreg.to_device import on_device

LARGEST_MOTION_MM = 20.0
"""Largest boundary motion expected within a level. Crops are padded by this; outside a crop the
penalty is its distance to the crop."""

MOVING_AIR_VOXELS = 3
"""Air this close to the body still moves; air farther away keeps what the coarser level gave it."""

EnergyTerms = tuple[float, float, float]
"""Similarity, overlap and smoothness, weighted, per voxel that carries evidence."""


@dataclass(frozen=True)
class Problem:
    """The energy of a level.

    Args:
        similarity, overlap: terms of the energy.
        edges: (3, Z, Y, X), the regulariser's edge weights over squared length, times its weight.
        mapping: from fixed voxels to moving voxels.
        voxels: how many fixed voxels carry evidence: the energy is reported per such voxel.
        active_rows: (Z * Y, 2) int32, the part of each row that may move; the rest keeps its place.
        base: (3, Z, Y, X) mm, what the displacement is a correction of, or None.
        screening: weight of a squared mm of the displacement itself. With edges of weight 1 a
            correction then dies out over a length of ``1 / sqrt(screening)`` mm.
        normal_jump: gap and overlap at interfaces that slide, or None.
    """

    similarity: list[Term]
    overlap: list[Term]
    edges: Tensor
    mapping: IndexMap
    voxels: int
    active_rows: Tensor
    base: Tensor | None = None
    screening: float = 0.0
    normal_jump: NormalJump | None = None
    workspace: Workspace = field(default_factory=Workspace, repr=False)

    @classmethod
    def of(cls, config: Config, level: Pair, affine_lps: Matrix, start: Field | None) -> Problem:
        """The energy of a level, as a function of the displacement.

        Args:
            config: weights and kinds.
            level: the pair at the level's resolution.
            affine_lps: the affine behind the displacement.
            start: the displacement at the level's start, which decides what both images see; None
                if there is no coarser level to trust.
        """
        mapping = level.index_map(affine_lps)
        common_fov = level.common_fov(mapping, None if start is None else start.u_mm)
        common_fov = _with_anatomy(level, common_fov)
        frame = overlap_frame(level, common_fov)
        overlap = overlap_terms(config.overlap, level.guidance.rois, frame)
        overlap += _label_overlap(config, level, level.region_pairs(), common_fov)
        overlap += _far_overlap(config, level, common_fov)
        overlap = grouped(overlap, level.fixed.shape) + _landmarks(config, level, mapping)
        moves = None
        if level.interfaces.empty_background and start is not None:
            moves = dilate(common_fov, MOVING_AIR_VOXELS)
        fixed, interfaces, weight = level.fixed, level.interfaces, config.smoothness.weight
        edges = edge_weights(
            fixed.labels, interfaces.tangential, fixed.spacing_mm, config.smoothness.kind
        )
        return cls(
            _similarity(config, level, common_fov, level.turn(affine_lps)),
            overlap,
            edges * weight,
            mapping,
            max(1, int(common_fov.sum())),
            active_rows(moves, common_fov),
            normal_jump=normal_jump(fixed.labels, interfaces.normal * weight, fixed.spacing_mm),
        )

    @classmethod
    def for_affine(
        cls, config: Config, level: Pair, affine_lps: Matrix | None, middle: float = 1.0
    ) -> Problem:
        """The energy that compares affines: without motion of its own, so without smoothness.

        Regions that the edge of either view cuts are left out, and leaving the moving image costs
        nothing in itself: a truncated view must not be stretched to fill the other one.

        Args:
            config: weights and kinds.
            level: the pair at the resolution of the search.
            affine_lps: evidence is gathered where both images see behind this affine; None: in
                all of the fixed image's field of view.
            middle: share of the fixed image's sides that count, around its middle; 1: all of it.
        """
        if affine_lps is None:
            mapping, common_fov = (
                level.index_map(np.eye(level.fixed.grid.rank + 1)),
                level.fixed.fov,
            )
        else:
            mapping = level.index_map(affine_lps)
            common_fov = level.common_fov(mapping, None)
        common_fov = _with_anatomy(level, common_fov)
        if middle < 1:
            common_fov = common_fov & middle_of(common_fov, middle)
        uncut = level.fixed.uncut_regions & level.moving.uncut_regions
        pairs = {value: pair for value, pair in level.region_pairs().items() if value in uncut}
        frame = overlap_frame(level, common_fov)
        overlap = overlap_terms(config.overlap, level.guidance.rois, frame)
        overlap += _label_overlap(config, level, pairs, common_fov)
        overlap = grouped(overlap, level.fixed.shape)
        return cls(
            [term.without_outside_cost() for term in _similarity(config, level, common_fov)],
            overlap,
            torch.zeros(3, *level.fixed.shape, device=level.fixed.device),
            mapping,
            max(1, int(common_fov.sum())),
            active_rows(None, common_fov),
        )

    def evaluate(self, u_mm: Tensor) -> tuple[EnergyTerms, NormalEquations]:
        """The terms of the energy and the normal equations at a displacement.

        The equations live in the workspace: the next evaluation overwrites them. The solver needs
        them only for the step right after.

        Args:
            u_mm: (3, Z, Y, X).
        """
        equations = NormalEquations(
            self.workspace.zeros("gradient", u_mm), self.workspace.zeros("curvature", u_mm, 6)
        )
        total = u_mm if self.base is None else self.base + u_mm
        similarity = self._accumulated(self.similarity, total, equations)
        overlap = self._accumulated(self.overlap, total, equations)
        smoothness = add_laplacian(u_mm, self.edges, equations.gradient)
        if self.normal_jump is not None:
            smoothness = smoothness + add_normal_jump(u_mm, self.normal_jump, equations.gradient)
        if self.screening:
            equations.gradient.add_(u_mm, alpha=self.screening)
            for entry in (0, 3, 5):
                equations.curvature[entry] += self.screening
            smoothness = smoothness + self.screening * u_mm.square().sum(dtype=torch.float64)
        # One transfer from the device per evaluation: all three terms at once.
        terms = torch.stack((similarity, overlap, smoothness)) / self.voxels
        first, second, third = terms.tolist()
        return (first, second, third), equations

    def _accumulated(self, terms: list[Term], u_mm: Tensor, into: NormalEquations) -> Tensor:
        parts = [term.accumulate(u_mm, self.mapping, into) for term in terms]
        if not parts:
            return torch.zeros((), dtype=torch.float64, device=u_mm.device)
        return sum(parts[1:], parts[0].double())


def overlap_frame(level: Pair, common_fov: Tensor) -> Frame:
    """The grids and fields of view that the overlap of every region pair shares."""
    fixed, moving = level.fixed, level.moving
    return Frame(
        fixed.spacing_mm, moving.spacing_mm, fixed.fov, moving.fov, common_fov, LARGEST_MOTION_MM
    )


def visible_boundaries(where: str, fixed: Side, label_count: int) -> Tensor:
    """(Z, Y, X) bool: voxels whose boundaries are matched.

    Args:
        where: ``everywhere``, or ``visible`` for the boundaries that the image shows.
        fixed: the fixed side.
        label_count: how many labels there are, background included.
    """
    if where == "everywhere":
        return torch.ones_like(fixed.fov)
    key = "visible boundaries", label_count
    if key not in fixed.kept:
        hidden = hidden_boundaries(fixed.image, fixed.labels, label_count, fixed.spacing_mm)
        fixed.kept[key] = ~hidden
    return fixed.kept[key]


def active_rows(moves: Tensor | None, like: Tensor) -> Tensor:
    """(Z * Y, 2) int32: first and one past the last voxel that moves in each row.

    Args:
        moves: (Z, Y, X) bool; None: all voxels move.
        like: a tensor (Z, Y, X) on the device.
    """
    nz, ny, nx = like.shape
    rows = on_device([0, nx], like.device, torch.int32).repeat(nz * ny, 1)
    if moves is not None:
        marks = moves.view(nz * ny, nx).byte()
        some = marks.bool().any(1)
        rows[:, 0] = torch.where(some, marks.argmax(1), 0)
        rows[:, 1] = torch.where(some, nx - marks.flip(1).argmax(1), 0)
    return rows


def _with_anatomy(level: Pair, common_fov: Tensor) -> Tensor:
    """The common field of view without air, where the background is known to be air."""
    if not level.interfaces.empty_background:
        return common_fov
    return common_fov & dilate(level.fixed.labels > 0, 1)


def middle_of(volume: Tensor, share: float) -> Tensor:
    """(Z, Y, X) bool: the ellipsoid around the middle of a volume.

    Args:
        volume: (Z, Y, X), for its shape and device.
        share: of each side.
    """
    squared = torch.zeros(volume.shape, device=volume.device)
    for axis, n in enumerate(volume.shape):
        across = torch.arange(n, device=volume.device) * 2 - (n - 1)
        squared += (across / n).square().view([-1 if a == axis else 1 for a in range(3)])
    return squared <= share**2


def _similarity(
    config: Config, level: Pair, common_fov: Tensor, turn: Matrix | None = None
) -> list[Term]:
    fixed, moving = level.fixed, level.moving
    images = ComparedImages(
        fixed.image,
        moving.image,
        fixed.spacing_mm,
        moving.spacing_mm,
        common_fov,
        fixed.features,
        moving.features,
        (fixed.kept, moving.kept),
        turn,
    )
    return [similarity_term(one, images) for one in config.similarities if one.weight]


def _label_overlap(
    config: Config, level: Pair, pairs: dict[int, RegionPair], common_fov: Tensor
) -> list[Term]:
    """The overlap of the label maps' own regions, where their boundaries count."""
    if not level.guidance.by_labels:
        return []
    visible = visible_boundaries(config.overlap.where, level.fixed, level.interfaces.label_count)
    frame = overlap_frame(level, common_fov & visible)
    return overlap_terms(config.overlap, list(pairs.values()), frame)


def _far_overlap(config: Config, level: Pair, common_fov: Tensor) -> list[Term]:
    """The overlap of the label maps away from their boundaries."""
    if not level.guidance.by_labels or level.interfaces.label_count == 1:
        return []
    fixed, moving = (Labelled(side.labels, side.boxes) for side in (level.fixed, level.moving))
    return far_terms(config.overlap, fixed, moving, overlap_frame(level, common_fov))


def _landmarks(config: Config, level: Pair, mapping: IndexMap) -> list[Term]:
    indices = level.landmark_indices()
    if indices is None or not config.landmarks.weight:
        return []
    fixed = level.fixed
    return [landmark_distance(config.landmarks, *indices, fixed.labels, mapping, fixed.spacing_mm)]
