"""Exact Euclidean distance maps up to a given reach.

Squared distances are separable: the least over a window along one axis, then the next. A window
as wide as the reach makes the result exact up to the reach, which is all that a clamped map needs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from iterreg.kernels import nearest_along


def distance_mm(seeds: Tensor, spacing_zyx_mm: tuple[float, ...], reach_mm: float) -> Tensor:
    """Distance of every voxel centre to the nearest seed's, clamped to ``reach_mm``.

    Args:
        seeds: (Z, Y, X) bool.
        spacing_zyx_mm: of the grid.
        reach_mm: farther voxels get this value.
    """
    far = reach_mm * reach_mm
    squared = torch.where(seeds, 0.0, far)
    for axis, spacing in enumerate(spacing_zyx_mm):
        steps = min(int(reach_mm / spacing), squared.shape[axis] - 1)
        if steps > 0:
            squared = nearest_along(squared, axis, (torch.arange(steps + 1) * spacing).square())
    return squared.sqrt()


def signed_distance_mm(
    mask: Tensor, known: Tensor | None, spacing_zyx_mm: tuple[float, ...], band_mm: float
) -> Tensor:
    """Signed distance to the boundary of a region, negative inside, clamped to +-``band_mm``.

    The boundary lies half a voxel beyond the outermost centres. The edge of the image, and of
    what is known, is no boundary: a region that is cut there has none to match.

    Args:
        mask: (Z, Y, X) bool, the region.
        known: (Z, Y, X) bool, the field of view; None takes all.
        spacing_zyx_mm: of the grid.
        band_mm: clamp.
    """
    half = 0.5 * min(spacing_zyx_mm)
    others = ~mask if known is None else ~mask & known
    to_region = distance_mm(mask, spacing_zyx_mm, band_mm + half)
    to_others = distance_mm(others, spacing_zyx_mm, band_mm + half)
    return torch.where(mask, half - to_others, to_region - half).clamp(-band_mm, band_mm)
