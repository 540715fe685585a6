"""The energy of one level, put together from the scenes and the configuration."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from iterreg.config import Config, Overlap
from iterreg.energy.interfaces import contact
from iterreg.energy.landmarks import landmark_distance
from iterreg.energy.overlap import Frame, RegionPair, is_thick, overlap_terms, unseen_boundaries
from iterreg.energy.similarity import similarity_term
from iterreg.energy.smoothness import edge_weights
from iterreg.energy.terms import SquaredDifference
from iterreg.geometry import Matrix, Points, apply_affine
from iterreg.kernels import IndexMap
from iterreg.optimize.pyramid import Scene, index_map, whole_regions
from iterreg.optimize.solver import Problem, solve

MARGIN_MM = 20.0
"""Largest motion expected of a boundary within one level; beyond it the distance to its crop
counts."""

STILL_BEYOND_VOXELS = 3
"""Air this far from the body keeps what the coarser level gave it."""


@dataclass(frozen=True)
class Guidance:
    """What drives the overlap beside the labels.

    Args:
        rois: pairs of regions at the level's resolution; they may overlap.
        by_labels: whether the labels' own regions are matched too.
        landmarks: fixed and moving points, or None.
    """

    rois: tuple[RegionPair, ...] = ()
    by_labels: bool = True
    landmarks: tuple[Points, Points] | None = None


def build_problem(
    config: Config,
    fixed: Scene,
    moving: Scene,
    affine_lps: Matrix | None,
    u_mm: Tensor | None,
    interfaces: Tensor,
    contacts: Tensor,
    empty_background: bool,
    for_start: bool = False,
    guidance: Guidance | None = None,
) -> Problem:
    """The energy of a level.

    Args:
        config: weights and kinds.
        fixed, moving: the scenes at the level's resolution.
        affine_lps: the start; None before there is one: all that the fixed image shows counts.
        u_mm: (3, Z, Y, X), the displacement at the level's start, or None for zero.
        interfaces: (labels, labels), w[a, b].
        contacts: (labels, labels), what gap and overlap weigh beside that.
        empty_background: whether label 0 is known to hold no anatomy, so that it counts for
            nothing (air around the body).
        for_start: the energy compares affines: regions that an edge of either view cuts are left
            out, and leaving the view costs nothing of its own.
        guidance: landmarks, and ROI pairs beside or instead of the labels' regions.
    """
    still = np.eye(fixed.grid.rank + 1)
    mapping = index_map(fixed, moving, still if affine_lps is None else affine_lps)
    gate = fixed.known if affine_lps is None else _gate(fixed, moving, mapping, u_mm)
    if empty_background:
        gate = gate & _grown(fixed.labels > 0, 1)
    similarity = []
    if config.similarity.weight:
        spacings = (fixed.spacing_mm, moving.spacing_mm)
        similarity.append(
            similarity_term(config.similarity, fixed.image, moving.image, *spacings, gate)
        )
    pairs = _region_pairs(fixed, moving)
    if for_start:
        similarity = [
            replace(t, pull=0.0) if isinstance(t, SquaredDifference) else t for t in similarity
        ]
        whole = set(whole_regions(fixed)) & set(whole_regions(moving))
        pairs = {value: pair for value, pair in pairs.items() if value in whole}
    guidance = guidance or Guidance()
    frame = _frame(fixed, moving, gate)
    overlap = overlap_terms(config.overlap, guidance.rois, frame)
    if guidance.by_labels:
        shown = _shown(config.overlap.where, fixed, len(interfaces))
        frame = replace(frame, gate=gate & shown)
        overlap += overlap_terms(config.overlap, list(pairs.values()), frame)
    if guidance.landmarks is not None and config.landmarks.weight and not for_start:
        ours, theirs = _landmark_indices(guidance.landmarks, fixed, moving)
        weight, radius_mm = config.landmarks.weight, config.landmarks.radius_mm
        overlap.append(
            landmark_distance(
                ours, theirs, fixed.labels, mapping, fixed.spacing_mm, weight, radius_mm
            )
        )
    edges = edge_weights(fixed.labels, interfaces, fixed.spacing_mm, config.smoothness.kind)
    moves = _grown(gate, STILL_BEYOND_VOXELS) if empty_background and u_mm is not None else None
    return Problem(
        similarity,
        overlap,
        edges * config.smoothness.weight,
        mapping,
        max(1, int(gate.sum())),
        row_spans(moves, gate),
        contact=contact(fixed.labels, contacts * config.smoothness.weight, fixed.spacing_mm),
    )


CORRECTION_STEPS = 5
CORRECTION_BAND_VOXELS = 1.5
"""Boundaries are nearly together by then; a narrow band leaves the interior alone."""

CORRECTION_LENGTHS = 3.0

COPIES = 6
"""Within a thick slice the distances are constant, but for a sixth of it at the next slice."""


def correct_boundaries(
    config: Config, fixed: Scene, moving: Scene, mapping: IndexMap, u_mm: Tensor, interfaces: Tensor
) -> Tensor:
    """Bring the boundaries of the regions together by a correction that dies out away from them.

    Args:
        config: how strictly, over what length, and where.
        fixed, moving: the scenes of the finest level.
        mapping: from fixed to moving voxels.
        u_mm: (3, Z, Y, X), the level's result.
        interfaces: (labels, labels), w[a, b].

    Returns:
        The corrected displacement.
    """
    correction = config.correction
    if correction.weight == 0 or len(interfaces) == 1:
        return u_mm
    gate = _gate(fixed, moving, mapping, u_mm)
    shown = _shown(correction.where, fixed, len(interfaces))
    frame = _frame(fixed, moving, gate & shown)
    pairs = list(_region_pairs(fixed, moving).values())
    thin = _thinnest(fixed)
    band_mm = CORRECTION_BAND_VOXELS * thin
    match = Overlap("boundary", correction.weight * band_mm**2, band_mm)
    terms = overlap_terms(match, pairs, frame)
    copies = [COPIES if t else 1 for t in is_thick(moving.spacing_mm, moving.shape)]
    bands = [t.stepped(copies) for t in terms if isinstance(t, SquaredDifference)]
    # No label is more precise than its voxels.
    trust_mm = max(correction.trust_mm, thin)
    bands = [t.trusting(u_mm, mapping, trust_mm) for t in bands]
    edges = edge_weights(fixed.labels, interfaces, fixed.spacing_mm)
    # The correction dies out within a few of its lengths, so that is all that has to move.
    reach = round(CORRECTION_LENGTHS * correction.length_mm / thin)
    sampled = torch.zeros_like(gate)
    for term in bands:
        sampled[term.voxels.long().unbind(1)] = True
    spans = row_spans(_grown(sampled, reach), gate)
    screening = 1 / correction.length_mm**2
    voxels = max(1, int(gate.sum()))
    problem = Problem([], [*bands], edges, mapping, voxels, spans, u_mm, screening)
    change, _, _ = solve(problem, torch.zeros_like(u_mm), CORRECTION_STEPS, 1e-2)
    return u_mm + change


def _region_pairs(fixed: Scene, moving: Scene) -> dict[int, RegionPair]:
    """The regions that both scenes hold, by label."""
    ours, theirs = fixed.regions(), moving.regions()
    return {v: RegionPair(ours[v], theirs[v]) for v in sorted(ours) if v in theirs}


def _thinnest(scene: Scene) -> float:
    """The least spacing of an axis that has one, mm."""
    return min(s for s, n in zip(scene.spacing_mm, scene.shape, strict=True) if n > 1)


def _frame(fixed: Scene, moving: Scene, gate: Tensor) -> Frame:
    """What the overlap of every pair shares."""
    return Frame(fixed.spacing_mm, moving.spacing_mm, fixed.known, moving.known, gate, MARGIN_MM)


def _shown(where: str, fixed: Scene, label_count: int) -> Tensor:
    """Voxels whose boundaries are to be matched."""
    if where == "everywhere":
        return torch.ones_like(fixed.known)
    return ~unseen_boundaries(fixed.image, fixed.labels, label_count, fixed.spacing_mm)


def _landmark_indices(
    landmarks: tuple[Points, Points], fixed: Scene, moving: Scene
) -> tuple[Tensor, Tensor]:
    """Voxel indices (3, N) of both sets of points on the level's grids."""
    indices = []
    for points, scene in zip(landmarks, (fixed, moving), strict=True):
        index = torch.from_numpy(apply_affine(scene.grid.lps_to_index, points.lps).T)
        flat = index.new_zeros(3 - scene.grid.rank, index.shape[1])
        indices.append(torch.cat((flat, index)).float().to(scene.labels.device))
    return indices[0], indices[1]


def _gate(fixed: Scene, moving: Scene, mapping: IndexMap, u_mm: Tensor | None) -> Tensor:
    """Fixed voxels in the field of view whose place in the moving image is in its view too."""
    where = fixed.known.nonzero().T
    u = where.new_zeros(3, 1).float() if u_mm is None else u_mm[:, where[0], where[1], where[2]]
    q = mapping.apply(where.float(), u).round().long()
    last = torch.tensor(moving.shape, device=q.device).unsqueeze(1) - 1
    inside = ((q >= 0) & (q <= last)).all(0)
    q = torch.minimum(q.clamp(min=0), last)
    gate = torch.zeros_like(fixed.known)
    gate[where[0], where[1], where[2]] = inside & moving.known[q[0], q[1], q[2]]
    return gate


def row_spans(moves: Tensor | None, like: Tensor) -> Tensor:
    """(Z * Y, 2) int32: first and one past the last voxel that moves in each row; None: all do."""
    nz, ny, nx = like.shape
    spans = torch.tensor([0, nx], dtype=torch.int32, device=like.device).repeat(nz * ny, 1)
    if moves is not None:
        rows = moves.view(nz * ny, nx).byte()
        some = rows.bool().any(1)
        spans[:, 0] = torch.where(some, rows.argmax(1), 0)
        spans[:, 1] = torch.where(some, nx - rows.flip(1).argmax(1), 0)
    return spans


def _grown(mask: Tensor, reach: int) -> Tensor:
    """The mask and ``reach`` voxels around it."""
    for axis, n in enumerate(mask.shape):
        grown = mask.clone()
        for k in range(1, min(reach, n - 1) + 1):
            grown.narrow(axis, k, n - k).logical_or_(mask.narrow(axis, 0, n - k))
            grown.narrow(axis, 0, n - k).logical_or_(mask.narrow(axis, k, n - k))
        mask = grown
    return mask
