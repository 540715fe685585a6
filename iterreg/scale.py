"""The scale of an image: a mouse, a microscope slide or a machine instead of a person.

The lengths of a preset are made for images of a certain size. An image that is much smaller or
larger is registered as if it had that size: every length in space is multiplied by one factor, and
the result is divided by it. So the lengths follow the image all together, those that a preset does
not list too, and the same voxels give the same result whatever the header says.

The factor is a power of ten if that brings the image to a usual size; so micrometres that are
called millimetres change nothing. Otherwise the voxels become as those of a thorax at 4 mm: twice
as large as the finest level, in an image that is no larger in that measure than the thorax.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from iterreg.config import Config, Limits
from iterreg.displacement import DisplacementField, Transform
from iterreg.geometry import Grid, Points
from iterreg.image import Image, LabelMap, Mask, RoiPair
from iterreg.image_size import ImageSize, length_scale
from iterreg.inputs import Inputs
from iterreg.optimize.history import LevelHistory
from iterreg.verdict import Evidence

LEAST_LIMIT_VOXELS = 2.0
"""A small image that is not one in another unit, such as a crop of a brain, is registered with
shorter lengths. Two people's hippocampi then end 0.6 to 1.7 voxels apart there and back; images
that do not belong together differ by 1.8 and more, and in their similarity."""


@dataclass(frozen=True)
class LengthScale:
    """How many mm of the image one mm of the preset is.

    Args:
        mm: 1 for images of the usual size.
        notes: what the user should know.
        least_limit_mm: no distance of the image below this one counts against a result.
    """

    mm: float = 1.0
    notes: tuple[str, ...] = ()
    least_limit_mm: float = 0.0

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
        mm, notes = length_scale(config, image.grid)
        exponent = math.log10(mm)
        is_other_unit = abs(exponent - round(exponent)) < 1e-9
        voxel_mm = ImageSize.of(image.grid, 1.0).voxel
        return cls(mm, notes, 0.0 if is_other_unit else LEAST_LIMIT_VOXELS * voxel_mm)

    def inputs(self, given: Inputs) -> Inputs:
        """The inputs in the preset's lengths."""
        labels = given.labels
        landmarks = given.landmarks
        return replace(
            given,
            fixed=self._image(given.fixed),
            moving=self._image(given.moving),
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

    def _image(self, image: Image) -> Image:
        scanner = image.scanner and image.scanner.in_units_of(self.mm)
        return replace(image, grid=self.grid(image.grid), scanner=scanner)

    def labels_back(self, labels: LabelMap, grid: Grid) -> LabelMap:
        """A label map of the scaled pair on the image's own grid."""
        whole = {v: replace(m, grid=grid) for v, m in labels.whole.items()}
        return replace(labels, grid=grid, whole=whole)

    def transform_back(self, transform: Transform, grid: Grid) -> Transform:
        """The transform in the image's own lengths, on its own grid."""
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
            most_inconsistency_mm=max(limits.most_inconsistency_mm * self.mm, self.least_limit_mm),
            most_inconsistency_p95_mm=limits.most_inconsistency_p95_mm * self.mm,
            most_landmark_error_mm=limits.most_landmark_error_mm * self.mm,
        )

    def grid(self, grid: Grid) -> Grid:
        """A grid in the preset's lengths, snapped: what readers round differently is one grid."""
        return replace(
            grid,
            spacing_xyz_mm=tuple(s / self.mm for s in grid.spacing_xyz_mm),
            origin_lps_mm=tuple(x / self.mm for x in grid.origin_lps_mm),
        ).snapped()

    def _labels(self, labels: LabelMap) -> LabelMap:
        return self.labels_back(labels, self.grid(labels.grid))

    def _mask_map(self, mask: LabelMap | None) -> LabelMap | None:
        return None if mask is None else self._labels(mask)

    def _mask(self, mask: Mask | LabelMap) -> Mask:
        assert isinstance(mask, Mask), "a ROI pair makes masks of its label maps"
        return replace(mask, grid=self.grid(mask.grid))

    def _transform(self, transform: Transform) -> Transform:
        return Transform(
            _with_shift(transform.affine_lps, self.factor),
            DisplacementField(transform.field.vox, self.grid(transform.grid)),
        )


def _with_shift(affine: Any, factor: float) -> Any:
    scaled = np.array(affine, np.float64)
    rank = len(scaled) - 1
    scaled[:rank, rank] *= factor
    return scaled
