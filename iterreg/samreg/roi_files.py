"""ROI pairs as files: lossless JSON, and a label view that any viewer shows.

``roi_pairs.json`` holds, for each pair, both masks as runs over their whole image (outside and
inside in turn, last array axis fastest, arrays in the order z, y, x), the similarity, and what
follows from the masks: area or volume, centroid, slices. The two grids stand at its head, so that
the masks can be read again without the images.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.errors import ImageReadError, IterregError
from iterreg.geometry import Grid, apply_affine
from iterreg.image import LabelMap, Mask, RoiPair
from iterreg.io import OutputFolder, write_aside, write_label_map
from iterreg.partition import regions_of_rois
from iterreg.samreg.rle import RunLengthMask, decode_mask, encode_mask

SCHEMA = 1


def write_roi_pairs(
    pairs: Sequence[RoiPair],
    path: str | Path,
    grids: tuple[Grid, Grid],
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write ROI pairs; none is a result too.

    Args:
        pairs: the most similar first.
        path: the file, ``roi_pairs.json`` by custom.
        grids: of the fixed and the moving image.
        about: how they were found, kept under ``about``.

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
                "fixed": _mask_table(pair.fixed),
                "moving": _mask_table(pair.moving),
            }
            for pair in pairs
        ],
    }
    text = json.dumps(tables, allow_nan=False, separators=(",", ":"))
    write_aside(path, lambda file: _write(file, text))


def read_roi_pairs(path: str | Path) -> list[RoiPair]:
    """Read what :func:`write_roi_pairs` wrote.

    Args:
        path: the file.

    Returns:
        The same pairs, in the same order, with the same masks.

    Raises:
        ImageReadError: missing, not JSON, another schema, or masks that do not fill their grid.
    """
    try:
        tables = json.loads(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ImageReadError(f"{path}: expected a file of ROI pairs, got: {error}") from error
    if not isinstance(tables, dict) or tables.get("schema") != SCHEMA or "pairs" not in tables:
        found = tables.get("schema") if isinstance(tables, dict) else None
        raise ImageReadError(
            f"{path}: expected a file of ROI pairs with schema {SCHEMA}, got schema {found}"
        )
    try:
        grids = (_grid(tables["fixed"]), _grid(tables["moving"]))
        return [_pair(entry, grids, f"{path}, pair {n}") for n, entry in enumerate(tables["pairs"])]
    except (KeyError, TypeError, ValueError, IterregError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ImageReadError(f"{path}: expected whole ROI pairs, got: {reason}") from error


def write_roi_files(
    folder: OutputFolder,
    pairs: Sequence[RoiPair],
    grids: tuple[Grid, Grid],
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write ``roi_pairs.json`` and both label views.

    Args:
        folder: entered.
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
    """ROI pairs as label maps without overlap: pair k is label k, the smallest ROI on top."""
    regions = regions_of_rois(pairs)
    return regions.fixed, regions.moving


def _write(file: Path, text: str) -> None:
    file.write_text(text + "\n", encoding="utf-8")


def _grid_table(grid: Grid) -> dict[str, Any]:
    return {
        "shape_zyx": grid.shape_zyx,
        "spacing_xyz_mm": grid.spacing_xyz_mm,
        "origin_lps_mm": grid.origin_lps_mm,
        "direction_lps": grid.direction_lps,
    }


def _grid(table: Mapping[str, Any]) -> Grid:
    return Grid(
        tuple(table["shape_zyx"]),
        tuple(table["spacing_xyz_mm"]),
        tuple(table["origin_lps_mm"]),
        tuple(tuple(row) for row in table["direction_lps"]),
    )


def _mask_table(mask: Mask | LabelMap) -> dict[str, Any]:
    inside = np.asarray(mask.data.cpu().numpy()) != 0
    where = np.stack(np.nonzero(inside), 1)
    centre = apply_affine(mask.grid.index_to_lps, where.mean(0))
    size = len(where) * mask.grid.voxel_volume_mm3
    named = "volume_mm3" if mask.grid.rank == 3 else "area_mm2"
    return {
        "voxels": len(where),
        named: round(size, 3),
        "centroid_lps_mm": [round(float(v), 3) for v in centre],
        "first_zyx": where.min(0).tolist(),
        "last_zyx": where.max(0).tolist(),
        "runs": encode_mask(inside).runs,
    }


def _pair(entry: Mapping[str, Any], grids: tuple[Grid, Grid], name: str) -> RoiPair:
    sides = [
        LabelMap(_mask(entry[side]["runs"], grid), grid, name=f"{name}, {side}")
        for side, grid in zip(("fixed", "moving"), grids, strict=True)
    ]
    return RoiPair(sides[0], sides[1], float(entry["similarity"]))


def _mask(runs: Sequence[int], grid: Grid) -> torch.Tensor:
    inside: NDArray[np.bool_] = decode_mask(RunLengthMask(grid.shape_zyx, tuple(map(int, runs))))
    return torch.from_numpy(inside.astype(np.int32))
