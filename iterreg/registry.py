"""Register plug-ins from Python, for the rest of the process, and list what is installed.

``docs/plugins.rst`` tells what each has to be, and how a package offers it by an entry point.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from iterreg.config import own_presets
from iterreg.energy.similarity import SIMILARITIES
from iterreg.formats import TRANSFORM_FORMATS
from iterreg.plugins import OpenTable, Plugin
from iterreg.preset_folders import preset_plugins
from iterreg.regions.segmenters import SEGMENTERS

if TYPE_CHECKING:
    from iterreg.energy.similarity.plugin import Cost
    from iterreg.formats.types import TransformFormat
    from iterreg.image import Image

TABLES: tuple[OpenTable, ...] = (SIMILARITIES, SEGMENTERS, TRANSFORM_FORMATS)
"""The tables that plug-ins add to."""


def register_similarity(name: str, cost: Cost) -> None:
    """Offer a similarity as ``similarity.kind = name``.

    Args:
        name: letters, digits, '.', '_' and '-'.
        cost: called as ``cost(fixed, warped, context)``. Both images are tensors (C, Z, Y, X),
            scaled to 0 ... 1; the context is an :class:`iterreg.SimilarityContext`. It returns one
            number, the mean over the voxels of ``context.mask``, or (Z, Y, X), one per voxel: 0
            for equal images, never negative, and torch can differentiate it by ``warped``.

    Raises:
        ConfigError: the name is taken.
        PluginError: ``cost`` is no function.

    Example:
        >>> from iterreg.config import load_config
        >>> def absolute(fixed, warped, context):
        ...     return (fixed - warped).abs().mean(0)
        >>> register_similarity("absolute", absolute)
        >>> load_config("general", {"similarity.kind": "absolute"}).similarity.kind
        'absolute'
        >>> from iterreg.registry import unregister
        >>> unregister("absolute")
    """
    SIMILARITIES.register(name, cost)


def register_segmenter(name: str, segment: Callable[[Image, str], Any]) -> None:
    """Offer a segmenter as ``segmenter = name`` and ``--segmenter name``.

    Args:
        name: as in :func:`register_similarity`.
        segment: called as ``segment(image, device)`` for each image of a pair, with an
            :class:`iterreg.Image` and ``cpu``, ``cuda``, ``cuda:N`` or ``mps``. It returns an
            :class:`iterreg.LabelMap`, an image of another package, or an array (z, y, x) of the
            image's shape; to name the labels also a pair of that and a dict of number: name. The
            labels of both images are matched by name, else by number.

    Raises:
        ConfigError, PluginError: as :func:`register_similarity`.

    Example:
        >>> from iterreg.config import load_config
        >>> def bright(image, device):
        ...     return (image.data[0] > 0.5).int(), {1: "bright"}
        >>> register_segmenter("bright", bright)
        >>> load_config("general", {"segmenter": "bright"}).segmenter
        'bright'
        >>> from iterreg.registry import unregister
        >>> unregister("bright")
    """
    SEGMENTERS.register(name, segment)


def register_transform_format(name: str, form: TransformFormat) -> None:
    """Offer a transform format: ``iterreg convert`` writes it, and everything reads it.

    Args:
        name: as in :func:`register_similarity`; the choice of ``--from`` and ``--to``.
        form: what it reads and writes, an :class:`iterreg.TransformFormat`.

    Raises:
        ConfigError, PluginError: as :func:`register_similarity`.

    Example:
        >>> import numpy, iterreg
        >>> def load_shift(path, sides):
        ...     matrix = numpy.eye(4)
        ...     matrix[:3, 3] = [float(word) for word in path.read_text().split()[1:]]
        ...     return iterreg.Transform(matrix, iterreg.DisplacementField.zero(sides.fixed))
        >>> shift = iterreg.TransformFormat(
        ...     meaning="a shift (mm, LPS)", read_suffixes=(".shift",), write_suffixes=(),
        ...     recognises=lambda path: path.read_text().startswith("shift"), load=load_shift,
        ... )
        >>> register_transform_format("shift", shift)
        >>> from iterreg.registry import unregister
        >>> unregister("shift")
    """
    TRANSFORM_FORMATS.register(name, form)


def unregister(name: str) -> None:
    """Take a similarity, segmenter or transform format away that was registered in Python.

    Example:
        >>> unregister("nothing of this name")
    """
    for table in TABLES:
        table.unregister(name)


def installed_plugins() -> list[Plugin]:
    """All plug-ins that can be chosen, by kind and name.

    Example:
        >>> [plugin.label for plugin in installed_plugins()]
        []
    """
    found = [plugin for table in TABLES for plugin in table.plugins.values()]
    return [*found, *preset_plugins(own_presets()).values()]


def used_plugins(chosen: dict[str, str]) -> dict[str, str]:
    """The packages of the plug-ins that a run chose, with their versions.

    Args:
        chosen: the name chosen of each kind.
    """
    by_name = {(plugin.kind, plugin.name): plugin for plugin in installed_plugins()}
    found = {f"{kind} {name}": by_name.get((kind, name)) for kind, name in chosen.items()}
    return {role: plugin.source for role, plugin in found.items() if plugin is not None}
