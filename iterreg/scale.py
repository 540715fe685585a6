"""The scale of an image: a mouse, a microscope slide or a machine instead of a person.

The lengths of a preset are made for images of a certain size. An image that is ten or more times
smaller or larger is registered as if it had that size: every length in space is multiplied by a
power of ten, and the result is divided by it. So the lengths follow the image all together, those
that a preset does not list too, and the same voxels give the same result whatever the header says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from iterreg.config import Config, Limits, load_config, preset_names
from iterreg.displacement import DisplacementField, Transform
from iterreg.geometry import Grid, Points
from iterreg.image import Image, LabelMap, Mask, RoiPair
from iterreg.inputs import Inputs
from iterreg.optimize.history import LevelHistory
from iterreg.verdict import Evidence

USUAL = 10.0
"""In an image that fits a preset, the geometric mean of its side and of its voxels' side is about
so many times the spacing of the finest level. In this unit a thorax of 4 mm voxels has 1.9, a crop
of the hippocampus 0.6, a large photograph 3."""

TOO_SMALL, TOO_LARGE = 0.5, 10.0
"""Beyond these, in that unit, an image does not fit."""

LEAST_SCALED = 0.8
"""A scaled image is at least so large."""

MOST_NODES = 5_000_000
"""Of the finest level, which reaches the voxels of a scaled image: as many as that of a chest."""

SMALL = 0.6
"""In that unit, an image at the edge of what fits."""

COARSE = 1.5
"""Voxels that are so many times smaller than the finest level hold details that it does not see;
voxels so many times larger than the coarsest one have no coarse level."""

LEAST_VOXELS = 50_000
"""Of an image that has details."""


@dataclass(frozen=True)
class LengthScale:
    """How many mm of the image one mm of the preset is.

    Args:
        mm: a power of ten; 1 for images of the usual size.
        notes: what the user should know.
    """

    mm: float = 1.0
    notes: tuple[str, ...] = ()

    @property
    def factor(self) -> float:
        """By what lengths of the image are multiplied."""
        return 1.0 / self.mm

    @classmethod
    def of(cls, config: Config, image: Image) -> LengthScale:
        """Choose the scale for a pair. Levels that the user set are taken as they are.

        Args:
            config: the levels of its preset say for which size it is made.
            image: the fixed image.
        """
        if config.levels.spacing_mm != _levels_of(config.name):
            return cls()
        side, voxel, count = _sizes(image.grid)
        finest = min(config.levels.spacing_mm)
        ratio = math.sqrt(side * voxel) / (USUAL * finest)
        power = 0
        while ratio * 10.0**power < LEAST_SCALED and ratio < TOO_SMALL and voxel < finest / 2:
            power += 1
        while ratio * 10.0**power >= TOO_LARGE * LEAST_SCALED and ratio >= TOO_LARGE:
            power -= 1
        wanted = power
        while power > 0 and _nodes(image.grid, finest / 10.0**power) > MOST_NODES:
            power -= 1
        if power == 0 and wanted > 0:
            return cls(
                1.0, (_misfit(config, image.grid, "its voxels are too many to follow them"),)
            )
        if power == 0:
            if ratio < SMALL and voxel * COARSE < finest and count > LEAST_VOXELS:
                return cls(1.0, (_misfit(config, image.grid, ""),))
            if voxel > COARSE * max(config.levels.spacing_mm):
                return cls(1.0, (_too_fine(config, voxel),))
            return cls()
        mm = 10.0**-power
        levels = ", ".join(f"{s * mm:g}" for s in config.levels.spacing_mm)
        note = (
            f"the image is {'smaller' if power > 0 else 'larger'} than the preset {config.name} is "
            f"made for (voxels of {voxel:.3g} mm): one mm of the preset is taken as {mm:g} mm of "
            f"the image, such as levels.spacing_mm = [{levels}]"
        )
        return cls(mm, (note,))

    def inputs(self, given: Inputs) -> Inputs:
        """The inputs in the preset's lengths."""
        if self.mm == 1:
            return given
        labels = given.labels
        landmarks = given.landmarks
        return replace(
            given,
            fixed=replace(given.fixed, grid=self._grid(given.fixed.grid)),
            moving=replace(given.moving, grid=self._grid(given.moving.grid)),
            labels=None if labels is None else (self._labels(labels[0]), self._labels(labels[1])),
            masks=(self._mask_map(given.masks[0]), self._mask_map(given.masks[1])),
            landmarks=None
            if landmarks is None
            else (Points(landmarks[0].lps / self.mm), Points(landmarks[1].lps / self.mm)),
            roi_pairs=[
                RoiPair(self._mask(p.fixed), self._mask(p.moving), p.similarity)
                for p in given.roi_pairs
            ],
            initial=None if given.initial is None else self._transform(given.initial),
        )

    def labels_back(self, labels: LabelMap, grid: Grid) -> LabelMap:
        """A label map of the scaled pair on the image's own grid."""
        whole = {v: replace(m, grid=grid) for v, m in labels.whole.items()}
        return replace(labels, grid=grid, whole=whole)

    def transform_back(self, transform: Transform, grid: Grid) -> Transform:
        """The transform in the image's own lengths, on its own grid."""
        if self.mm == 1:
            return transform
        return Transform(
            _with_shift(transform.affine_lps, self.mm), DisplacementField(transform.field.vox, grid)
        )

    def history_back(self, history: tuple[LevelHistory, ...]) -> tuple[LevelHistory, ...]:
        """The levels in the image's own lengths."""
        return tuple(
            replace(level, spacing_zyx_mm=tuple(s * self.mm for s in level.spacing_zyx_mm))
            for level in history
        )

    def evidence_back(self, evidence: Evidence) -> Evidence:
        """The measures in the image's own lengths."""
        distances = {name: d * self.mm for name, d in evidence.region_distance_mm.items()}
        return replace(
            evidence,
            inconsistency_median_mm=evidence.inconsistency_median_mm * self.mm,
            inconsistency_p95_mm=evidence.inconsistency_p95_mm * self.mm,
            landmarks_mm=evidence.landmarks_mm * self.mm,
            region_distance_mm=distances,
        )

    def limits_back(self, limits: Limits) -> Limits:
        """The limits in the image's own lengths."""
        return replace(
            limits,
            most_inconsistency_mm=limits.most_inconsistency_mm * self.mm,
            most_landmark_error_mm=limits.most_landmark_error_mm * self.mm,
        )

    def _grid(self, grid: Grid) -> Grid:
        return replace(
            grid,
            spacing_xyz_mm=tuple(s / self.mm for s in grid.spacing_xyz_mm),
            origin_lps_mm=tuple(x / self.mm for x in grid.origin_lps_mm),
        )

    def _labels(self, labels: LabelMap) -> LabelMap:
        return self.labels_back(labels, self._grid(labels.grid))

    def _mask_map(self, mask: LabelMap | None) -> LabelMap | None:
        return None if mask is None else self._labels(mask)

    def _mask(self, mask: Mask | LabelMap) -> Mask:
        assert isinstance(mask, Mask), "a ROI pair makes masks of its label maps"
        return replace(mask, grid=self._grid(mask.grid))

    def _transform(self, transform: Transform) -> Transform:
        return Transform(
            _with_shift(transform.affine_lps, self.factor),
            DisplacementField(transform.field.vox, self._grid(transform.grid)),
        )


def _levels_of(preset: str) -> tuple[float, ...]:
    """The levels of a preset that comes with iterreg, mm; none of any other."""
    return load_config(preset).levels.spacing_mm if preset in preset_names() else ()


def _sizes(grid: Grid) -> tuple[float, float, int]:
    """Geometric means of an image's sides and of its voxels' sides, mm, and its voxels."""
    pairs = zip(grid.shape_zyx, grid.spacing_zyx_mm, strict=True)
    axes = [(n * s, s) for n, s in pairs if n > 1] or [(1.0, 1.0)]
    side, voxel = (float(np.exp(np.log(values).mean())) for values in zip(*axes, strict=True))
    return side, voxel, grid.voxel_count


def _nodes(grid: Grid, spacing_mm: float) -> float:
    """Nodes of a level."""
    pairs = zip(grid.shape_zyx, grid.spacing_zyx_mm, strict=True)
    return math.prod(n * s / max(s, spacing_mm) if n > 1 else 1.0 for n, s in pairs)


def _with_shift(affine: Any, factor: float) -> Any:
    scaled = np.array(affine, np.float64)
    rank = len(scaled) - 1
    scaled[:rank, rank] *= factor
    return scaled


def _too_fine(config: Config, voxel: float) -> str:
    """That an image has no coarse level, and what to do."""
    coarsest, search = max(config.levels.spacing_mm), config.start.search_mm
    reach = f", and start.search_mm = {search:g} reaches {search / voxel:.1f} voxels" * (search > 0)
    return (
        f"levels.spacing_mm of the preset {config.name} begins at {coarsest:g} mm, but the image "
        f"has voxels of {voxel:.3g} mm: there is no coarser level{reach}. For large motion try "
        f"--set 'levels.spacing_mm=[{4 * voxel:.2g}, {2 * voxel:.2g}, {voxel:.2g}]'"
    )


def _misfit(config: Config, grid: Grid, reason: str) -> str:
    """Which lengths of a preset do not fit, and what to do."""
    _, voxel, _ = _sizes(grid)
    finest = min(config.levels.spacing_mm)
    share = voxel / finest
    levels = ", ".join(f"{s * share:.2g}" for s in config.levels.spacing_mm)
    because = f" ({reason})" if reason else ""
    return (
        f"levels.spacing_mm of the preset {config.name} ends at {finest:g} mm, but the image has "
        f"voxels of {voxel:.2g} mm{because}: smaller structures may be matched less well than "
        f"before. Try --set 'levels.spacing_mm=[{levels}]'"
    )
