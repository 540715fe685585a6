"""Samples of the fixed image: alone, and of many terms as one list."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from iterreg.kernels.types import IndexMap
from iterreg.to_device import on_device

Made = TypeVar("Made")


@dataclass(frozen=True)
class Samples:
    """Fixed voxels whose features are compared with those of the moving image.

    Args:
        fixed: (N, C) features of the samples.
        moving: (Z', Y', X', C) features of the moving image, or of a crop of it.
        voxels: (N, 3) int32, the fixed voxel of each sample, none twice.
        weights: (N,), not negative.
        outside_weight: energy per squared voxel outside ``moving``, for weight 1.
        corner: (z, y, x), moving index of the crop's first voxel.
        repeats: (z, y, x), how often each voxel of the crop is repeated in ``moving``.
    """

    fixed: Tensor
    moving: Tensor
    voxels: Tensor
    weights: Tensor
    outside_weight: float
    corner: tuple[float, ...] = (0.0, 0.0, 0.0)
    repeats: tuple[int, ...] = (1, 1, 1)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.fixed.device

    def own_map(self, mapping: IndexMap) -> IndexMap:
        """The same map, to indices of ``moving``."""
        if not any(self.corner) and all(times == 1 for times in self.repeats):
            return mapping
        shift = mapping.shift - on_device(self.corner, self.device, mapping.shift.dtype)
        times = on_device(self.repeats, self.device, shift.dtype)
        shift = shift * times + (times - 1) / 2
        rows = times.unsqueeze(1)
        return IndexMap(mapping.linear * rows, shift, mapping.from_mm * rows)


@dataclass(frozen=True)
class SampleGroup:
    """Samples of many terms, each of one channel and with its own crop of the moving image.

    Args:
        parts: the terms' samples; a voxel may be sampled by several of them.
        shape: (Z, Y, X) of the fixed grid.
    """

    parts: tuple[Samples, ...]
    shape: tuple[int, ...]

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.parts[0].device

    def own_maps(self, mapping: IndexMap) -> list[IndexMap]:
        """Each part's own map. It is kept: a level asks for the same one again and again."""
        return _kept(self, mapping, lambda: [part.own_map(mapping) for part in self.parts])

    @cached_property
    def joined(self) -> JoinedSamples:
        """All samples as one list, voxel by voxel."""
        return JoinedSamples.of(self)


@dataclass(frozen=True)
class JoinedSamples:
    """The samples of a group as one list, those of a voxel one after another.

    Args:
        voxels: (V,) int64, flat indices of the voxels that are sampled, ascending.
        starts: (V + 1,) int32, where each voxel's samples begin in the list.
        terms: (N,) int32, the term of each sample.
        fixed, weights: (N,).
        moving: the moving values of all terms, one after another.
        places: (T,) int64, where each term's values begin.
        sizes: (T, 3) int32, of each term's values.
        outside_weights: (T,).
        corners, repeats: (T, 3) float, see :class:`Samples`.
        order: (N,) int64, the place of each sample if the terms' own lists are joined.
    """

    voxels: Tensor
    starts: Tensor
    terms: Tensor
    fixed: Tensor
    weights: Tensor
    moving: Tensor
    places: Tensor
    sizes: Tensor
    outside_weights: Tensor
    corners: Tensor
    repeats: Tensor
    order: Tensor

    @classmethod
    def of(cls, group: SampleGroup) -> JoinedSamples:
        """Join the samples of a group."""
        parts, (_, ny, nx) = group.parts, group.shape
        device = group.device
        at = torch.cat([part.voxels for part in parts]).long()
        flat, order = ((at[:, 0] * ny + at[:, 1]) * nx + at[:, 2]).sort(stable=True)
        voxels, counts = torch.unique_consecutive(flat, return_counts=True)
        terms = torch.arange(len(parts), dtype=torch.int32, device=device)
        sampled = on_device([len(part.voxels) for part in parts], device, torch.int64)
        terms = terms.repeat_interleave(sampled, output_size=len(order))
        lengths = [0, *(part.moving.numel() for part in parts[:-1])]
        return cls(
            voxels,
            torch.cat((counts.new_zeros(1), counts.cumsum(0))).int(),
            terms[order],
            torch.cat([part.fixed.flatten() for part in parts])[order],
            torch.cat([part.weights for part in parts])[order],
            torch.cat([part.moving.flatten() for part in parts]),
            on_device(lengths, device, torch.int64).cumsum(0),
            on_device([part.moving.shape[:3] for part in parts], device, torch.int32),
            on_device([part.outside_weight for part in parts], device, torch.float32),
            on_device([part.corner for part in parts], device, torch.float32),
            on_device([part.repeats for part in parts], device, torch.float32),
            order,
        )

    def maps(self, mapping: IndexMap) -> Tensor:
        """(T, 21): each term's linear part, shift and from_mm to its own values; kept."""
        return _kept(self, mapping, lambda: self._maps_of(mapping))

    def _maps_of(self, mapping: IndexMap) -> Tensor:
        whole = torch.cat((mapping.linear.flatten(), mapping.shift, mapping.from_mm.flatten()))
        less, more, times = self._crops
        return torch.addcmul(more, whole - less, times)

    @cached_property
    def _crops(self) -> tuple[Tensor, Tensor, Tensor]:
        """(T, 21) each: the corner, what is added, and the repeats, where they belong in a map."""
        rows = self.repeats.repeat_interleave(3, 1)
        less, more = rows.new_zeros(2, len(rows), 21)
        less[:, 9:12], more[:, 9:12] = self.corners, (self.repeats - 1) / 2
        return less, more, torch.cat((rows, self.repeats, rows), 1)


def _kept(owner: object, mapping: IndexMap, make: Callable[[], Made]) -> Made:
    """What an owner made for a map; made anew only for another map."""
    last: tuple[IndexMap, Made] | None = vars(owner).get("_made")
    if last is None or last[0] is not mapping:
        last = vars(owner)["_made"] = mapping, make()
    return last[1]
