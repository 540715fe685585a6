"""Exact Euclidean distance maps up to a given reach.

Squared distances are separable::

    d^2(z, y, x) = min_k (z - k)^2 + min_l (y - l)^2 + min_m (x - m)^2        (k, l, m) a seed

So the least is taken over a window along one axis, then along the next. A window as wide as the
reach makes the result exact up to the reach, which is all that a clamped map needs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from iterreg.kernels import nearest_along


def distance_mm(seeds: Tensor, spacing_zyx_mm: tuple[float, ...], reach_mm: float) -> Tensor:
    """Distance of every voxel centre to the centre of the nearest seed, clamped to ``reach_mm``.

    Args:
        seeds: (Z, Y, X) bool.
        spacing_zyx_mm: of the grid.
        reach_mm: voxels farther away get this value.

    Example:
        >>> seeds = torch.tensor([[[True, False, False, False]]])
        >>> distance_mm(seeds, (1.0, 1.0, 2.0), 5.0).flatten().tolist()
        [0.0, 2.0, 4.0, 5.0]
    """
    far = reach_mm * reach_mm
    squared = torch.where(seeds, 0.0, far)
    for axis, spacing in enumerate(spacing_zyx_mm):
        steps = min(int(reach_mm / spacing), squared.shape[axis] - 1)
        if steps > 0:
            squared = nearest_along(squared, axis, (torch.arange(steps + 1) * spacing).square())
    return squared.sqrt()


def signed_distance_mm(
    mask: Tensor, fov: Tensor | None, spacing_zyx_mm: tuple[float, ...], band_mm: float
) -> Tensor:
    """Signed distance to the boundary of a region, negative inside, clamped to +-``band_mm``.

    The boundary lies half a voxel beyond the outermost centres. The edges of the image and of the
    field of view are no boundary: a region that is cut there has none to match.

    Args:
        mask: (Z, Y, X) bool, the region.
        fov: (Z, Y, X) bool, the field of view; None takes all.
        spacing_zyx_mm: of the grid.
        band_mm: clamp.

    Example:
        >>> mask = torch.tensor([[[True, True, False, False]]])
        >>> signed_distance_mm(mask, None, (1.0, 1.0, 1.0), 1.0).flatten().tolist()
        [-1.0, -0.5, 0.5, 1.0]
    """
    half = 0.5 * min(spacing_zyx_mm)
    others = ~mask if fov is None else ~mask & fov
    to_region = distance_mm(mask, spacing_zyx_mm, band_mm + half)
    to_others = distance_mm(others, spacing_zyx_mm, band_mm + half)
    return torch.where(mask, half - to_others, to_region - half).clamp(-band_mm, band_mm)
