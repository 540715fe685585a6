"""The regulariser R: squared differences along edges, split by the fixed label map.

::

    E(u) = sum over edges (i, j) of w[a_i, a_j] |u_j - u_i|^2 / spacing^2

An edge joins a voxel to the next one along an axis; a is a voxel's label. An edge weighs 1 inside a
region and w[a, b] across an interface: 1 if it is glued, near 0 if it slides.

Source: SegReg, "Training and Inference": R is the L2 norm of the field's gradient, summed region by
region.
"""

from __future__ import annotations

import torch
from torch import Tensor

from iterreg.neighbourhood import face_pairs

SPECK_VOXELS = 4
"""A voxel with fewer voxels of its own label in the 3 x 3 x 3 around it, itself included, is glued
to its surroundings: a speck has no motion of its own."""


def edge_weights(
    labels: Tensor, tangential: Tensor, spacing_zyx_mm: tuple[float, ...], kind: str = "edges"
) -> Tensor:
    """Weight of each edge over its squared length, 1/mm^2.

    Args:
        labels: (Z, Y, X) compact labels of the partition.
        tangential: (labels, labels) symmetric, w[a, b], 1 on the diagonal.
        spacing_zyx_mm: of the grid.
        kind: ``edges``, or ``region-means`` for the paper's sum of per-region means, in which every
            region weighs the same whatever its size.

    Returns:
        (3, Z, Y, X): the edge to the next voxel along each axis, 0 at the last one.

    Example:
        >>> labels = torch.tensor([[[0, 0, 0, 1, 1, 1]] * 3])
        >>> tangential = torch.tensor([[1.0, 0.25], [0.25, 1.0]])
        >>> edge_weights(labels, tangential, (1.0, 1.0, 2.0))[2, 0, 1].tolist()
        [0.25, 0.25, 0.0625, 0.25, 0.25, 0.0]
    """
    at = labels.long()
    speck = _is_speck(labels)
    size = torch.bincount(at.flatten(), minlength=len(tangential)).to(tangential.dtype)
    share = torch.ones_like(size) if kind == "edges" else labels.numel() / size.clamp(min=1)
    edges = tangential.new_zeros(3, *labels.shape)
    for axis, spacing in enumerate(spacing_zyx_mm):
        n = labels.shape[axis]
        if n == 1:
            continue
        low, high = face_pairs(at, axis)
        weight = tangential[low, high]
        first, second = face_pairs(speck, axis)
        weight = torch.where(first | second, torch.ones_like(weight), weight)
        weight = weight * 0.5 * (share[low] + share[high])
        edges[axis].narrow(axis, 0, n - 1).copy_(weight / spacing**2)
    return edges


def _is_speck(labels: Tensor) -> Tensor:
    """(Z, Y, X) bool, voxels with hardly any neighbour of their own label."""
    same = torch.ones_like(labels, dtype=torch.int8)
    deep = [n > 1 for n in labels.shape]
    reach = [(-1, 0, 1) if d else (0,) for d in deep]
    for dz in reach[0]:
        for dy in reach[1]:
            for dx in reach[2]:
                if (dz, dy, dx) > (0, 0, 0):
                    _count_equal(labels, same, (dz, dy, dx))
    few = SPECK_VOXELS if all(deep) else SPECK_VOXELS // 2 + 1
    return same < few


def _count_equal(labels: Tensor, same: Tensor, offset: tuple[int, int, int]) -> None:
    """Add 1 to both voxels of each pair at ``offset`` that has one label, in place."""
    here, there = [], []
    for n, d in zip(labels.shape, offset, strict=True):
        here.append(slice(max(0, -d), n - max(0, d)))
        there.append(slice(max(0, d), n - max(0, -d)))
    equal = labels[tuple(here)] == labels[tuple(there)]
    same[tuple(here)] += equal
    same[tuple(there)] += equal
