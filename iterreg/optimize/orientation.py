"""Is the moving image mirrored, turned, or are its axes exchanged?

Every way to lay the moving image's axes along themselves is compared with the fixed image, both
blurred, at the best translation. A mirrored body can be bent until it fits well, so what counts is
how images fit before they are registered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations, product

import numpy as np
import torch
from torch import Tensor

from iterreg.geometry import Matrix
from iterreg.optimize.mapped import Mapped
from iterreg.optimize.pair import Guidance, Pair
from iterreg.sampling import sample
from iterreg.to_device import on_device

SCREENED_VOXELS = 24
"""Along the longest axis, for the comparison."""

COARSE_VOXELS, COARSE_DOUBT = 12, 0.1
"""A flip that correlates so much worse than the image itself at so few voxels is not compared.
Flips that were named later were at most 0.02 worse."""

LEAST_CORRELATION = 0.45
"""A flip that fits worse explains nothing."""

MIRRORED_GAIN, TURNED_GAIN = 0.03, 0.1
"""By so much a mirrored image has to correlate better, and one whose axes change places. A mirrored
pelvis gains 0.06, a chest 0.07; a brain's halves are too alike."""

AXES = {
    3: ("head to foot", "front to back", "left to right"),
    2: ("top to bottom", "left to right"),
}
"""Canonical array axes in words."""

SPATIAL = (1, 2, 3)
FLIPS_AT_ONCE = 8


@dataclass(frozen=True)
class Flip:
    """A signed permutation of the axes of an image, in canonical array order.

    Args:
        axes: axis k of the flipped image lies along axis ``axes[k]`` of the stored one.
        signs: -1 where it runs the other way.
    """

    axes: tuple[int, ...]
    signs: tuple[int, ...]

    @property
    def matrix(self) -> Matrix:
        """(rank, rank), on array components."""
        rank = len(self.axes)
        matrix = np.zeros((rank, rank))
        for k, (axis, sign) in enumerate(zip(self.axes, self.signs, strict=True)):
            matrix[axis, k] = sign
        return matrix

    @property
    def words(self) -> str:
        """What was done to the image.

        Example:
            >>> Flip((0, 1, 2), (1, 1, -1)).words, Flip((0, 1, 2), (1, -1, -1)).words
            ('mirrored left to right', 'turned by 180 degrees about the axis from head to foot')
        """
        names = AXES[len(self.axes)]
        moved = [k for k, axis in enumerate(self.axes) if axis != k]
        turned = [k for k, sign in enumerate(self.signs) if sign < 0]
        if not moved and len(turned) == 1:
            return f"mirrored {names[turned[0]]}"
        if not moved and len(turned) == 2:
            return f"turned by 180 degrees{self._about(set(turned))}"
        if not moved:
            return "mirrored along all three axes"
        if len(moved) == 2 and len(turned) == 1 and turned[0] in moved:
            return f"turned by 90 degrees{self._about(set(moved))}"
        as_read = ", ".join(f"{names[self.axes[k]]} as {names[k]}" for k in moved)
        also = "".join(f", and mirrored {names[k]}" for k in turned)
        return f"read with its axes in another order ({as_read}){also}"

    @property
    def keeps_axes(self) -> bool:
        """Whether each axis stays where it was, mirrored or not."""
        return self.axes == tuple(range(len(self.axes)))

    def _about(self, plane: set[int]) -> str:
        names = AXES[len(self.axes)]
        rest = [name for k, name in enumerate(names) if k not in plane]
        return f" about the axis from {rest[0]}" if rest else ""


def all_flips(rank: int) -> list[Flip]:
    """Every signed permutation, the identity first.

    Example:
        >>> len(all_flips(3)), len(all_flips(2))
        (48, 8)
    """
    signs = list(product((1, -1), repeat=rank))
    return [Flip(axes, sign) for axes in permutations(range(rank)) for sign in signs]


def find_flip(pair: Pair) -> str:
    """Name the flip of the moving image that fits the fixed one clearly better than the image does.

    Args:
        pair: at full resolution.

    Returns:
        In words; empty if there is none.
    """
    extent_mm = max(n * s for n, s in zip(pair.fixed.shape, pair.fixed.spacing_mm, strict=True))
    level = replace(pair, guidance=Guidance()).at(extent_mm / SCREENED_VOXELS)
    identity, *flips = all_flips(pair.fixed.grid.rank)
    own, *coarse = _fits(level.at(extent_mm / COARSE_VOXELS), [identity, *flips])
    least = max(own, LEAST_CORRELATION) - COARSE_DOUBT
    flips = [flip for flip, fit in zip(flips, coarse, strict=True) if fit > least]
    own, *fits = _fits(level, [identity, *flips])
    least = max(own, LEAST_CORRELATION)
    gains = {
        flip: fit - least - (MIRRORED_GAIN if flip.keeps_axes else TURNED_GAIN)
        for flip, fit in zip(flips, fits, strict=True)
    }
    best = max(gains, key=gains.__getitem__, default=identity)
    return best.words if gains.get(best, 0.0) > 0 else ""


def _fits(level: Pair, flips: Sequence[Flip]) -> list[float]:
    """Correlation of the fixed image with each flipped moving one, at their best translation."""
    fixed = _contrast(level.fixed.image.mean(0)[None], level.fixed.fov[None])
    shape = [2 * n for n in level.fixed.shape]
    waves = torch.fft.rfftn(fixed, s=shape, dim=SPATIAL).conj()
    fits: list[float] = []
    for first in range(0, len(flips), FLIPS_AT_ONCE):
        flipped = _flipped(level, flips[first : first + FLIPS_AT_ONCE])
        product_ = torch.fft.rfftn(flipped, s=shape, dim=SPATIAL) * waves
        peaks = torch.fft.irfftn(product_, s=shape, dim=SPATIAL).abs().amax(SPATIAL)
        norms = flipped.flatten(1).norm(dim=1) * fixed.norm()
        fits += (peaks / norms.clamp(min=1e-12)).tolist()
    return fits


def _flipped(level: Pair, flips: Sequence[Flip]) -> Tensor:
    """(F, Z, Y, X): contrast of the flipped moving images on the fixed grid."""
    moving = level.moving
    both = torch.stack((moving.image.mean(0), moving.fov.float()))
    values, seen = sample(both, _indices(level, flips), outside=0.0)
    return _contrast(values, seen > 0.5)


def _indices(level: Pair, flips: Sequence[Flip]) -> Tensor:
    """(3, F, Z, Y, X): where each fixed voxel lands in the moving image behind each flip.

    A flip keeps the moving image's centre, which lies on the fixed one's.
    """
    fixed, moving = level.fixed.grid, level.moving.grid
    rank = fixed.rank
    onto = np.eye(rank + 1)
    onto[:rank, rank] = moving.centre_lps_mm - fixed.centre_lps_mm
    start = Mapped.still(level, onto).moving_index
    middle = [(n - 1) / 2 for n in level.moving.shape]
    centre = on_device(middle, start.device, start.dtype).view(3, 1, 1, 1)
    linear = np.tile(np.eye(3), (len(flips), 1, 1))
    linear[:, 3 - rank :, 3 - rank :] = [flip.matrix for flip in flips]
    spacing = np.asarray(level.moving.spacing_mm)
    turns = on_device((linear * spacing / spacing[:, None]).tolist(), start.device, start.dtype)
    return torch.einsum("fij,jzyx->ifzyx", turns, start - centre) + centre.unsqueeze(1)


def _contrast(images: Tensor, masks: Tensor) -> Tensor:
    """(F, Z, Y, X): deviation from each image's mean inside its mask, 0 outside."""
    size = masks.sum(SPATIAL, keepdim=True).clamp(min=1)
    return (images - (images * masks).sum(SPATIAL, keepdim=True) / size) * masks
