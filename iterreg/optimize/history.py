"""How the energy of a level went down."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LevelHistory:
    """The energy of one pyramid level, step by step.

    Args:
        spacing_zyx_mm: of the level's grid.
        voxels: nodes of the level's grid.
        similarity, overlap, smoothness: weighted energy terms per voxel, before the first step and
            after every accepted one.
        converged: whether the last step hardly lowered the energy; otherwise the steps ran out.
    """

    spacing_zyx_mm: tuple[float, ...]
    voxels: int
    similarity: tuple[float, ...]
    overlap: tuple[float, ...]
    smoothness: tuple[float, ...]
    converged: bool
