"""Segmenters by name: each finds the regions of a pair of images.

A segmenter is a function ``(fixed: Image, moving: Image, device: str) -> Regions``. To add one,
write such a function, in any module, and give it a row here. The configuration, the command line
and the messages read the table. Nothing heavy is imported before a segmenter runs. Plug-ins add
rows: ``plugin.py`` makes one of a function that segments one image.

Some segmenters take more than a name, after a colon: ``nnunet:FOLDER``. :data:`ARGUMENTS` says
which.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING

from iterreg.errors import ConfigError
from iterreg.plugins import OpenTable

if TYPE_CHECKING:
    from iterreg.image import Image, LabelMap
    from iterreg.partition import Regions

    Segmenter = Callable[..., Regions]

SEGMENTERS = OpenTable(
    "segmenter",
    {
        "none": "iterreg.regions.segmenters:no_regions",
        "thorax-ct": "iterreg.regions.segmenters:thorax_ct",
        "totalsegmentator": "iterreg.regions.segmenters:totalsegmentator",
        "nnunet": "iterreg.regions.segmenters:nnunet",
        "nnunet-results": "iterreg.regions.segmenters:nnunet_results",
        "monai": "iterreg.regions.segmenters:monai",
    },
    group="iterreg.segmenters",
    adapt="iterreg.regions.plugin:adapt",
)

ARGUMENTS = {
    "totalsegmentator": "TASK or TASK,TABLE",
    "nnunet": "FOLDER",
    "nnunet-results": "FOLDER",
    "monai": "FOLDER",
}
"""What may follow a segmenter's name, after a colon."""

NEEDED = ("nnunet", "nnunet-results", "monai")
"""These need it."""


PACKAGES = {"totalsegmentator": "TotalSegmentator", "nnunet": "nnunetv2", "monai": "monai"}
"""The packages that segmenters run."""


def package_of(name: str) -> dict[str, str]:
    """The version of the package that a segmenter runs, if it runs one that is installed."""
    if name not in PACKAGES:
        return {}
    try:
        return {PACKAGES[name]: metadata.version(PACKAGES[name])}
    except metadata.PackageNotFoundError:
        return {}


def described() -> str:
    """The segmenters that come with iterreg, with what may follow each name."""
    words = {name: f"{name}:{what}" for name, what in ARGUMENTS.items()}
    words["totalsegmentator"] = "totalsegmentator[:TASK[,TABLE]]"
    return ", ".join(words.get(name, name) for name in SEGMENTERS.own)


def no_regions(fixed: Image, moving: Image, device: str) -> Regions:
    """Find no regions: everything is background, and the field is smooth everywhere.

    Args:
        fixed, moving: the images.
        device: not used.
    """
    import torch

    from iterreg.image import LabelMap
    from iterreg.partition import Regions

    def empty(image: Image) -> LabelMap:
        data = torch.zeros(image.grid.shape_zyx, dtype=torch.int32)
        return LabelMap(data, image.grid, name=f"regions of {image.name}")

    return Regions(empty(fixed), empty(moving))


def thorax_ct(fixed: Image, moving: Image, device: str) -> Regions:
    """Find body, lungs, airways and bone in two chest CT, without weights.

    Args:
        fixed, moving: the images.
        device: not used; this segmenter runs on the CPU.

    Raises:
        SegmentationError: one of them is no chest CT.
    """
    from dataclasses import replace

    from iterreg.regions.match_labels import match_labels
    from iterreg.regions.thorax_ct import segment_thorax_pair

    both = segment_thorax_pair(fixed, moving)
    regions = match_labels(*both)
    notes = (*regions.notes, *both[0].notes, *both[1].notes)
    # What is outside the body is air, so background holds no anatomy.
    return replace(regions, empty_background=True, notes=notes)


def totalsegmentator(fixed: Image, moving: Image, device: str, *, what: str = "") -> Regions:
    """Find the structures of TotalSegmentator in two images.

    Args:
        fixed, moving: the images, of the modality of the task.
        device: runs the network: ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        what: ``TASK`` or ``TASK,TABLE``: a task of the installed version, such as ``total_mr``, and
            a table of classes to merge its structures into. Without any: the task ``total``, for
            CT, merged into SegReg's 13 classes.

    Raises:
        MissingDependencyError: TotalSegmentator is not installed.
        ConfigError: it has no such task.
        ImageContentError, SegmentationError: it cannot segment one of the images.
    """
    from iterreg.regions.totalsegmentator import DEFAULT_TARGET, segment_totalsegmentator

    task, _, target = (what or f"total,{DEFAULT_TARGET}").partition(",")
    return _match(
        (fixed, moving),
        lambda image: segment_totalsegmentator(image, device, target=target, task=task),
    )


def nnunet(fixed: Image, moving: Image, device: str, *, what: str) -> Regions:
    """Run a trained model of nnU-Net v2 on two images.

    Args:
        fixed, moving: the images.
        device: runs the network.
        what: the model's folder.

    Raises:
        MissingDependencyError: nnU-Net is not installed.
        ConfigError, WeightsError: the folder is no trained model.
        ImageContentError, SegmentationError: it cannot segment one of the images.
    """
    from iterreg.regions.nnunet import NnunetModel

    return _match((fixed, moving), NnunetModel.load(what, device).segment)


def nnunet_results(fixed: Image, moving: Image, device: str, *, what: str) -> Regions:
    """Take the labels that nnU-Net v2 has written for two images, found by the files' names.

    Args:
        fixed, moving: the images, from files.
        device: not used.
        what: the folder of results.

    Raises:
        ConfigError, SegmentationError, GeometryError: the labels are not there, or do not fit.
    """
    from iterreg.regions.nnunet_results import labels_of_results

    return _match((fixed, moving), lambda image: labels_of_results(image, what))


def monai(fixed: Image, moving: Image, device: str, *, what: str) -> Regions:
    """Run a bundle of MONAI on two images.

    Args:
        fixed, moving: the images.
        device: runs the network.
        what: the bundle's folder.

    Raises:
        MissingDependencyError: MONAI is not installed.
        ConfigError, WeightsError: the folder is no bundle that segments.
        ImageContentError, SegmentationError: it cannot segment one of the images.
    """
    from iterreg.regions.monai_bundle import MonaiBundle

    return _match((fixed, moving), MonaiBundle.load(what, device).segment)


def find_regions(spec: str, fixed: Image, moving: Image, device: str) -> Regions:
    """Run the segmenter that a configuration names.

    Args:
        spec: a name of :data:`SEGMENTERS`, or ``NAME:WHAT``.
        fixed, moving: the images.
        device: runs a network, if the segmenter has one.

    Raises:
        ConfigError: no such segmenter, or it takes nothing after its name, or needs it.
        IterregError: as the segmenter.
    """
    name, colon, what = spec.partition(":")
    segmenter: Segmenter = SEGMENTERS[name]
    if not colon:
        if name in NEEDED:
            raise ConfigError(f"segmenter {name}: expected {name}:{ARGUMENTS[name]}, got no more")
        return segmenter(fixed, moving, device)
    if name not in ARGUMENTS:
        raise ConfigError(f"segmenter {name}: expected nothing after its name, got {what!r}")
    if not what:
        raise ConfigError(f"segmenter {name}: expected {name}:{ARGUMENTS[name]}, got {spec!r}")
    return partial(segmenter, what=what)(fixed, moving, device)


def _match(images: tuple[Image, Image], segment: Callable[[Image], LabelMap]) -> Regions:
    """Segment each image, and match the labels of the two."""
    from iterreg.regions.match_labels import match_labels

    return match_labels(segment(images[0]), segment(images[1]))
