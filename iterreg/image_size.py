"""How large an image is, beside the lengths of a preset, and which factor brings them together."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from iterreg.config import Config, load_config, preset_names
from iterreg.geometry import Grid

USUAL = 10.0
"""In an image that fits a preset, the geometric mean of its side and of its voxels' side is about
so many times the spacing of the finest level. In this unit a thorax of 4 mm voxels has 1.9, a crop
of the hippocampus 0.6, a large photograph 3."""

TOO_SMALL, TOO_LARGE = 0.5, 10.0
"""Beyond these, in that unit, an image does not fit."""

LEAST_SCALED, MOST_SCALED = 1.2, 3.0
"""A power of ten is taken if the scaled image is so large."""

LIKE_A_THORAX = 1.9
"""Any other scaled image is at most so large."""

FULL = 2.0
"""Its voxels are at most so many times larger than the finest level. A thorax and crops of the
hippocampus gain up to there: Dice 0.920 -> 0.927 and 0.772 -> 0.802, from 1 and 0.5; the heart
gains 0.643 -> 0.681, from 1.4."""

FEW_VOXELS = 800_000
"""So many voxels cost no more than the finest level of a brain, so that level may reach them."""

ANY_SIZE = "general"
"""The preset for images of any kind, and so of any size."""

MOST_NODES = 5_000_000
"""Of the finest level, which reaches the voxels of a scaled image: as many as that of a chest."""

AS_IT_IS = 0.25
"""In that unit, an image of too many voxels that the preset still serves: a knee at 0.5 mm."""

SMALL = 0.6
"""In that unit, an image at the edge of what fits."""

COARSER = 1.05
"""The step by which a factor grows until its nodes are few enough."""

COARSE = 1.5
"""Voxels that are so many times smaller than the finest level hold details that it does not see;
voxels so many times larger than the coarsest one have no coarse level."""

LEAST_VOXELS = 50_000
"""Of an image that has details."""


def length_scale(config: Config, grid: Grid) -> tuple[float, tuple[str, ...]]:
    """Choose how many mm of an image one mm of a preset is.

    Args:
        config: the levels of its preset say for which size it is made. Levels that the user set
            are taken as they are.
        grid: of the fixed image.

    Returns:
        The factor, 1 for images of the usual size, and what the user should know.

    Example:
        >>> axes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
        >>> thorax = Grid((80, 71, 124), (4.0, 4.0, 4.0), (0.0, 0.0, 0.0), axes)
        >>> length_scale(load_config("general"), thorax)[0]
        1.0
        >>> mouse = Grid((80, 71, 124), (0.6, 0.6, 0.6), (0.0, 0.0, 0.0), axes)
        >>> length_scale(load_config("general"), mouse)[0]
        0.1
    """
    if config.levels.spacing_mm != _levels_of(config.name):
        return 1.0, ()
    size = ImageSize.of(grid, min(config.levels.spacing_mm))
    mm = 1.0
    if size.is_small(config.name):
        mm = size.smaller()
    elif size.ratio >= TOO_LARGE:
        mm = size.larger()
    if mm == 1:
        return 1.0, _misfits(config, size)
    levels = ", ".join(f"{s * mm:.3g}" for s in config.levels.spacing_mm)
    return mm, (
        f"the image is {'smaller' if mm < 1 else 'larger'} than the preset {config.name} is "
        f"made for (voxels of {size.voxel:.3g} mm): one mm of the preset is taken as {mm:.3g} mm "
        f"of the image, such as levels.spacing_mm = [{levels}]",
    )


@dataclass(frozen=True)
class ImageSize:
    """How large an image is, beside the lengths of a preset.

    Args:
        grid: of the image.
        side, voxel: geometric means, mm.
        count: voxels.
        ratio: in the unit of ``USUAL``.
        finest: level of the preset, mm.
    """

    grid: Grid
    side: float
    voxel: float
    count: int
    ratio: float
    finest: float

    @classmethod
    def of(cls, grid: Grid, finest: float) -> ImageSize:
        """Measure an image; axes of one voxel do not count."""
        pairs = zip(grid.shape_zyx, grid.spacing_zyx_mm, strict=True)
        axes = [(n * s, s) for n, s in pairs if n > 1] or [(1.0, 1.0)]
        side, voxel = (float(np.exp(np.log(v).mean())) for v in zip(*axes, strict=True))
        ratio = math.sqrt(side * voxel) / (USUAL * finest)
        return cls(grid, side, voxel, grid.voxel_count, ratio, finest)

    @property
    def is_far_too_small(self) -> bool:
        """Whether its voxels are far below the finest level, in a small image."""
        return self.ratio < TOO_SMALL and self.voxel < self.finest / 2

    def is_small(self, preset: str) -> bool:
        """Whether the finest level would miss what the image shows."""
        if self.is_far_too_small:
            return True
        # A preset of an anatomy knows how large that is, whatever the voxels of a scan.
        is_volume = sum(n > 1 for n in self.grid.shape_zyx) == 3
        is_cheap = preset == ANY_SIZE and is_volume and self.count <= FEW_VOXELS
        return is_cheap and self.voxel * COARSE < self.finest

    def smaller(self) -> float:
        """The factor for a small image; 1 if its voxels are too many to follow them."""
        power = 0
        while self.ratio * 10.0**power < LEAST_SCALED:
            power += 1
        ten = 10.0**-power
        if power and self.ratio / ten <= MOST_SCALED and self._nodes(ten) <= MOST_NODES:
            return ten
        mm = max(self.voxel / (FULL * self.finest), self.ratio / LIKE_A_THORAX)
        if self._nodes(mm) > MOST_NODES and self.ratio > AS_IT_IS:
            return 1.0
        while mm < 1 and self._nodes(mm) > MOST_NODES:
            mm *= COARSER
        return min(1.0, mm)

    def larger(self) -> float:
        """The factor for a large image."""
        power = 0
        while self.ratio / 10.0**power > MOST_SCALED:
            power += 1
        is_usual = self.ratio / 10.0**power >= LEAST_SCALED
        return 10.0**power if is_usual else self.ratio / LIKE_A_THORAX

    def _nodes(self, mm: float) -> float:
        return _nodes(self.grid, self.finest * mm)


def _misfits(config: Config, size: ImageSize) -> tuple[str, ...]:
    """Which lengths of a preset do not fit an image that is not scaled."""
    if size.is_far_too_small:
        return (_misfit(config, size, "its voxels are too many to follow them"),)
    sees_less = size.voxel * COARSE < size.finest
    if size.ratio < SMALL and sees_less and size.count > LEAST_VOXELS:
        return (_misfit(config, size, ""),)
    if size.voxel > COARSE * max(config.levels.spacing_mm):
        return (_too_fine(config, size.voxel),)
    return ()


def _levels_of(preset: str) -> tuple[float, ...]:
    """The levels of a preset that comes with iterreg, mm; none of any other."""
    return load_config(preset).levels.spacing_mm if preset in preset_names() else ()


def _nodes(grid: Grid, spacing_mm: float) -> float:
    """Nodes of a level."""
    pairs = zip(grid.shape_zyx, grid.spacing_zyx_mm, strict=True)
    return math.prod(n * s / max(s, spacing_mm) if n > 1 else 1.0 for n, s in pairs)


def _too_fine(config: Config, voxel: float) -> str:
    """That an image has no coarse level, and what to do."""
    coarsest, search = max(config.levels.spacing_mm), config.start.search_mm
    reach = f", and start.search_mm = {search:g} reaches {search / voxel:.1f} voxels" * (search > 0)
    return (
        f"levels.spacing_mm of the preset {config.name} begins at {coarsest:g} mm, but the image "
        f"has voxels of {voxel:.3g} mm: there is no coarser level{reach}. For large motion try "
        f"--set 'levels.spacing_mm=[{4 * voxel:.2g}, {2 * voxel:.2g}, {voxel:.2g}]'"
    )


def _misfit(config: Config, size: ImageSize, reason: str) -> str:
    """Which lengths of a preset do not fit, and what to do."""
    voxel = size.voxel
    finest = min(config.levels.spacing_mm)
    share = voxel / finest
    levels = ", ".join(f"{s * share:.2g}" for s in config.levels.spacing_mm)
    because = f" ({reason})" if reason else ""
    return (
        f"levels.spacing_mm of the preset {config.name} ends at {finest:g} mm, but the image has "
        f"voxels of {voxel:.2g} mm{because}: smaller structures may be matched less well than "
        f"before. Try --set 'levels.spacing_mm=[{levels}]'"
    )
