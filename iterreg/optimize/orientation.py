"""Is the moving image mirrored, turned, or are its axes exchanged?

Every way to lay the moving image's axes along themselves is compared with the fixed image, both
blurred, at the best translation. A mirrored body can be bent until it fits well, so what counts is
how images fit before they are registered.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations, product

import numpy as np
import torch
from torch import Tensor

from iterreg.geometry import Matrix
from iterreg.optimize.mapped import Mapped
from iterreg.optimize.pair import Guidance, Pair
from iterreg.sampling import sample

SCREENED_VOXELS = 24
"""Along the longest axis, for the comparison."""

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
    fixed = _contrast(level.fixed.image.mean(0), level.fixed.fov)
    identity, *flips = all_flips(pair.fixed.grid.rank)
    least = max(_fit(fixed, level, identity), LEAST_CORRELATION)
    gains = {}
    for flip in flips:
        needed = MIRRORED_GAIN if flip.keeps_axes else TURNED_GAIN
        gains[flip] = _fit(fixed, level, flip) - least - needed
    best = max(gains, key=gains.__getitem__)
    return best.words if gains[best] > 0 else ""


def _fit(fixed: Tensor, level: Pair, flip: Flip) -> float:
    """Correlation of the fixed image with the flipped moving one at their best translation."""
    moving, seen = _flipped(level, flip)
    return _best_correlation(fixed, _contrast(moving, seen))


def _about_centres(pair: Pair, flip: Flip) -> Matrix:
    """The flip as an affine from fixed to moving, LPS mm, that keeps the images' centres."""
    rank = pair.fixed.grid.rank
    moving = pair.moving.grid
    axes = np.asarray(moving.direction_lps)[:, ::-1]  # columns in array order
    linear = axes @ flip.matrix @ axes.T
    affine = np.eye(rank + 1)
    affine[:rank, :rank] = linear
    affine[:rank, rank] = moving.centre_lps_mm - linear @ pair.fixed.grid.centre_lps_mm
    return affine


def _flipped(level: Pair, flip: Flip) -> tuple[Tensor, Tensor]:
    """The moving image on the fixed grid behind a flip, and where it is seen."""
    index = Mapped.still(level, _about_centres(level, flip)).moving_index
    moving = level.moving
    both = torch.stack((moving.image.mean(0), moving.fov.float()))
    values, seen = sample(both, index, outside=0.0)
    return values, seen > 0.5


def _contrast(image: Tensor, mask: Tensor) -> Tensor:
    """Deviation from the mean inside the mask, 0 outside."""
    mean = image[mask].mean() if bool(mask.any()) else 0.0
    return (image - mean) * mask


def _best_correlation(a: Tensor, b: Tensor) -> float:
    """The largest correlation of two volumes over all translations, whatever its sign."""
    shape = [2 * n for n in a.shape]
    product_ = torch.fft.rfftn(a, s=shape) * torch.fft.rfftn(b, s=shape).conj()
    peak = torch.fft.irfftn(product_, s=shape).abs().max()
    return float(peak / (a.norm() * b.norm()).clamp(min=1e-12))
