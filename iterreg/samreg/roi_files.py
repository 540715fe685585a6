"""Write and read ROI pairs: lossless JSON, and label maps for any viewer.

``roi_pairs.json`` begins with the two grids, so that masks can be read without the images. For each
pair it holds the similarity, the confidence and both masks as runs over the whole image:
alternately outside and inside, last array axis fastest, arrays in the order z, y, x. The area or
volume, centroid and extent of each mask are added for people.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.atomic import OutputFolder, write_json
from iterreg.errors import ImageReadError, IterregError
from iterreg.geometry import Grid, apply_affine
from iterreg.image import LabelMap, Mask, OnGrid, RoiPair, require_same_space
from iterreg.io import write_label_map
from iterreg.partition import regions_of_rois
from iterreg.samreg.rle import RunLengthMask, decode_mask, encode_mask
from iterreg.texts import parse_json

SCHEMA = 1

MOST_VOXELS = 1 << 31
"""Of a grid that a file may ask for."""


def write_roi_pairs(
    pairs: Sequence[RoiPair],
    path: str | Path,
    grids: tuple[Grid, Grid],
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write ROI pairs; the list may be empty.

    Args:
        pairs: the most similar first.
        path: the file, usually ``roi_pairs.json``.
        grids: of the fixed and the moving image.
        about: how they were found; stored under ``about``.

    Raises:
        OutputError: the file cannot be written.
    """
    tables = {
        "schema": SCHEMA,
        "about": dict(about or {}),
        "fixed": _grid_table(grids[0]),
        "moving": _grid_table(grids[1]),
        "pairs": [
            {
                "similarity": pair.similarity,
                "confidence": pair.confidence,
                "fixed": _mask_table(pair.fixed),
                "moving": _mask_table(pair.moving),
            }
            for pair in pairs
        ],
    }
    write_json(tables, path, indent=None)


def read_roi_pairs(path: str | Path, images: tuple[OnGrid, OnGrid] | None = None) -> list[RoiPair]:
    """Read a file of :func:`write_roi_pairs`: the same pairs, in the same order.

    Args:
        path: the file.
        images: fixed and moving, whose space the file must have; None takes any.

    Raises:
        GeometryError: the file is of another space than the images.
        ImageReadError: missing, not JSON, of another schema, or masks that do not fill their grid.
    """
    try:
        tables = parse_json(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ImageReadError(f"{path}: expected a file of ROI pairs, got: {error}") from error
    if not isinstance(tables, dict) or tables.get("schema") != SCHEMA or "pairs" not in tables:
        found = tables.get("schema") if isinstance(tables, dict) else None
        raise ImageReadError(
            f"{path}: expected a file of ROI pairs with schema {SCHEMA}, got schema {found}"
        )
    try:
        grids = (_grid(tables["fixed"]), _grid(tables["moving"]))
    except (KeyError, TypeError, ValueError, IterregError) as error:
        raise _not_whole(path, error) from error
    for grid, image in zip(grids, images or (), strict=False):
        require_same_space(_Named(grid, str(path)), image)
    try:
        return [_pair(entry, grids, f"{path}, pair {n}") for n, entry in enumerate(tables["pairs"])]
    except (KeyError, TypeError, ValueError, IterregError) as error:
        raise _not_whole(path, error) from error


@dataclass(frozen=True)
class _Named:
    grid: Grid
    name: str


def _not_whole(path: str | Path, error: Exception) -> ImageReadError:
    reason = f"no {error}" if isinstance(error, KeyError) else str(error)
    return ImageReadError(f"{path}: expected whole ROI pairs, got: {reason}")


def write_roi_files(
    folder: OutputFolder,
    pairs: Sequence[RoiPair],
    grids: tuple[Grid, Grid],
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write ``roi_pairs.json`` and both label maps.

    Args:
        folder: open for writing (inside its ``with`` block).
        pairs, grids, about: as for :func:`write_roi_pairs`.

    Raises:
        OutputError: a file cannot be written.
    """
    write_roi_pairs(pairs, folder.path("roi_pairs.json"), grids, about)
    views = (
        label_views(pairs)
        if pairs
        else tuple(LabelMap(torch.zeros(grid.shape_zyx, dtype=torch.int32), grid) for grid in grids)
    )
    for side, view in zip(("fixed", "moving"), views, strict=True):
        write_label_map(view, folder.path(f"{side}_roi_pairs.nii.gz"))


def label_views(pairs: Sequence[RoiPair]) -> tuple[LabelMap, LabelMap]:
    """Draw ROI pairs as label maps: pair k is label k; the smallest ROI wins where they overlap."""
    regions = regions_of_rois(pairs)
    return regions.fixed, regions.moving


def _grid_table(grid: Grid) -> dict[str, Any]:
    return {
        "shape_zyx": grid.shape_zyx,
        "spacing_xyz_mm": grid.spacing_xyz_mm,
        "origin_lps_mm": grid.origin_lps_mm,
        "direction_lps": grid.direction_lps,
    }


def _grid(table: Mapping[str, Any]) -> Grid:
    shape = tuple(_whole(table["shape_zyx"]))
    if math.prod(shape) > MOST_VOXELS:
        raise ValueError(f"a grid of {shape} voxels, more than {MOST_VOXELS}")
    return Grid(
        shape,
        tuple(_real(table["spacing_xyz_mm"])),
        tuple(_real(table["origin_lps_mm"])),
        tuple(tuple(_real(row)) for row in table["direction_lps"]),
    )


def _whole(values: Any) -> list[int]:
    if not isinstance(values, list) or not all(type(v) is int and v >= 0 for v in values):
        raise ValueError(f"expected a list of whole numbers, got {str(values)[:40]}")
    return values


def _real(values: Any) -> list[float]:
    if not isinstance(values, list) or not all(type(v) in (int, float) for v in values):
        raise ValueError(f"expected a list of numbers, got {str(values)[:40]}")
    return [float(v) for v in values]


def _mask_table(mask: Mask | LabelMap) -> dict[str, Any]:
    inside = np.asarray(mask.data.cpu().numpy()) != 0
    index_zyx = np.stack(np.nonzero(inside), 1)
    centroid_lps = apply_affine(mask.grid.index_to_lps, index_zyx.mean(0))
    size = len(index_zyx) * mask.grid.voxel_volume_mm3
    size_name = "volume_mm3" if mask.grid.rank == 3 else "area_mm2"
    return {
        "voxels": len(index_zyx),
        size_name: round(size, 3),
        "centroid_lps_mm": [round(float(v), 3) for v in centroid_lps],
        "first_zyx": index_zyx.min(0).tolist(),
        "last_zyx": index_zyx.max(0).tolist(),
        "runs": encode_mask(inside).runs,
    }


def _pair(entry: Mapping[str, Any], grids: tuple[Grid, Grid], name: str) -> RoiPair:
    sides = [
        LabelMap(_mask(entry[side]["runs"], grid), grid, name=f"{name}, {side}")
        for side, grid in zip(("fixed", "moving"), grids, strict=True)
    ]
    known = entry.get("confidence")
    confidence = None if known is None else _real([known])[0]
    return RoiPair(sides[0], sides[1], _real([entry["similarity"]])[0], confidence)


def _mask(runs: Any, grid: Grid) -> torch.Tensor:
    inside: NDArray[np.bool_] = decode_mask(RunLengthMask(grid.shape_zyx, tuple(_whole(runs))))
    return torch.from_numpy(inside.astype(np.int32))
