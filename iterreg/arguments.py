"""Read the files of a pair: from paths to the arguments of ``optimize_pair``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from iterreg.formats.reading import read_transform
from iterreg.io import read_image, read_label_map
from iterreg.landmarks import read_landmarks
from iterreg.regions.label_tables import load_label_table
from iterreg.samreg.roi_files import read_roi_pairs


def read_arguments(
    paths: Mapping[str, Any],
    *,
    label_table: str | None = None,
    series: Mapping[str, str | None] | None = None,
) -> dict[str, Any]:
    """Read the files of a pair.

    Args:
        paths: arguments of :func:`iterreg.optimize_pair`; files are paths, others stay as they are.
        label_table: names of the labels' numbers, by a table's name or file.
        series: which series of a DICOM folder is the ``fixed`` and the ``moving`` image.

    Returns:
        The arguments, read; masks stay paths. Both kinds of landmarks are always there, None
        without any.

    Raises:
        IterregError: a file cannot be read, or does not fit the others.

    Example:
        >>> from importlib import resources
        >>> pair = resources.files("iterreg") / "data" / "thorax4dct_mini"
        >>> read = read_arguments({s: str(pair / f"{s}.nii.gz") for s in ("fixed", "moving")})
        >>> read["fixed"].grid.shape_zyx
        (80, 71, 124)
    """
    arguments = dict(paths)
    for side in ("fixed", "moving"):
        arguments[side] = read_image(arguments[side], (series or {}).get(side))
    names = None if label_table is None else load_label_table(label_table).names
    for side in ("fixed", "moving"):
        if (path := arguments.get(f"{side}_labels")) is not None:
            grid = arguments[side].grid
            arguments[f"{side}_labels"] = read_label_map(path, names, grid, overlapping=True)
    if (path := arguments.get("initial_transform")) is not None:
        arguments["initial_transform"] = read_transform(path, arguments["fixed"].grid)
    if (path := arguments.get("roi_pairs")) is not None:
        arguments["roi_pairs"] = read_roi_pairs(path, (arguments["fixed"], arguments["moving"]))
    keys = "fixed_landmarks", "moving_landmarks"
    landmarks = read_landmarks(*map(arguments.get, keys))
    return arguments | dict(zip(keys, landmarks or (None, None), strict=True))
