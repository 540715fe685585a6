"""Sampling volumes at voxel indices. This is the only module that calls ``grid_sample``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from iterreg.errors import GeometryError
from iterreg.to_device import on_device

CHUNK = 1 << 16
"""Places sampled at once on a CPU. Temporaries of a whole volume take four times as long."""


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
    flat, values = index.reshape(labels.ndim, -1), labels.flatten()
    out = labels.new_empty(flat.shape[1])
    for chunk in _chunks(flat):
        part = flat[:, chunk]
        place = torch.zeros(part.shape[1], dtype=torch.int64, device=part.device)
        for along, size in zip(part, labels.shape, strict=True):
            nearest = (along + 0.5).floor_().clamp_(0, size - 1)
            place.mul_(size).add_(nearest.nan_to_num_(0).long())
        inside = _is_inside(part, labels.shape)
        out[chunk] = values.index_select(0, place).masked_fill_(~inside, 0)
    return out.view(index.shape[1:])


def is_inside(index: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Return which voxel indices lie in an array, up to half a voxel past its outer centres.

    Args:
        index: (rank, ...), components in array order.
        shape: the array's shape.
    """
    flat = index.reshape(len(shape), -1)
    out = torch.empty(flat.shape[1], dtype=torch.bool, device=flat.device)
    for chunk in _chunks(flat):
        out[chunk] = _is_inside(flat[:, chunk], shape)
    return out.view(index.shape[1:])


def _is_inside(flat: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    inside = torch.ones(flat.shape[1], dtype=torch.bool, device=flat.device)
    for along, size in zip(flat, shape, strict=True):
        inside &= (along >= -0.5) & (along <= size - 0.5)
    return inside


def _chunks(flat: torch.Tensor) -> Iterator[slice]:
    """Slices of the columns, few enough for the temporaries to stay in a CPU's cache."""
    step = CHUNK if flat.device.type == "cpu" else flat.shape[1]
    return (slice(first, first + step) for first in range(0, flat.shape[1], max(1, step)))
