"""Run-length masks, the form in which masks are kept, cached and written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iterreg.errors import ImageContentError


@dataclass(frozen=True)
class RunLengthMask:
    """A mask as the lengths of its runs, in the array's own order (last axis fastest).

    Args:
        shape: of the mask, 2 or 3 numbers.
        runs: lengths of the runs, alternately outside and inside; the first is outside and may be
            0.

    Raises:
        ImageContentError: the runs do not fill the shape.
    """

    shape: tuple[int, ...]
    runs: tuple[int, ...]

    def __post_init__(self) -> None:
        if min(self.runs, default=-1) < 0 or sum(self.runs) != math.prod(self.shape):
            raise ImageContentError(
                f"run-length mask: expected runs that fill {self.shape}, got {len(self.runs)} runs "
                f"of {sum(self.runs)} voxels"
            )

    def __repr__(self) -> str:
        return f"RunLengthMask({self.shape}, {self.area} voxels inside)"

    @property
    def area(self) -> int:
        """Number of voxels inside."""
        return sum(self.runs[1::2])


def encode_mask(mask: NDArray[np.bool_]) -> RunLengthMask:
    """Encode a mask of rank 2 or 3.

    Example:
        >>> encode_mask(np.array([[True, True, False], [False, False, True]])).runs
        (0, 2, 3, 1)
    """
    flat = mask.reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    ends = np.concatenate(([0], changes, [flat.size]))
    runs = np.diff(ends).tolist()
    return RunLengthMask(mask.shape, tuple([0, *runs] if flat[0] else runs))


def decode_mask(mask: RunLengthMask) -> NDArray[np.bool_]:
    """Decode a mask; the inverse of :func:`encode_mask`."""
    inside = np.arange(len(mask.runs)) % 2 == 1
    return np.repeat(inside, mask.runs).reshape(mask.shape)


def stack_masks(masks: Sequence[RunLengthMask], longest: int) -> NDArray[np.bool_]:
    """Stack masks of one shape, subsampled so that no axis is longer than ``longest``.

    Returns:
        (N, *subsampled shape).
    """
    if not masks:
        return np.zeros((0, 1, 1), bool)
    step = -(-max(masks[0].shape) // longest)
    every_step = (slice(step // 2, None, step),) * len(masks[0].shape)
    return np.stack([decode_mask(m)[every_step] for m in masks])
