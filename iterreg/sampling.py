"""Sampling volumes at voxel indices. This is the only module that calls ``grid_sample``."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from iterreg.errors import GeometryError
from iterreg.to_device import on_device


def sample(volume: torch.Tensor, index: torch.Tensor, outside: float | None = None) -> torch.Tensor:
    """Sample a volume with linear interpolation.

    Args:
        volume: (C, *shape) float.
        index: (rank, ...) voxel indices, components in array order.
        outside: value more than half a voxel outside; None repeats the border.

    Returns:
        (C, ...) of the volume's type.
    """
    rank = volume.ndim - 1
    if index.shape[0] != rank:
        raise GeometryError(f"sample: expected {rank} index components, got {index.shape[0]}")
    flat = index.reshape(rank, -1)
    size = on_device(volume.shape[1:], flat.device, flat.dtype).unsqueeze(1)
    unit = torch.where(size > 1, flat * (2 / (size - 1).clamp(min=1)) - 1, torch.zeros_like(flat))
    lattice = unit.flip(0).T.reshape(1, *[1] * (rank - 1), -1, rank).to(volume.dtype)
    values = torch.nn.functional.grid_sample(
        volume.unsqueeze(0), lattice, padding_mode="border", align_corners=True
    ).reshape(volume.shape[0], -1)
    if outside is not None:
        values = torch.where(is_inside(flat, volume.shape[1:]), values, outside)
    return values.reshape(volume.shape[0], *index.shape[1:])


def sample_nearest(labels: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Sample the nearest voxel; 0 (False) more than half a voxel outside.

    Args:
        labels: (*shape), any type.
        index: (rank, ...) voxel indices, components in array order.
    """
    size = on_device(labels.shape, index.device, index.dtype).view(-1, *[1] * (index.ndim - 1))
    inside = is_inside(index, labels.shape)
    nearest = torch.minimum((index + 0.5).floor().clamp(min=0), size - 1).long()
    values = labels[tuple(nearest)]
    return torch.where(inside, values, torch.zeros_like(values))


def is_inside(index: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Return which voxel indices lie in an array, up to half a voxel past its outer centres.

    Args:
        index: (rank, ...), components in array order.
        shape: the array's shape.
    """
    size = on_device(shape, index.device, index.dtype).view(-1, *[1] * (index.ndim - 1))
    return ((index >= -0.5) & (index <= size - 0.5)).all(0)
