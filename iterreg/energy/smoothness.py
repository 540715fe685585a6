"""The regulariser R: squared differences along edges, split by the fixed label map.

Source: SegReg, "Training and Inference": R is the L2 norm of the field's gradient summed region by
region. An edge weighs 1 inside a region, and w[a, b] across an interface: 1 where it is glued,
near 0 where it slides.
"""

from __future__ import annotations

import torch
from torch import Tensor

FEW_NEIGHBOURS = 4
"""A voxel with fewer voxels of its own label around it (3 x 3 x 3, itself included) is glued to its
surroundings: a speck has no motion of its own."""


def edge_weights(
    labels: Tensor, interfaces: Tensor, spacing_zyx_mm: tuple[float, ...], kind: str = "edges"
) -> Tensor:
    """Weight of each edge over its squared length, 1/mm^2.

    Args:
        labels: (Z, Y, X) compact labels of the partition.
        interfaces: (labels, labels) symmetric, w[a, b], 1 on the diagonal.
        spacing_zyx_mm: of the grid.
        kind: ``edges``, or ``region-means`` for the paper's sum of per-region means, where every
            region weighs the same whatever its size.

    Returns:
        (3, Z, Y, X): the edge to the next voxel along each axis, 0 at the end.
    """
    at = labels.long()
    glued = _is_speck(labels)
    size = torch.bincount(at.flatten(), minlength=len(interfaces)).to(interfaces.dtype)
    share = torch.ones_like(size) if kind == "edges" else labels.numel() / size.clamp(min=1)
    edges = interfaces.new_zeros(3, *labels.shape)
    for axis, spacing in enumerate(spacing_zyx_mm):
        n = labels.shape[axis]
        if n == 1:
            continue
        low, high = at.narrow(axis, 0, n - 1), at.narrow(axis, 1, n - 1)
        weight = interfaces[low, high]
        speck = glued.narrow(axis, 0, n - 1) | glued.narrow(axis, 1, n - 1)
        weight = torch.where(speck, torch.ones_like(weight), weight)
        weight = weight * 0.5 * (share[low] + share[high])
        edges[axis].narrow(axis, 0, n - 1).copy_(weight / spacing**2)
    return edges


def _is_speck(labels: Tensor) -> Tensor:
    """(Z, Y, X) bool, voxels with hardly a neighbour of their own label."""
    same = torch.ones_like(labels, dtype=torch.int8)
    deep = [n > 1 for n in labels.shape]
    reach = [(-1, 0, 1) if d else (0,) for d in deep]
    for dz in reach[0]:
        for dy in reach[1]:
            for dx in reach[2]:
                if (dz, dy, dx) > (0, 0, 0):
                    _count_equal(labels, same, (dz, dy, dx))
    few = FEW_NEIGHBOURS if all(deep) else FEW_NEIGHBOURS // 2 + 1
    return same < few


def _count_equal(labels: Tensor, same: Tensor, offset: tuple[int, int, int]) -> None:
    """Count voxels whose neighbour at ``offset`` has their label, at both ends."""
    here, there = [], []
    for n, d in zip(labels.shape, offset, strict=True):
        here.append(slice(max(0, -d), n - max(0, d)))
        there.append(slice(max(0, d), n - max(0, -d)))
    equal = labels[tuple(here)] == labels[tuple(there)]
    same[tuple(here)] += equal
    same[tuple(there)] += equal
