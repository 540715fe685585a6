"""Segmentations that lie in a folder, one file an image, named as the images are."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from iterreg.errors import ImageReadError
from iterreg.image import LabelMap
from iterreg.io import read_label_map
from iterreg.regions.label_tables import LabelTable, load_table
from iterreg.regions.merge_labels import merge_labels

_LABEL = re.compile(r'<Label Key="(\d+)"[^>]*>\s*<!\[CDATA\[(.*?)\]\]>\s*</Label>', re.DOTALL)


def find_regions(folder: Path, image: PurePosixPath) -> Path:
    """The segmentation of an image: ``NAME`` in the folder, in its ``labelsTr``, or ``NAME_seg``.

    Args:
        folder: where segmentations are.
        image: the image's path inside its task.

    Raises:
        ImageReadError: there is none.
    """
    stem = image.name.removesuffix(".nii.gz")
    labels = image.parent.name.replace("images", "labels")
    tried = (
        image.name,
        f"{labels}/{image.name}",
        f"{image.parent.name}/{image.name}",
        f"{stem}_seg.nii.gz",
    )
    found = next((folder / name for name in tried if (folder / name).is_file()), None)
    if found is None:
        raise ImageReadError(f"{folder}: expected the regions of {image.name} there")
    return found


def load_regions(path: Path, table: str | None, target: str) -> tuple[LabelMap, str]:
    """Read regions and name them, by name and never by number where there is a choice.

    TotalSegmentator writes its names into the file; a table stands in where it did not.

    Args:
        path: the label map.
        table: a label table's name or file; None where the file names its own.
        target: table into which named structures are merged; empty keeps them apart.

    Returns:
        The label map, and where its names came from.

    Raises:
        ImageReadError, ImageContentError, GeometryError, ConfigError: it cannot be used.
    """
    names = names_in_header(path)
    if table is not None:
        names_table, source = load_table(table), table
    else:
        names_table = LabelTable("the file's own names", names)
        source = names_table.name
    labels = read_label_map(path, names_table.names)
    if not names_table.names:
        return labels, "no names: every region slides as the preset says of unnamed ones"
    if target and not table_is(names_table, target):
        return merge_labels(labels, names_table, target).labels, f"{source}, merged into {target}"
    return labels, source


def table_is(table: LabelTable, target: str) -> bool:
    """Whether a table's names are a target's classes already."""
    return set(table.names.values()) <= set(load_table(target).names.values())


def names_in_header(path: Path) -> dict[int, str]:
    """The label names that TotalSegmentator leaves in a NIfTI header; empty without them."""
    import nibabel

    try:
        extensions = getattr(nibabel.load(path).header, "extensions", [])
    except (OSError, nibabel.filebasedimages.ImageFileError) as error:
        raise ImageReadError(f"{path}: cannot be read: {error}") from error
    for extension in extensions:
        content = extension.get_content()
        text = content.decode("utf-8", "replace") if isinstance(content, bytes) else str(content)
        found = {int(number): name for number, name in _LABEL.findall(text)}
        found.pop(0, None)
        if found:
            return found
    return {}
