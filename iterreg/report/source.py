"""The source of a page: the tables of a run, its transform, and what else is at hand."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from iterreg.config import SCHEMA, load_config
from iterreg.displacement import Transform, resample_transform
from iterreg.errors import ImageReadError, IterregError
from iterreg.formats.reading import read_transform
from iterreg.geometry import Grid
from iterreg.image import Image, LabelMap
from iterreg.io import read_channels, read_image, read_label_map, series_of
from iterreg.regions.field_of_view import field_of_view
from iterreg.report.words import table
from iterreg.scanner import ConeBeam
from iterreg.texts import parse_json, without_controls

ODD_VALUES = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
"""What values of a wrong kind in ``run.json`` lead to."""

EXPECTED_ERROR = "expected_error_mm.nii.gz"


@dataclass(frozen=True)
class Source:
    """Everything that a page is made from.

    Args:
        tables: the content of ``run.json``; any key may be missing.
        transform: fixed to moving, on the fixed grid.
        images: fixed and moving; None leaves the pictures out.
        labels: fixed and moving regions; None leaves outlines out.
        start: the transform to show as "before"; None is the identity in physical space.
        expected_error: on the fixed grid, mm; of several channels the last is shown.
        folder: of the result, as commands on the page name it.
        notes: what could not be found.
    """

    tables: Mapping[str, Any]
    transform: Transform
    images: tuple[Image, Image] | None
    labels: tuple[LabelMap, LabelMap] | None = None
    start: Transform | None = None
    expected_error: Image | None = None
    folder: str = "DIR"
    notes: tuple[str, ...] = field(default=())

    @cached_property
    def fovs(self) -> tuple[Tensor, Tensor] | None:
        """Both fields of view, (*shape) bool on their images' grids."""
        if self.images is None:
            return None
        fixed, moving = (field_of_view(image).mask for image in self.images)
        return fixed, moving

    def fixed_regions_on(self, grid: Grid) -> LabelMap | None:
        """The fixed regions if they lie on a grid, else None."""
        if self.labels is None or not self.labels[0].grid.same_space(grid):
            return None
        return self.labels[0]


def read_folder(
    folder: str | Path, fixed: str | Path | None = None, moving: str | Path | None = None
) -> Source:
    """Read the source of a page from the folder of an older result.

    Args:
        folder: has ``run.json`` and ``transform.h5``.
        fixed, moving: the images; None takes the paths that ``run.json`` names. An image that is
            not found is left out with a note, unless it was named here.

    Raises:
        ImageReadError: no ``run.json``, or a file that cannot be read.
        TransformError: the transform cannot be read.
    """
    folder = Path(folder)
    tables = _read_tables(folder / "run.json")
    notes: list[str] = []
    paths = [
        _image_path(folder, tables, side, given)
        for side, given in (("fixed", fixed), ("moving", moving))
    ]
    images = None
    missing = [side for side, path in zip(("fixed", "moving"), paths, strict=True) if path is None]
    if missing:
        notes.append(
            f"The {' and the '.join(missing)} image is not where run.json says. Add --fixed and "
            "--moving to see the images."
        )
    else:
        images = _read_image(paths[0], tables, "fixed"), _read_image(paths[1], tables, "moving")
        notes += [note for image in images for note in image.notes]
    transform_path = folder / "transform.h5"
    if not os.path.isfile(transform_path):
        raise ImageReadError(f"{transform_path}: no such file; expected the folder of a result")
    transform = read_transform(transform_path, None if images is None else images[0].grid)
    if images is not None:
        transform = resample_transform(transform, images[0].grid)
    return Source(
        tables=tables,
        transform=transform,
        images=images,
        labels=_read_labels(folder, tables, notes),
        expected_error=read_expected_error(folder, notes),
        folder=str(folder),
        notes=tuple(notes),
    )


def _read_image(path: Path | None, tables: Mapping[str, Any], side: str) -> Image:
    """An image, of a DICOM folder the series that the user or else the run took."""
    image = read_image(str(path), series_of(side) or table(tables, side).get("series"))
    return replace(image, scanner=_scanner(tables, side))


def scanner_of_run(folder: Path, side: str) -> ConeBeam | None:
    """The scanner that the run in a folder names for an image; None too if there is no run.

    Args:
        folder: may hold ``run.json``.
        side: fixed or moving.

    Raises:
        ImageReadError: ``run.json`` is none.
    """
    path = folder / "run.json"
    return _scanner(_read_tables(path), side) if os.path.exists(path) else None


def _scanner(tables: Mapping[str, Any], side: str) -> ConeBeam | None:
    named = f"{side}_scanner"
    given = table(tables, "config", named)
    return getattr(load_config({"schema": SCHEMA, named: given}), named) if given else None


def _read_tables(path: Path) -> Mapping[str, Any]:
    try:
        tables = parse_json(path.read_text("utf-8"))
    except FileNotFoundError as error:
        message = f"{path}: no such file; expected the folder of a result"
        raise ImageReadError(message) from error
    except (OSError, ValueError) as error:
        raise ImageReadError(f"{path}: expected the run.json of a result: {error}") from error
    if not isinstance(tables, dict) or "schema" not in tables:
        raise ImageReadError(f"{path}: expected the run.json of a result, got one without schema")
    return tables


def _image_path(
    folder: Path, tables: Mapping[str, Any], side: str, given: str | Path | None
) -> Path | None:
    """The path of an image: as given, as ``run.json`` has it, or the same seen from the folder."""
    if given is not None:
        return Path(given)
    name = table(tables, side).get("file")
    if not name:
        return None
    candidates = (Path(name), folder / name, folder / Path(name).name)
    return next((path for path in candidates if os.path.exists(path)), None)


def _read_labels(
    folder: Path, tables: Mapping[str, Any], notes: list[str]
) -> tuple[LabelMap, LabelMap] | None:
    named = ((str(k), str(v)) for k, v in table(tables, "regions").items())
    names = {int(k): without_controls(v) for k, v in named if k.isdecimal() and len(k) < 10}
    paths = [folder / f"{side}_regions.nii.gz" for side in ("fixed", "moving")]
    if not all(os.path.isfile(path) for path in paths):
        notes.append("The regions of the run are not in the folder.")
        return None
    return read_label_map(paths[0], names), read_label_map(paths[1], names)


def read_expected_error(folder: Path, notes: list[str] | None = None) -> Image | None:
    """The expected error that lies in a folder, if there is one.

    Args:
        folder: of a result.
        notes: gets a line if the file cannot be read.
    """
    path = folder / EXPECTED_ERROR
    if not os.path.isfile(path):
        return None
    try:
        return read_channels(path)
    except IterregError as error:
        if notes is not None:
            notes.append(f"The expected error is not shown: {error}")
        return None


def outlines(source: Source) -> LabelMap | None:
    """The fixed regions if they lie on the fixed image, else None."""
    return None if source.images is None else source.fixed_regions_on(source.images[0].grid)
