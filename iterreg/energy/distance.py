"""Exact Euclidean distance maps up to a given reach.

Squared distances are separable::

    d^2(z, y, x) = min_k (z - k)^2 + min_l (y - l)^2 + min_m (x - m)^2        (k, l, m) a seed

So the least is taken over a window along one axis, then along the next. A window as wide as the
reach makes the result exact up to the reach, which is all that a clamped map needs.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    shapes = [tuple(seeds.shape)]
    return _distances_mm(seeds.flatten(), shapes, spacing_zyx_mm, reach_mm).view(seeds.shape)


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
    views = None if fov is None else [fov]
    return signed_distances_mm([mask], views, spacing_zyx_mm, band_mm)[0]


def signed_distances_mm(
    masks: Sequence[Tensor],
    fovs: Sequence[Tensor] | None,
    spacing_zyx_mm: tuple[float, ...],
    band_mm: float,
) -> list[Tensor]:
    """The signed distances of many masks, each alone in its own box, as one list.

    Args:
        masks: each (z, y, x) bool.
        fovs: as many, the field of view in each box; None takes all.
        spacing_zyx_mm: of all grids.
        band_mm: clamp.
    """
    shapes = [tuple(mask.shape) for mask in masks]
    inside = torch.cat([mask.flatten() for mask in masks])
    others = ~inside if fovs is None else ~inside & torch.cat([fov.flatten() for fov in fovs])
    half = 0.5 * min(spacing_zyx_mm)
    seeds = torch.cat((inside, others))
    apart_mm = _distances_mm(seeds, shapes * 2, spacing_zyx_mm, band_mm + half)
    to_region, to_others = apart_mm.split(len(inside))
    signed = torch.where(inside, half - to_others, to_region - half).clamp(-band_mm, band_mm)
    parts = signed.split([mask.numel() for mask in masks])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def _distances_mm(
    seeds: Tensor,
    shapes: Sequence[tuple[int, ...]],
    spacing_zyx_mm: tuple[float, ...],
    reach_mm: float,
) -> Tensor:
    """(S,), the distance to the nearest seed of the same box, for boxes that follow each other."""
    squared = torch.where(seeds, 0.0, reach_mm * reach_mm)
    for axis, spacing in enumerate(spacing_zyx_mm):
        steps = min(int(reach_mm / spacing), max(shape[axis] for shape in shapes) - 1)
        if steps > 0:
            costs = (torch.arange(steps + 1) * spacing).square()
            squared = nearest_along(squared, shapes, axis, costs)
    return squared.sqrt()
