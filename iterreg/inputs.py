"""What ``optimize_pair`` is given: read, checked, refused in one line where it cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from iterreg.config import Config
from iterreg.displacement import Transform
from iterreg.errors import GeometryError, ImageContentError
from iterreg.geometry import Grid, Points, apply_affine
from iterreg.image import Image, LabelMap, RoiPair, require_same_space
from iterreg.io import as_image, as_label_map, as_mask, read_points
from iterreg.partition import Regions, regions_of_rois
from iterreg.regions.field_of_view import field_of_view
from iterreg.transform import as_transform

if TYPE_CHECKING:
    import SimpleITK as sitk

    ImageLike = str | Path | sitk.Image | Image
    PointsLike = str | Path | Points
    LabelsLike = str | Path | sitk.Image | LabelMap
    TransformLike = str | Path | sitk.Transform | Transform


def read_pair(fixed: ImageLike, moving: ImageLike) -> tuple[Image, Image]:
    """Both images, known to be registrable with each other."""
    first = as_image(fixed, "fixed").checked()
    second = as_image(moving, "moving").checked()
    if first.grid.rank != second.grid.rank:
        raise GeometryError(
            f"{second.name}: expected rank {first.grid.rank} as {first.name}, "
            f"got {second.grid.rank}"
        )
    return first, second


def read_mask_of(mask: LabelsLike | None, image: Image) -> LabelMap | None:
    """A mask in its image's space, or None where none is given."""
    if mask is None:
        return None
    loaded = as_mask(mask, f"mask of {image.name}")
    require_same_space(loaded, image)
    return loaded


def fields_of_view(
    images: tuple[Image, Image], masks: tuple[LabelMap | None, LabelMap | None]
) -> tuple[tuple[Tensor, Tensor], dict[str, str]]:
    """Where each image is to be trusted, and how that was found."""
    seen, views = [], {}
    for side, image, mask in zip(("fixed", "moving"), images, masks, strict=True):
        view = field_of_view(image)
        inside = view.mask if mask is None else view.mask & (mask.data > 0)
        if not bool(inside.any()):
            raise ImageContentError(f"{image.name}: expected a mask that meets the field of view")
        share = float(inside.float().mean())
        told = view.kind if mask is None else f"{view.kind}, mask"
        views[side] = f"{told}: {100 * share:.0f} % of the image"
        seen.append(inside)
    return (seen[0], seen[1]), views


def find_regions(
    config: Config,
    images: tuple[Image, Image],
    fixed_labels: LabelsLike | None,
    moving_labels: LabelsLike | None,
    rois: Sequence[RoiPair],
    device: str,
) -> Regions:
    """Regions from the user's label maps, from ROI pairs, or from the preset's segmenter."""
    from iterreg.regions.label_tables import match_labels

    if (fixed_labels is None) != (moving_labels is None):
        missing = "fixed_labels" if fixed_labels is None else "moving_labels"
        raise ImageContentError(f"{missing}: expected label maps for both images or for none")
    if fixed_labels is not None and moving_labels is not None:
        maps = [
            as_label_map(labels, f"labels of {image.name}")
            for labels, image in zip((fixed_labels, moving_labels), images, strict=True)
        ]
        for labels, image in zip(maps, images, strict=True):
            require_same_space(labels, image)
        matched = match_labels(maps[0], maps[1])
        return Regions(matched.fixed, matched.moving, notes=tuple(matched.notes))
    if rois:
        return regions_of_rois(rois)
    if config.segmenter == "none":
        return Regions(_no_labels(images[0]), _no_labels(images[1]))
    if config.segmenter == "thorax-ct":
        from iterreg.regions.thorax_ct import segment_thorax_ct

        matched = match_labels(*(segment_thorax_ct(image) for image in images))
        return Regions(matched.fixed, matched.moving, True, tuple(matched.notes))
    from iterreg.regions.totalsegmentator import segment_totalsegmentator

    matched = match_labels(*(segment_totalsegmentator(image, device) for image in images))
    return Regions(matched.fixed, matched.moving, notes=tuple(matched.notes))


def _no_labels(image: Image) -> LabelMap:
    empty = torch.zeros(image.grid.shape_zyx, dtype=torch.int32)
    return LabelMap(empty, image.grid, name=f"regions of {image.name}")


def read_landmarks(
    fixed: PointsLike | None, moving: PointsLike | None, rank: int | None = None
) -> tuple[Points, Points] | None:
    """Both sets of landmarks, known to be pairs, and of a rank where one is given."""
    if fixed is None and moving is None:
        return None
    if fixed is None or moving is None:
        missing = "fixed_landmarks" if fixed is None else "moving_landmarks"
        raise ImageContentError(f"{missing}: expected landmarks of both images or of none")
    ours, theirs = (p if isinstance(p, Points) else read_points(p) for p in (fixed, moving))
    first = "fixed_landmarks" if isinstance(fixed, Points) else str(fixed)
    second = "moving_landmarks" if isinstance(moving, Points) else str(moving)
    if ours.lps.shape != theirs.lps.shape:
        raise GeometryError(
            f"{second}: expected as many landmarks as {first}, {ours!r}, got {theirs!r}"
        )
    if rank not in (None, ours.lps.shape[1]):
        raise GeometryError(f"{first}: expected {rank}-D points as the images, got {ours!r}")
    return ours, theirs


def checked_rois(pairs: Sequence[RoiPair], images: tuple[Image, Image]) -> Sequence[RoiPair]:
    """ROI pairs, known to lie in the spaces of their images."""
    for pair in pairs:
        require_same_space(pair.fixed, images[0])
        require_same_space(pair.moving, images[1])
    return pairs


def read_start(transform: TransformLike | None, grid: Grid) -> Transform | None:
    """The given transform, known to have the images' rank, or None."""
    if transform is None:
        return None
    given = as_transform(transform, "initial_transform", grid)
    if given.grid.rank != grid.rank:
        raise GeometryError(f"initial_transform: expected rank {grid.rank}, got {given.grid.rank}")
    return given


def require_overlap(images: tuple[Image, Image], given: Transform | None) -> None:
    """Refuse a pair whose images do not meet in space."""
    fixed, moving = (image.grid for image in images)
    affine_lps = np.eye(fixed.rank + 1) if given is None else given.affine_lps
    landed = apply_affine(affine_lps, fixed.corners_lps_mm)
    index = apply_affine(moving.lps_to_index, landed)
    last = np.asarray(moving.shape_zyx) - 1
    if np.any(index.max(0) < -0.5) or np.any(index.min(0) > last + 0.5):
        raise GeometryError(
            f"{images[1].name}: expected an image that overlaps {images[0].name}, which spans "
            f"{_span(fixed)}; got one that spans {_span(moving)} (LPS mm); check the headers, or "
            "give an initial transform"
        )


def _span(grid: Grid) -> str:
    low, high = grid.corners_lps_mm.min(0), grid.corners_lps_mm.max(0)
    return " x ".join(f"{a:.0f}...{b:.0f}" for a, b in zip(low, high, strict=True))
