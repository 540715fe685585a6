"""Segmenters of plug-ins: a function that segments one image becomes a row of ``SEGMENTERS``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from iterreg.errors import IterregError, PluginError
from iterreg.image import Image, LabelMap, require_same_space
from iterreg.image.arrays import as_numpy
from iterreg.io import as_label_map
from iterreg.partition import Regions
from iterreg.plugins import guarded
from iterreg.regions.match_labels import match_labels

if TYPE_CHECKING:
    from iterreg.regions.segmenters import Segmenter


def adapt(label: str, segment: Any) -> Segmenter:
    """Make a segmenter of pairs of a function ``(image, device)`` that segments one image.

    Args:
        label: the plug-in, for messages.
        segment: returns labels of the image: a :class:`iterreg.LabelMap`, an image of another
            package, or an array (z, y, x) of the image's own shape; or a pair of labels and a dict
            of number: name.

    Raises:
        PluginError: it is no function.
    """
    if not callable(segment):
        raise PluginError(
            f"{label}: expected a function (image, device), got {type(segment).__name__}"
        )

    def segment_pair(fixed: Image, moving: Image, device: str) -> Regions:
        both = [segment_one(label, segment, image, device) for image in (fixed, moving)]
        return match_labels(*both)

    return segment_pair


def segment_one(
    label: str, segment: Callable[[Image, str], Any], image: Image, device: str
) -> LabelMap:
    """Segment one image, and check the answer.

    Raises:
        PluginError: the function fails, or its answer does not fit the image.
        IterregError: as the function raises it.
    """
    answer = guarded(label, segment, image, device)
    names: Mapping[int, str] | None = None
    if isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], Mapping):
        answer, names = answer
    try:
        labels = _labels(answer, names, image)
        require_same_space(labels, image)
    except (IterregError, TypeError) as error:
        raise PluginError(f"{label}: {error}") from error
    if not labels.values:
        raise PluginError(f"{label}: {image.name}: expected regions, got background alone")
    return labels


def _labels(answer: Any, names: Mapping[int, str] | None, image: Image) -> LabelMap:
    """The answer as a label map on the image's grid."""
    name = f"labels of {image.name}"
    is_bare = isinstance(answer, torch.Tensor) and not hasattr(answer, "affine")
    if is_bare or type(answer).__module__ == "numpy":
        array = as_numpy(answer, name)
        axes = "zyx"[-image.grid.rank :]
        return LabelMap.from_array(array, axes=axes, grid=image.grid, names=names, name=name)
    labels: LabelMap = as_label_map(answer, name, names)
    return labels
