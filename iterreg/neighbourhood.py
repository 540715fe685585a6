"""What lies beside a voxel: boxes around masks, dilation, faces between labels.

Everything here takes tensors of rank 3, (Z, Y, X), on any device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Box = tuple[slice, ...]
"""A slice per axis, with explicit ends."""


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


def label_boxes(labels: Tensor) -> dict[int, Box]:
    """The bounding box of every label that occurs, in one pass an axis.

    Args:
        labels: (Z, Y, X), none negative.

    Example:
        >>> import torch
        >>> label_boxes(torch.tensor([[[0, 2, 2]]]))[2]
        (slice(0, 1, None), slice(0, 1, None), slice(1, 3, None))
    """
    boxes: dict[int, list[slice]] = {}
    count = int(labels.max()) + 1
    for axis, n in enumerate(labels.shape):
        flat = labels.movedim(axis, 0).reshape(n, -1).long()
        slices = torch.arange(n, device=labels.device).unsqueeze(1) * count
        hits = torch.zeros(n * count, dtype=torch.bool, device=labels.device)
        hits[(flat + slices).flatten()] = True
        for value in range(count):
            where = hits.view(n, count)[:, value].nonzero()
            if len(where):
                boxes.setdefault(value, []).append(slice(int(where[0]), int(where[-1]) + 1))
    return {value: tuple(box) for value, box in boxes.items()}
