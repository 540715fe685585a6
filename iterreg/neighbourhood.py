"""The neighbourhood of a voxel: boxes around masks, dilation, faces between labels, box means.

Everything here takes tensors of rank 3, (Z, Y, X), on any device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Box = tuple[slice, ...]
"""A slice per axis, with explicit ends."""

LARGEST_KEY = 1 << 31
"""Keys below this need 32 bits."""


def bounding_box(mask: Tensor) -> Box | None:
    """The smallest box that holds a mask, or None where the mask is empty.

    Args:
        mask: bool, of any rank.

    Example:
        >>> import torch
        >>> bounding_box(torch.tensor([[False, True, True], [False, False, True]]))
        (slice(0, 2, None), slice(1, 3, None))
    """
    box = []
    for axis in range(mask.ndim):
        hit = mask.movedim(axis, 0).reshape(mask.shape[axis], -1).any(1).nonzero()
        if len(hit) == 0:
            return None
        box.append(slice(int(hit[0]), int(hit[-1]) + 1))
    return tuple(box)


def grow_box(box: Box, margin: int, shape: Sequence[int]) -> Box:
    """A box and ``margin`` voxels around it, inside an array of a shape.

    Example:
        >>> grow_box((slice(0, 2), slice(3, 5)), 1, (4, 5))
        (slice(0, 3, None), slice(2, 5, None))
    """
    return tuple(
        slice(max(0, s.start - margin), min(n, s.stop + margin))
        for s, n in zip(box, shape, strict=True)
    )


def dilate(mask: Tensor, reach: int) -> Tensor:
    """A mask and every voxel within ``reach`` voxels of it along each axis (a cube, not a ball).

    Args:
        mask: (Z, Y, X) bool.
        reach: in voxels.
    """
    for axis, n in enumerate(mask.shape):
        grown = mask.clone()
        for k in range(1, min(reach, n - 1) + 1):
            grown.narrow(axis, k, n - k).logical_or_(mask.narrow(axis, 0, n - k))
            grown.narrow(axis, 0, n - k).logical_or_(mask.narrow(axis, k, n - k))
        mask = grown
    return mask


def face_pairs(volume: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Both sides of every face across an axis: views of each voxel and of the next one.

    Args:
        volume: (Z, Y, X).
        axis: 0, 1 or 2; an axis of length 1 has no face.
    """
    n = volume.shape[axis]
    return volume.narrow(axis, 0, n - 1), volume.narrow(axis, 1, n - 1)


def label_profiles(labels: Tensor, count: int) -> list[Tensor]:
    """The voxels of each label in each slice across each axis, (count, n) int64 for n slices.

    Args:
        labels: (*shape) integers, none negative.
        count: labels from here on are left out.

    Example:
        >>> import torch
        >>> label_profiles(torch.tensor([[0, 1, 1], [0, 0, 1]]), 2)[1].tolist()
        [[2, 1, 0], [0, 1, 2]]
    """
    profiles = []
    for axis, n in enumerate(labels.shape):
        places = torch.arange(n, dtype=labels.dtype, device=labels.device)
        wide = labels.dtype if count * n < LARGEST_KEY else torch.int64
        along = [n if k == axis else 1 for k in range(labels.ndim)]
        keys = labels.to(wide) * n + places.to(wide).view(along)
        found = torch.bincount(keys.flatten(), minlength=count * n)
        profiles.append(found[: count * n].view(count, n))
    return profiles


def label_boxes(labels: Tensor) -> dict[int, Box]:
    """The bounding box of every label that occurs, in one pass an axis.

    Args:
        labels: (Z, Y, X), none negative.

    Example:
        >>> import torch
        >>> label_boxes(torch.tensor([[[0, 2, 2]]]))[2]
        (slice(0, 1, None), slice(0, 1, None), slice(1, 3, None))
    """
    ends = []
    for profile in label_profiles(labels, int(labels.max()) + 1):
        hits, n = (profile > 0).byte(), profile.shape[1]
        ends.append(torch.stack((hits.argmax(1), n - hits.flip(1).argmax(1), hits.amax(1))))
    # One transfer from the device: the ends of all boxes at once.
    found = torch.stack(ends).permute(2, 0, 1).tolist()
    return {
        value: tuple(slice(first, last) for first, last, _ in box)
        for value, box in enumerate(found)
        if box[0][2]
    }


def shifted(volume: Tensor, offset: Sequence[int]) -> Tensor:
    """Each voxel's neighbour at an offset; beyond the border the border voxel stands in.

    Args:
        volume: (Z, Y, X), or with more axes behind them.
        offset: (z, y, x) voxels.

    Example:
        >>> shifted(torch.tensor([[[1, 2, 3]]]), (0, 0, 1))
        tensor([[[2, 3, 3]]])
    """
    for axis, amount in enumerate(offset):
        if amount:
            volume = _shifted_along(volume, axis, amount)
    return volume


def _shifted_along(volume: Tensor, axis: int, amount: int) -> Tensor:
    n = volume.shape[axis]
    gap = min(abs(amount), n)
    size = list(volume.shape)
    size[axis] = gap
    border = volume.narrow(axis, n - 1 if amount > 0 else 0, 1).expand(size)
    inner = volume.narrow(axis, gap if amount > 0 else 0, n - gap)
    return torch.cat((inner, border) if amount > 0 else (border, inner), axis)


def weighted_sum(volume: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Weighted sum over the box around each voxel, the border repeated outside.

    Args:
        volume: (Z, Y, X).
        weights: per axis (z, y, x), of the voxels along it, the middle one being the voxel itself.

    Example:
        >>> one, three = torch.ones(1), torch.tensor([0.5, 1.0, 0.5])
        >>> weighted_sum(torch.tensor([[[1.0, 2.0, 3.0]]]), (one, one, three))
        tensor([[[2.5000, 4.0000, 5.5000]]])
    """
    for axis, along in enumerate(weights):
        reach, parts = len(along) // 2, []
        for k, weight in enumerate(along.tolist(), -reach):
            offset = [k if a == axis else 0 for a in range(3)]
            parts.append(weight * shifted(volume, offset))
        volume = torch.stack(parts).sum(0)
    return volume


def pooled(volume: Tensor, shares: Sequence[Tensor]) -> Tensor:
    """Averages over blocks.

    Args:
        volume: (C, Z, Y, X).
        shares: per axis (blocks, voxels), the share of each block that each voxel fills.

    Returns:
        (C, blocks of z, of y, of x).

    Example:
        >>> halves = torch.tensor([[0.5, 0.5]])
        >>> one = torch.ones(1, 1)
        >>> pooled(torch.tensor([[[[1.0, 3.0]]]]), (one, one, halves)).item()
        2.0
    """
    z, y, x = shares
    volume = (z @ volume.flatten(2)).unflatten(2, volume.shape[2:])
    return y @ volume @ x.T


Border = Literal["repeat", "cut", "zero"]


def box_mean(volume: Tensor, radius: Sequence[int], border: Border) -> Tensor:
    """Mean over the box around each voxel.

    Args:
        volume: (Z, Y, X) float; with ``repeat`` also with more axes behind them.
        radius: (z, y, x), half-width of the box in voxels.
        border: what the box finds outside the volume. ``repeat``: the border voxel. ``cut``:
            nothing, so that the mean is over the part inside; it is summed in float64, because
            variances are differences of such means. ``zero``: zeros, which count in the mean;
            good for the ratio of two means, where the count cancels.

    Example:
        >>> ramp = torch.tensor([[[0.0, 3.0, 6.0]]])
        >>> [box_mean(ramp, (0, 0, 1), border).tolist() for border in ("repeat", "cut", "zero")]
        [[[[1.0, 3.0, 5.0]]], [[[1.5, 3.0, 4.5]]], [[[1.0, 3.0, 3.0]]]]
    """
    along_axis = {"repeat": _repeat_mean, "cut": _cut_mean, "zero": _zero_mean}[border]
    for axis, reach in enumerate(radius):
        if reach or border == "cut":
            volume = along_axis(volume, axis, reach)
    return volume


def _row_sum(volume: Tensor, axis: int, reach: int) -> Tensor:
    """Sums of 2 reach + 1 voxels, put together from sums of 1, 2, 4, ... of them."""
    n, width = volume.shape[axis], 2 * reach + 1
    first, last = volume.narrow(axis, 0, 1), volume.narrow(axis, n - 1, 1)
    sums = torch.cat([first] * reach + [volume] + [last] * reach, axis)
    total, done, size = torch.zeros_like(volume), 0, 1
    while True:
        if width & size:
            total += sums.narrow(axis, done, n)
            done += size
        if done == width:
            return total
        count = sums.shape[axis] - size
        sums = sums.narrow(axis, 0, count) + sums.narrow(axis, size, count)
        size *= 2


def _repeat_mean(volume: Tensor, axis: int, reach: int) -> Tensor:
    return _row_sum(volume, axis, reach) / (2 * reach + 1)


def _cut_mean(volume: Tensor, axis: int, reach: int) -> Tensor:
    n = volume.shape[axis]
    low = (torch.arange(n, device=volume.device) - reach).clamp(min=0)
    high = (torch.arange(n, device=volume.device) + reach + 1).clamp(max=n)
    total = volume.cumsum(axis, dtype=torch.float64)
    total = torch.cat((torch.zeros_like(total.narrow(axis, 0, 1)), total), axis)
    size = (high - low).view(*[-1 if a == axis else 1 for a in range(3)])
    return ((total.index_select(axis, high) - total.index_select(axis, low)) / size).to(volume)


def _zero_mean(volume: Tensor, axis: int, reach: int) -> Tensor:
    size, padding = [1, 1, 1], [0, 0, 0]
    size[axis], padding[axis] = 2 * reach + 1, reach
    return torch.nn.functional.avg_pool3d(volume[None], size, 1, padding)[0]


def continued(volume: Tensor, known: Tensor, radii: Sequence[Sequence[int]]) -> Tensor:
    """A volume whose unknown voxels take the mean of the known voxels around them.

    Args:
        volume: (C, Z, Y, X) float.
        known: (Z, Y, X) bool.
        radii: of each pass, (z, y, x), half-width of its box in voxels. What a pass fills is known
            to the next; what no pass reaches keeps its value.

    Returns:
        (C, Z, Y, X); known voxels are as they were.

    Example:
        >>> volume = torch.tensor([[[[1.0, 2.0, 9.0, 9.0, 9.0]]]])
        >>> known = torch.tensor([[[True, True, False, False, False]]])
        >>> continued(volume, known, [(0, 0, 1), (0, 0, 1)])
        tensor([[[[1., 2., 2., 2., 9.]]]])
    """
    filled = volume.clone()
    for radius in radii:
        share = box_mean(known.float(), radius, "zero")
        # A sum of ones is at least one voxel's share, but for rounding.
        reached = ~known & (share > 0.5 / math.prod(2 * r + 1 for r in radius))
        for channel in filled:
            mean = box_mean(torch.where(known, channel, 0.0), radius, "zero") / share
            channel[reached] = mean[reached]
        known = known | reached
    return filled
