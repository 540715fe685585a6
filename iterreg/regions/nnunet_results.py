"""Regions from a folder of nnU-Net v2 results: one file for each case, and their names.

``nnUNetv2_predict -o FOLDER`` writes ``CASE.nii.gz`` for the image ``CASE_0000.nii.gz``, and a copy
of the model's ``dataset.json``, which names the labels. Nothing of nnU-Net has to be installed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from iterreg.errors import ConfigError, SegmentationError
from iterreg.image import Image, LabelMap, require_same_space
from iterreg.io import VOLUME_EXTENSIONS, extension_of, on_lattice_of, read_label_map
from iterreg.regions.label_files import checked_names
from iterreg.texts import TextError, parse_json

DATASET = "dataset.json"
CHANNEL = "_0000"
"""Ends the names of nnU-Net's images of the first channel."""


def dataset_names(path: Path) -> dict[int, str]:
    """The names of the labels that a model of nnU-Net v2 gives, from its ``dataset.json``.

    A model that was trained on regions (sets of labels) writes the numbers of
    ``regions_class_order``; the names are then those of the regions.

    Raises:
        ConfigError: no such file, or not one of nnU-Net v2.

    Example:
        >>> _ = Path("dataset.json").write_text('''{"labels": {"background": 0, "whole tumor":
        ... [1, 2], "core": 2}, "regions_class_order": [1, 2], "file_ending": ".nii.gz"}''')
        >>> dataset_names(Path("dataset.json"))
        {1: 'whole tumor', 2: 'core'}
    """
    labels = read_dataset(path)["labels"]
    order = read_dataset(path).get("regions_class_order")
    named = {k: v for k, v in labels.items() if k != "background"}
    if any(isinstance(value, list) for value in named.values()):
        if not isinstance(order, list) or len(order) != len(named):
            raise ConfigError(
                f"{path}: expected regions_class_order with {len(named)} numbers, one for each "
                f"region, got {order!r}"
            )
        return checked_names(zip(order, named, strict=True), str(path))
    return checked_names(((value, key) for key, value in named.items()), str(path))


def read_dataset(path: Path) -> dict[str, Any]:
    """The tables of a ``dataset.json``.

    Raises:
        ConfigError: it cannot be read, or has no labels.
    """
    try:
        tables = parse_json(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, TextError) as error:
        raise ConfigError(f"{path}: expected the dataset.json of nnU-Net v2: {error}") from error
    if not isinstance(tables, dict) or not isinstance(tables.get("labels"), dict):
        raise ConfigError(f"{path}: expected the dataset.json of nnU-Net v2, with labels")
    return tables


def labels_of_results(image: Image, folder: str | Path) -> LabelMap:
    """The labels of an image, from the file of its name.

    Args:
        image: from a file: ``CASE_0000`` or ``CASE``, of any format.
        folder: of results, with ``dataset.json``.

    Raises:
        ConfigError: no such folder, or no ``dataset.json`` in it.
        SegmentationError: no result for this image.
        GeometryError: the result lies in another space.
    """
    folder = Path(folder)
    if not os.path.isdir(folder):
        raise ConfigError(f"segmenter nnunet-results: {folder}: expected a folder of results")
    names = dataset_names(folder / DATASET)
    path = _result(image, folder)
    labels = on_lattice_of(read_label_map(path, names), image)
    require_same_space(labels, image)
    return labels


def _result(image: Image, folder: Path) -> Path:
    file = Path(image.name)
    stem = file.name.removesuffix(extension_of(file)).removesuffix(CHANNEL)
    endings = [str(read_dataset(folder / DATASET).get("file_ending", ""))]
    endings += [ending for ending in VOLUME_EXTENSIONS if ending not in endings]
    for ending in endings:
        if ending and os.path.isfile(folder / f"{stem}{ending}"):
            return folder / f"{stem}{ending}"
    known = sorted(p.name for p in folder.iterdir() if extension_of(p) in VOLUME_EXTENSIONS)
    some = ", ".join(known[:5]) + (", ..." if len(known) > 5 else "")
    raise SegmentationError(
        f"{image.name}: expected its labels in {folder / stem}{endings[0] or '.nii.gz'}, got "
        f"{some or 'a folder without label maps'}"
    )
