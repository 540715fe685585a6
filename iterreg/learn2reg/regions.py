"""Find and read segmentations in a folder: one file per image, with the image's name."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path, PurePosixPath

from iterreg.errors import ImageReadError
from iterreg.image import LabelMap
from iterreg.io import read_label_map
from iterreg.regions.label_tables import LabelTable, load_label_table
from iterreg.regions.merge_labels import merge_labels


def find_regions(folder: Path, image: PurePosixPath) -> Path:
    """Find an image's segmentation: ``NAME`` in the folder or its ``labelsTr``, or ``NAME_seg``.

    Args:
        folder: of the segmentations.
        image: path of the image inside its task.

    Raises:
        ImageReadError: there is no such file.
    """
    stem = image.name.removesuffix(".nii.gz")
    labels = image.parent.name.replace("images", "labels")
    candidates = (
        image.name,
        f"{labels}/{image.name}",
        f"{image.parent.name}/{image.name}",
        f"{stem}_seg.nii.gz",
    )
    found = next((folder / name for name in candidates if os.path.isfile(folder / name)), None)
    if found is None:
        raise ImageReadError(f"{folder}: expected the regions of {image.name} there")
    return found


def load_regions(path: Path, table: str | None, target: str) -> tuple[LabelMap, str]:
    """Read regions and their names, and merge them into the classes of a table.

    TotalSegmentator writes the names into the file; for other files give a table.

    Args:
        path: the label map.
        table: a label table's name or file; None if the file has its own names.
        target: table of the classes to merge into; empty does not merge.

    Returns:
        The label map, and the source of its names in words.

    Raises:
        ImageReadError, ImageContentError, GeometryError, ConfigError: a file cannot be used.
    """
    labels = read_label_map(path)
    if table is not None:
        names_table, source = load_label_table(table), table
        labels = replace(labels, names=names_table.names)
    else:
        names_table = LabelTable("the file's own names", labels.names)
        source = names_table.name
    if not names_table.names:
        return labels, "no names, so the preset's rules for named regions do not apply"
    if target and not table_is(names_table, target):
        return merge_labels(labels, names_table, target).labels, f"{source}, merged into {target}"
    return labels, source


def table_is(table: LabelTable, target: str) -> bool:
    """Tell whether all names of a table are classes of a target already."""
    return set(table.names.values()) <= set(load_label_table(target).names.values())
