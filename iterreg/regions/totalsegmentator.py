"""Segment an image with TotalSegmentator, an optional package with weights of its own.

Any task of the installed version can be run, for CT or MR. The numbering is read from the class map
of the installed version, so that structures are merged by name whichever version runs. iterreg
never downloads weights; TotalSegmentator does, on its own terms.
"""

from __future__ import annotations

import importlib.metadata
import logging
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.atomic import scratch_folder
from iterreg.errors import ConfigError, ImageContentError, MissingDependencyError, SegmentationError
from iterreg.image import Image, LabelMap
from iterreg.regions._networks import foreign_code, require_volume
from iterreg.regions.label_tables import LabelTable, load_label_table
from iterreg.regions.merge_labels import merge_labels
from iterreg.versions import import_package

DEFAULT_TARGET = "thorax13"
"""The table that the main task is merged into."""

INSTALL = 'pip install "iterreg[totalsegmentator]"'

AFFINE_TOLERANCE_MM = 1e-2
"""Largest distance between voxels of segmentation and image: the rounding of a NIfTI header."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RawSegmentation:
    """The answer of a segmenter, in nibabel's convention.

    Args:
        labels_ijk: (I, J, K) integers.
        ijk_to_ras: (4, 4), from an index to RAS mm.
        table: what the numbers mean.
    """

    labels_ijk: NDArray[np.integer]
    ijk_to_ras: NDArray[np.float64]
    table: LabelTable


class Runner(Protocol):
    """Segments an array in nibabel's convention."""

    def __call__(
        self, image_ijk: NDArray[np.float32], ijk_to_ras: NDArray[np.float64], device: str
    ) -> RawSegmentation:
        """Segment (I, J, K) HU with its (4, 4) matrix to RAS mm on cpu, cuda, cuda:N or mps."""


def segment_totalsegmentator(
    image: Image,
    device: str,
    runner: Runner | None = None,
    target: str = DEFAULT_TARGET,
    task: str = "total",
) -> LabelMap:
    """Segment a volume with TotalSegmentator, and merge its structures by name.

    Classes without a source (with version 2 the pulmonary artery) are logged as warnings.

    Args:
        image: a volume: CT in HU, or MR for a task that is made for it.
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        runner: runs the segmenter; None is TotalSegmentator's Python interface.
        target: the table of classes to merge into; empty keeps all structures, with their names.
        task: of TotalSegmentator, such as ``total``, ``total_mr`` or ``lung_vessels``.

    Returns:
        The labels on the grid of the image.

    Raises:
        ImageContentError: the image is not a volume with one channel.
        MissingDependencyError: TotalSegmentator is not installed.
        ConfigError: it has no such task, or there is no such table.
        SegmentationError: it failed, found nothing of the target's classes, or answered on another
            grid.

    Source:
        Wasserthal et al., TotalSegmentator, Radiology: Artificial Intelligence 5(5), 2023.
    """
    require_volume(image, "TotalSegmentator")
    ijk = np.ascontiguousarray(image.data[0].detach().cpu().numpy().transpose(2, 1, 0))
    run = runner or partial(run_totalsegmentator, task=task)
    raw = run(ijk, image.grid.ijk_to_ras, device)
    _require_same_grid(raw, image)
    zyx = np.ascontiguousarray(raw.labels_ijk.transpose(2, 1, 0).astype(np.int32))
    name = f"TotalSegmentator of {image.name}"
    labels = LabelMap(torch.from_numpy(zyx), image.grid, dict(raw.table.names), name)
    if not target:
        if not labels.values:
            raise SegmentationError(f"{image.name}: no anatomy of {raw.table.name} found")
        return labels
    try:
        merged = merge_labels(labels, raw.table, target)
    except ImageContentError as error:
        raise SegmentationError(f"{image.name}: no anatomy of {target} found: {error}") from error
    for note in merged.notes:
        _log.warning("%s: %s", image.name, note)
    return merged.labels


def run_totalsegmentator(
    image_ijk: NDArray[np.float32],
    ijk_to_ras: NDArray[np.float64],
    device: str,
    task: str = "total",
) -> RawSegmentation:
    """Run the installed TotalSegmentator (version 1 or 2) on a task. See :class:`Runner`.

    Image and labels are passed as files, the one interface that both versions have.

    Raises:
        MissingDependencyError: TotalSegmentator or nibabel is not installed.
        ConfigError: it has no such task.
        SegmentationError: TotalSegmentator failed.
    """
    segment = _import("totalsegmentator.python_api").totalsegmentator
    nibabel = _import("nibabel")
    version = importlib.metadata.version("TotalSegmentator")
    table = installed_table(version, task)
    # Version 1 has no such argument: it uses a GPU if there is one.
    options = {} if version.startswith("1.") else {"device": device.replace("cuda", "gpu")}
    with scratch_folder() as folder:
        image_path, labels_path = folder / "image.nii.gz", folder / "labels.nii.gz"
        nibabel.save(nibabel.Nifti1Image(image_ijk, ijk_to_ras), image_path)
        with foreign_code(f"task {task}", f"TotalSegmentator {version}"):
            segment(image_path, labels_path, ml=True, task=task, quiet=True, **options)
            answer = nibabel.load(labels_path)
            labels = np.asarray(answer.dataobj).astype(np.int32)
    return RawSegmentation(labels, np.asarray(answer.affine), table)


def installed_table(version: str, task: str = "total") -> LabelTable:
    """The numbering of a task, from the package itself, or from the tables of iterreg.

    Raises:
        ConfigError: the package has no such task.
    """
    try:
        tasks = dict(_import("totalsegmentator.map_to_binary").class_map)
    except (MissingDependencyError, AttributeError):
        tasks = {}
    if task in tasks:
        names = {int(k): str(v) for k, v in tasks[task].items()}
        return LabelTable(f"totalsegmentator {version} {task!r}", names)
    if task == "total":
        return load_label_table(f"totalsegmentator-v{1 if version.startswith('1.') else 2}")
    raise ConfigError(
        f"segmenter totalsegmentator: task {task}: expected one of "
        f"{', '.join(sorted(tasks)) or 'the tasks of a newer version'} (TotalSegmentator {version})"
    )


def _require_same_grid(raw: RawSegmentation, image: Image) -> None:
    shape = tuple(reversed(raw.labels_ijk.shape))
    expected = image.grid.ijk_to_ras
    corner = np.array([*(n - 1 for n in raw.labels_ijk.shape), 1.0])
    if shape == image.grid.shape_zyx and all(
        np.allclose(raw.ijk_to_ras @ index, expected @ index, atol=AFFINE_TOLERANCE_MM)
        for index in (np.diag(corner) @ pick for pick in _BOX_CORNERS)
    ):
        return
    raise SegmentationError(
        f"{image.name}: TotalSegmentator answered on another grid: expected "
        f"{tuple(reversed(image.grid.shape_zyx))} voxels, got {raw.labels_ijk.shape}, "
        f"matrix {np.round(raw.ijk_to_ras, 3).tolist()}"
    )


_BOX_CORNERS = np.array([(0, 0, 0, 1), (1, 0, 0, 1), (0, 1, 0, 1), (0, 0, 1, 1), (1, 1, 1, 1)])


def _import(module: str) -> Any:
    return import_package(module, "the segmenter totalsegmentator", INSTALL)
