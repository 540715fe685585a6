"""Conversion of a transform from one format to another."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from iterreg.displacement import resample_transform
from iterreg.errors import GeometryError, OutputError, PluginError, TransformError
from iterreg.formats import TRANSFORM_FORMATS
from iterreg.formats.chains import with_inverse
from iterreg.formats.itk_objects import chain
from iterreg.formats.loaded import Loaded
from iterreg.formats.reading import recognise
from iterreg.formats.types import Sides, TransformFormat
from iterreg.geometry import Grid
from iterreg.inverse import Inverse
from iterreg.io import extension_of, grid_of_file, series_of
from iterreg.plugins import PluginWarning

if TYPE_CHECKING:
    pass

AUTO = "auto"
"""Choose the format by the file."""


@dataclass(frozen=True)
class TransformFile:
    """A file to read or write, and its format.

    Args:
        path: the file.
        format: a name in ``TRANSFORM_FORMATS``, or ``"auto"``.
    """

    path: Path
    format: str = AUTO


@dataclass(frozen=True)
class Images:
    """The images that a conversion depends on.

    Args:
        fixed: the fixed image.
        moving: the moving image, if it is known.
        source, reference: the images that the program which made the transform moved, and moved
            it to. FSL's numbers depend on them.
    """

    fixed: Path
    moving: Path | None = None
    source: Path | None = None
    reference: Path | None = None


def convert_transform(
    source: TransformFile | Sequence[TransformFile],
    out: TransformFile,
    images: Images,
    *,
    is_inverse: bool = False,
) -> str:
    """Read a transform in one format and write it in another.

    The result maps fixed points to moving points, on the fixed image's grid.

    Args:
        source: the transform to read, or several, of which the first is applied to a point first.
            Its format is recognised by the file if it is "auto".
        out: the file to write. Its format follows from the suffix if it is "auto".
        images: that it lies between. The moving image is not needed between formats in mm.
        is_inverse: the source maps moving points to fixed points; it is inverted.

    Returns:
        A report of what was read and written, with direction, units and space.

    Raises:
        TransformError: the source's format is not recognised, or an image is missing.
        OutputError: the output's format is unclear, or the file cannot be written.
        ImageReadError, ImageContentError, GeometryError: a file cannot be used.
    """
    to_write = _format_to_write(out)
    links = _links([source] if isinstance(source, TransformFile) else source)
    by_both = any(link.row.needs_moving and not link.row.needs_source for link in links)
    if images.moving is None and (is_inverse or by_both or to_write.needs_moving):
        raise TransformError(
            f"{out.path}: this conversion depends on both images: add the moving image (--moving)"
        )
    fixed = grid_of_file(images.fixed, series_of("fixed"))
    moving = fixed if images.moving is None else grid_of_file(images.moving, series_of("moving"))
    if moving.rank != fixed.rank:
        raise GeometryError(
            f"{images.moving}: expected rank {fixed.rank} as {images.fixed}, got {moving.rank}"
        )
    own = moving if is_inverse else fixed
    loaded = chain([link.load(images, (fixed, moving), is_inverse) for link in links])
    direction = "moving to fixed" if is_inverse else "fixed to moving"
    report = [f"read: {', then '.join(link.row.meaning for link in links)}, {direction}"]
    if is_inverse and loaded.is_linear:
        back = np.asarray(np.linalg.inv(loaded.affine_lps), np.float64)
        transform = Loaded(loaded.name, loaded.rank, back).on(fixed)
        report.append("inverted")
    elif is_inverse:
        inverse = Inverse(loaded.on(own), fixed)
        transform = inverse.transform
        report.append(f"inverted; voxels: {inverse.in_words}")
    else:
        transform = loaded.on(own)
    transform = resample_transform(transform, fixed)
    assert to_write.write is not None
    written = to_write.write(transform, out.path, moving)
    report.append(f"wrote: {written}, fixed to moving, on the grid of {images.fixed.name}")
    return "\n".join(report)


@dataclass(frozen=True)
class _Link:
    """A file of a chain.

    Args:
        path: the file.
        row: its format.
        is_inverse: whether the chain takes the inverse of what it holds.
    """

    path: Path
    row: TransformFormat
    is_inverse: bool

    def load(self, images: Images, grids: tuple[Grid, Grid], is_inverse: bool) -> Loaded:
        """Read it.

        Args:
            images: as the user names them.
            grids: of the fixed and the moving image.
            is_inverse: whether the whole chain leads from moving to fixed points.
        """
        loaded = self.row.load(self.path, _sides(self.row, images, grids, is_inverse))
        return loaded.inverted() if self.is_inverse else loaded


def _links(files: Sequence[TransformFile]) -> list[_Link]:
    links = []
    for file in files:
        path, is_inverse = with_inverse(file.path)
        name = recognise(path) if file.format == AUTO else file.format
        links.append(_Link(path, TRANSFORM_FORMATS[name], is_inverse))
    return links


def _sides(
    to_read: TransformFormat, images: Images, grids: tuple[Grid, Grid], is_inverse: bool
) -> Sides:
    """The images that the transform lies between: the program's own ones, if it needs them."""
    if not to_read.needs_source:
        return Sides(*(reversed(grids) if is_inverse else grids))
    named = images.reference, images.source
    return Sides(*(None if path is None else grid_of_file(path) for path in named))


def _format_to_write(out: TransformFile) -> TransformFormat:
    suffix = extension_of(out.path)
    names = [out.format]
    if out.format == AUTO:
        names = _writable()
    fitting = [name for name in names if suffix in TRANSFORM_FORMATS[name].write_suffixes]
    if not fitting:
        known = _known(names)
        raise OutputError(f"{out.path}: expected one of {known}; got {_suffix_text(suffix)}")
    if len(fitting) > 1:
        raise OutputError(
            f"{out.path}: {suffix} can hold more than one format ({', '.join(fitting)}): "
            "choose one with --to"
        )
    chosen: TransformFormat = TRANSFORM_FORMATS[fitting[0]]
    return chosen


def _writable() -> list[str]:
    """The formats that can be written, without plug-ins that cannot be loaded."""
    names = []
    for name in TRANSFORM_FORMATS:
        try:
            if TRANSFORM_FORMATS[name].write is not None:
                names.append(name)
        except PluginError as error:
            warnings.warn(PluginWarning(f"{error}; left out"), stacklevel=2)
    return names


def _known(names: list[str]) -> str:
    rows = {name: TRANSFORM_FORMATS[name] for name in names}
    return "; ".join(
        f"{name}: {row.meaning} ({' '.join(row.write_suffixes)})" for name, row in rows.items()
    )


def _suffix_text(suffix: str) -> str:
    return suffix or "no suffix"
