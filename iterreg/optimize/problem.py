"""The energy of one level, put together from the scenes and the configuration."""

from __future__ import annotations

import torch
from torch import Tensor

from iterreg.config import Config
from iterreg.energy.overlap import Frame, RegionPair, overlap_terms
from iterreg.energy.similarity import similarity_term
from iterreg.energy.smoothness import edge_weights
from iterreg.geometry import Matrix
from iterreg.kernels import IndexMap
from iterreg.optimize.pyramid import Scene, index_map
from iterreg.optimize.solver import Problem

MARGIN_MM = 20.0
"""Largest motion expected of a boundary within one level; beyond it the distance to the crop counts."""


def build_problem(
    config: Config,
    fixed: Scene,
    moving: Scene,
    affine_lps: Matrix,
    u_mm: Tensor | None,
    interfaces: Tensor,
    empty_background: bool,
    gate_by_moving: bool = True,
) -> Problem:
    """The energy of a level.

    Args:
        config: weights and kinds.
        fixed, moving: the scenes at the level's resolution.
        affine_lps: the start.
        u_mm: (3, Z, Y, X), the displacement at the level's start, or None for zero.
        interfaces: (labels, labels), w[a, b].
        empty_background: whether label 0 is known to hold no anatomy, so that it counts for
            nothing (air around the body).
        gate_by_moving: leave out fixed voxels that land outside the moving view. Not so while
            affines are compared: all must pay for the same voxels.
    """
    mapping = index_map(fixed, moving, affine_lps)
    gate = _gate(fixed, moving, mapping, u_mm) if gate_by_moving else fixed.known
    if empty_background:
        gate = gate & _near(fixed.labels > 0)
    term = similarity_term(
        config.similarity, fixed.image, moving.image, fixed.spacing_mm, moving.spacing_mm, gate
    )
    frame = Frame(
        fixed.spacing_mm, moving.spacing_mm, fixed.known, moving.known, gate, MARGIN_MM
    )
    regions = range(1, len(interfaces))
    pairs = [RegionPair(fixed.labels == v, moving.labels == v) for v in regions]
    overlap = overlap_terms(config.overlap, pairs, frame)
    edges = edge_weights(fixed.labels, interfaces, fixed.spacing_mm, config.smoothness.kind)
    similarity = [term] if config.similarity.weight else []
    return Problem(
        similarity, overlap, edges * config.smoothness.weight, mapping, max(1, int(gate.sum()))
    )


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


def _near(mask: Tensor) -> Tensor:
    """The mask and one voxel around it."""
    pooled = torch.nn.functional.max_pool3d(mask.float().unsqueeze(0), 3, 1, 1)
    return pooled.squeeze(0) > 0
