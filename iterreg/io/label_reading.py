"""Label maps and masks from files and SimpleITK images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from iterreg.errors import GeometryError, ImageContentError, ImageReadError
from iterreg.geometry import Grid
from iterreg.image import Image, LabelMap, Mask
from iterreg.image.arrays import require_whole_numbers
from iterreg.io.choices import reading_choices, warn_of
from iterreg.io.dicom.files import is_bare, is_dicom, read_header
from iterreg.io.dicom.frames import modality
from iterreg.io.dicom.segmentation import read_segmentation
from iterreg.io.dicom.structures import read_structures
from iterreg.io.foreign import from_foreign
from iterreg.io.image_formats import Stored
from iterreg.io.itk import named_grid, require_exists, require_sane, scalar_volume
from iterreg.io.loading import is_itk_image, load_stored
from iterreg.io.segments import Segment, is_wanted, labels_of_segments, only_structures

if TYPE_CHECKING:
    import SimpleITK as sitk

    from iterreg.image.kinds import LabelsLike


MOST_LISTED = 12
"""Labels in a message."""


def read_label_map(
    path: str | Path,
    names: Mapping[int, str] | None = None,
    reference: Grid | None = None,
    overlapping: bool = False,
) -> LabelMap:
    """Read a label map, in any format of :func:`read_image`, a DICOM SEG or an RTSTRUCT.

    Args:
        path: the file. Floating-point files are accepted if every value is a whole number.
        names: name of each label; None takes the names that the file carries, if it does.
        reference: grid of the image that the labels belong to; contours are drawn into it.
        overlapping: whether segments may share voxels: see :class:`LabelMap`'s ``whole``.

    Raises:
        ImageReadError: as :func:`read_image`.
        ImageContentError: NaN, infinite or fractional values, values beyond 32 bits, or a vector
            per voxel, or segments that overlap and must not.
        GeometryError: as :func:`read_image`; or contours without a reference.

    Example:
        >>> from iterreg.io.writing import write_label_map
        >>> axes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
        >>> from iterreg.geometry import Grid
        >>> grid = Grid((2, 3, 4), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0), axes)
        >>> fives = torch.full((2, 3, 4), 5, dtype=torch.int32)
        >>> write_label_map(LabelMap(fives, grid), "five.nrrd")
        >>> labels = read_label_map("five.nrrd", {5: "liver"})
        >>> labels.values, labels.title(5)
        ([5], 'liver')
    """
    path = Path(path)
    require_exists(path)
    patterns = reading_choices().structures
    kind = _object_kind(path)
    if kind in ("SEG", "RTSTRUCT"):
        segments, grid, notes = _read_object(path, kind, reference)
        labels = labels_of_segments(segments, grid, str(path), overlapping)
        labels = _renamed(replace(labels, notes=(*notes, *labels.notes)), names)
        warn_of(labels.notes)
        return labels
    loaded, stored = load_stored(path)
    if stored.layers:
        labels = _renamed(_layered(loaded, stored, path, overlapping), names)
        warn_of(labels.notes[len(stored.notes) :])
        return labels
    labels = replace(_label_map(loaded, str(path), stored.names), notes=stored.notes)
    labels = _renamed(labels, names)
    return only_structures(labels, patterns) if patterns else labels


def read_mask(path: str | Path, reference: Grid | None = None) -> LabelMap:
    """Read a mask: every non-zero voxel becomes 1.

    Raises:
        ImageReadError: as :func:`read_image`.
        ImageContentError: as :func:`read_label_map`, or no voxel is inside.
        GeometryError: as :func:`read_image`.
    """
    return _binary(read_label_map(path, None, reference, overlapping=True))


def as_label_map(
    value: LabelsLike,
    name: str,
    names: Mapping[int, str] | None = None,
    reference: Grid | None = None,
    overlapping: bool = False,
) -> LabelMap:
    """Return a label map from a path, an image of another package, or a :class:`LabelMap`.

    Args:
        value: a path, an image of SimpleITK, nibabel, MONAI, torchio or ANTs, or a
            :class:`LabelMap`, which stays as it is.
        name: the argument's name, for messages about values without a path.
        names: name of each label; None keeps those that a file or a :class:`LabelMap` has.
        reference, overlapping: as in :func:`read_label_map`.

    Raises:
        TypeError: anything else.
        GeometryError: an array or tensor alone, which does not say where its voxels are.
        ImageReadError, ImageContentError, GeometryError: as :func:`read_label_map`.
    """
    if isinstance(value, LabelMap):
        return _renamed(value.named(name), names)
    if isinstance(value, Image):
        raise ImageContentError(
            f"{name}: expected labels, got an image with intensities: give a LabelMap"
        )
    if isinstance(value, str | Path):
        return read_label_map(value, names, reference, overlapping)
    if is_itk_image(value):
        return _renamed(_label_map(value, name, None), names)
    found = from_foreign(value, name)
    grid = require_sane(found.grid, found.name)
    labels = LabelMap.from_array(found.array, axes=found.axes, grid=grid, name=found.name)
    return _renamed(labels, names)


def as_mask(value: LabelsLike, name: str, reference: Grid | None = None) -> LabelMap:
    """Return a mask as :func:`as_label_map` does; every non-zero voxel becomes 1.

    Raises:
        ImageContentError: no voxel is inside; otherwise as :func:`as_label_map`.
    """
    return _binary(as_label_map(value, name, None, reference, overlapping=True))


def _object_kind(path: Path) -> str:
    """The modality of a DICOM file; empty for anything else."""
    if os.path.isdir(path) or not (is_dicom(path) or is_bare(path)):
        return ""
    return modality(path, read_header(path))


def _read_object(
    path: Path, kind: str, reference: Grid | None
) -> tuple[list[Segment], Grid, tuple[str, ...]]:
    patterns = reading_choices().structures
    if kind == "SEG":
        return read_segmentation(path, patterns, reference)
    if reference is None:
        raise GeometryError(
            f"{path}: expected a label map with voxels, got contours (RTSTRUCT), which need the "
            "image that they were drawn on"
        )
    segments, notes = read_structures(path, reference, patterns)
    return segments, reference, notes


def _layered(loaded: sitk.Image, stored: Stored, path: Path, overlapping: bool) -> LabelMap:
    """The segments of several label maps on top of each other."""
    import SimpleITK as sitk

    grid = named_grid(loaded, str(path))
    array = sitk.GetArrayViewFromImage(loaded)
    if array.ndim == grid.rank:
        array = array[..., None]
    patterns = reading_choices().structures
    segments = []
    for number, layer in enumerate(stored.layers, 1):
        if layer.layer >= array.shape[-1]:
            raise ImageReadError(
                f"{path}: expected {array.shape[-1]} layers, got a segment in layer {layer.layer}"
            )
        inside = torch.from_numpy(array[..., layer.layer] == layer.value)
        if bool(inside.any()) and is_wanted(layer.name, patterns):
            mask = Mask.of(LabelMap(inside.int(), grid, name=str(path)))
            segments.append(Segment(layer.name, number, mask))
    labels = labels_of_segments(segments, grid, str(path), overlapping)
    return replace(labels, notes=(*stored.notes, *labels.notes))


def _renamed(labels: LabelMap, names: Mapping[int, str] | None) -> LabelMap:
    """The label map with the names of a table, which has to name some of its labels.

    Raises:
        ImageContentError: it names none that occurs.
    """
    if names is None:
        return labels
    unnamed = [str(value) for value in labels.values if value not in names]
    if names and unnamed and len(unnamed) == len(labels.values):
        raise ImageContentError(
            f"{labels.name}: expected labels that the label table names "
            f"({_few(map(str, names))}), got {_few(unnamed)}"
        )
    note = f"{labels.name}: the label table has no name for {_few(unnamed)}"
    notes = (*labels.notes, note) if names and unnamed else labels.notes
    return replace(labels, names=dict(names), notes=notes)


def _few(words: Iterable[str]) -> str:
    """The first of some words, and how many more there are."""
    some = [*words]
    rest = len(some) - MOST_LISTED
    return ", ".join(some[:MOST_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def _label_map(loaded: sitk.Image, name: str, names: Mapping[int, str] | None) -> LabelMap:
    import SimpleITK as sitk

    loaded = scalar_volume(loaded, name)
    if loaded.GetNumberOfComponentsPerPixel() != 1:
        raise ImageContentError(f"{name}: expected one label per voxel, got a colour picture")
    stored = sitk.GetArrayViewFromImage(loaded)
    require_whole_numbers(stored, name)
    data = torch.from_numpy(stored.astype(np.int32))
    return LabelMap(data, named_grid(loaded, name), dict(names or {}), name)


def _binary(mask: LabelMap) -> LabelMap:
    inside = (mask.data != 0).int()
    if not bool(inside.any()):
        raise ImageContentError(f"{mask.name}: expected a mask, but no voxel is inside it")
    return replace(mask, data=inside, names={1: "mask"}, whole={})
