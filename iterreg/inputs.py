"""The inputs of ``optimize_pair``: read and checked. Unusable input is refused in one line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from iterreg.config import Config
from iterreg.devices import side_by_side
from iterreg.displacement import Transform
from iterreg.errors import ConfigError, GeometryError, ImageContentError
from iterreg.formats.reading import as_transform
from iterreg.geometry import Grid, Points, apply_affine
from iterreg.image import Image, LabelMap, RoiPair, require_same_space
from iterreg.io import as_image, as_label_map, as_mask, on_lattice_of
from iterreg.landmarks import check_landmarks, read_landmarks, span
from iterreg.partition import Regions, regions_of_rois
from iterreg.regions.field_of_view import field_of_view
from iterreg.regions.label_tables import label_names
from iterreg.samreg.roi_files import read_roi_pairs
from iterreg.scanner import ConeBeam

if TYPE_CHECKING:
    from iterreg.formats.reading import TransformLike as TransformLike
    from iterreg.image.kinds import ImageLike as ImageLike
    from iterreg.image.kinds import LabelsLike as LabelsLike
    from iterreg.image.kinds import PointsLike as PointsLike
    from iterreg.regions.label_tables import NamesLike as NamesLike


MOST_APART = 0.05
"""A scanner's view and the one that is found may differ by this share of the image."""


@dataclass(frozen=True)
class Inputs:
    """Everything that a registration is given, read and checked.

    Args:
        fixed, moving: the images, of one rank, known to overlap.
        labels: label maps in the spaces of the images, or None.
        masks: for each image the user's mask, or None.
        landmarks: fixed and moving points, as many of each, or None.
        roi_pairs: matched regions in the spaces of the images.
        initial: the user's transform, or None.
        landmark_notes: what was warned of about the landmarks.
    """

    fixed: Image
    moving: Image
    labels: tuple[LabelMap, LabelMap] | None
    masks: tuple[LabelMap | None, LabelMap | None]
    landmarks: tuple[Points, Points] | None
    roi_pairs: Sequence[RoiPair]
    initial: Transform | None
    landmark_notes: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about how the files were read."""
        files = [self.fixed, self.moving, *(self.labels or ()), *self.masks]
        read = dict.fromkeys(n for file in files if file is not None for n in file.notes)
        return (*read, *self.landmark_notes)

    def with_scanners(self, config: Config) -> tuple[Inputs, Config]:
        """Inputs and configuration that both name the scanners that either of them names."""
        fixed = _placed(config.fixed_scanner or self.fixed.scanner, self.fixed)
        moving = _placed(config.moving_scanner or self.moving.scanner, self.moving)
        inputs = replace(
            self,
            fixed=replace(self.fixed, scanner=fixed),
            moving=replace(self.moving, scanner=moving),
        )
        return inputs, replace(config, fixed_scanner=fixed, moving_scanner=moving)


@dataclass(frozen=True)
class Given:
    """The arguments of :func:`iterreg.optimize_pair` as the user gives them."""

    fixed: ImageLike
    moving: ImageLike
    fixed_labels: LabelsLike | None
    moving_labels: LabelsLike | None
    fixed_mask: LabelsLike | None
    moving_mask: LabelsLike | None
    fixed_landmarks: PointsLike | None
    moving_landmarks: PointsLike | None
    roi_pairs: str | Path | Sequence[RoiPair] | None
    initial_transform: TransformLike | None
    label_table: NamesLike | None = None

    def read(self) -> Inputs:
        """Read files, check each value, and check that all belong together.

        Raises:
            ImageReadError, ImageContentError, GeometryError: naming the file or argument.
        """
        fixed, moving = _read_images(self.fixed, self.moving)
        initial = _read_initial(self.initial_transform, fixed.grid)
        _require_overlap(fixed, moving, initial)
        rank = fixed.grid.rank
        landmarks = read_landmarks(self.fixed_landmarks, self.moving_landmarks, rank)
        notes = check_landmarks(landmarks, (fixed.grid, moving.grid), initial)
        roi_pairs = _read_roi_pairs(self.roi_pairs, fixed, moving)
        return Inputs(
            fixed,
            moving,
            self._read_labels(fixed, moving),
            (_read_mask(self.fixed_mask, fixed), _read_mask(self.moving_mask, moving)),
            landmarks,
            roi_pairs,
            initial,
            notes,
        )

    def _read_labels(self, fixed: Image, moving: Image) -> tuple[LabelMap, LabelMap] | None:
        names = label_names(self.label_table)  # without labels too: a wrong table is told
        if self.fixed_labels is None and self.moving_labels is None:
            return None
        if self.fixed_labels is None or self.moving_labels is None:
            missing = "fixed_labels" if self.fixed_labels is None else "moving_labels"
            raise ImageContentError(f"{missing}: expected label maps for both images or for none")
        both = []
        for labels, image in ((self.fixed_labels, fixed), (self.moving_labels, moving)):
            name = f"labels of {image.name}"
            loaded = as_label_map(labels, name, names, image.grid, overlapping=True)
            loaded = on_lattice_of(loaded, image)
            require_same_space(loaded, image)
            both.append(loaded)
        return both[0], both[1]


def _placed(scanner: ConeBeam | None, image: Image) -> ConeBeam | None:
    """A scanner whose isocentre is known, since who reads the result may have part of the image."""
    if scanner is None:
        return None
    if image.grid.rank != 3:
        raise ConfigError(f"{image.name}: expected no scanner for a picture, got {scanner}")
    return scanner.about(image.grid.centre_lps_mm)


def _read_images(fixed: ImageLike, moving: ImageLike) -> tuple[Image, Image]:
    first = as_image(fixed, "fixed").checked()
    second = as_image(moving, "moving").checked()
    if first.grid.rank != second.grid.rank:
        raise GeometryError(
            f"{second.name}: expected rank {first.grid.rank} as {first.name}, "
            f"got {second.grid.rank}"
        )
    return first, second


def _read_roi_pairs(
    given: str | Path | Sequence[RoiPair] | None, fixed: Image, moving: Image
) -> Sequence[RoiPair]:
    if given is None:
        return ()
    if isinstance(given, str | Path):
        return read_roi_pairs(given, (fixed, moving))
    for pair in given:
        if not isinstance(pair, RoiPair):
            raise TypeError(
                f"roi_pairs: expected a path or iterreg.RoiPair values, got {type(pair).__name__}"
            )
        require_same_space(pair.fixed, fixed)
        require_same_space(pair.moving, moving)
    return given


def _read_mask(mask: LabelsLike | None, image: Image) -> LabelMap | None:
    if mask is None:
        return None
    loaded = on_lattice_of(as_mask(mask, f"mask of {image.name}", image.grid), image)
    require_same_space(loaded, image)
    return loaded


@dataclass(frozen=True)
class FieldsOfView:
    """Where each image is to be trusted.

    Args:
        fixed, moving: (*shape) bool, the field of view inside the user's mask.
        in_words: how each was found, and its share of the image.
        notes: scanners that the images contradict.
    """

    fixed: Tensor
    moving: Tensor
    in_words: dict[str, str]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, inputs: Inputs) -> FieldsOfView:
        """Find both.

        Raises:
            ImageContentError: a mask does not meet its image's field of view.
        """
        found, in_words, notes = [], {}, []
        images = (inputs.fixed, inputs.moving)
        side_by_side(field_of_view, images)  # an image keeps what was found
        for side, image, mask in zip(("fixed", "moving"), images, inputs.masks, strict=True):
            notes += _contradictions(image, f"{side}_scanner")
            view = field_of_view(image)
            fov = view.mask if mask is None else view.mask & (mask.data > 0)
            if not bool(fov.any()):
                raise ImageContentError(
                    f"{image.name}: expected a mask that meets the field of view"
                )
            share = int(fov.count_nonzero()) / fov.numel()
            kind = view.kind if mask is None else f"{view.kind}, mask"
            in_words[side] = f"{kind}: {100 * share:.0f} % of the image is seen"
            found.append(fov)
        return cls(found[0], found[1], in_words, tuple(notes))


def _contradictions(image: Image, setting: str) -> list[str]:
    """What to tell of a scanner that does not see what the voxels show."""
    if image.scanner is None:
        return []
    shown = field_of_view(replace(image, scanner=None))
    apart = float((shown.mask != field_of_view(image).mask).float().mean())
    if not shown.is_cone_beam or apart <= MOST_APART:
        return []
    return [
        f"{image.name}: {setting} and the view that its voxels show differ in {100 * apart:.0f} % "
        "of the image: check isocentre_lps_mm and axis_lps"
    ]


def find_regions(config: Config, inputs: Inputs, device: str) -> Regions:
    """Regions from the user's label maps, from ROI pairs, or from the preset's segmenter."""
    from iterreg.regions import segmenters
    from iterreg.regions.match_labels import match_labels

    if inputs.labels is not None:
        return match_labels(*inputs.labels)
    if inputs.roi_pairs:
        return regions_of_rois(inputs.roi_pairs)
    return segmenters.find_regions(config.segmenter, inputs.fixed, inputs.moving, device)


def _read_initial(transform: TransformLike | None, grid: Grid) -> Transform | None:
    if transform is None:
        return None
    given = as_transform(transform, "initial_transform", grid)
    if given.grid.rank != grid.rank:
        raise GeometryError(f"initial_transform: expected rank {grid.rank}, got {given.grid.rank}")
    return given


def _require_overlap(fixed: Image, moving: Image, given: Transform | None) -> None:
    """Refuse a pair whose images do not meet in space."""
    affine_lps = np.eye(fixed.grid.rank + 1) if given is None else given.affine_lps
    landed = apply_affine(affine_lps, fixed.grid.corners_lps_mm)
    index = apply_affine(moving.grid.lps_to_index, landed)
    last = np.asarray(moving.grid.shape_zyx) - 1
    if np.any(index.max(0) < -0.5) or np.any(index.min(0) > last + 0.5):
        raise GeometryError(
            f"{moving.name}: expected an image that overlaps {fixed.name}, which spans "
            f"{span(fixed.grid)}; got one that spans {span(moving.grid)} (LPS mm); check the "
            "headers, or give an initial transform"
        )
