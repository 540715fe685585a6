"""Conversion of a transform from one format to another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from iterreg.displacement import Transform, resample_transform
from iterreg.errors import OutputError, TransformError
from iterreg.formats import TRANSFORM_FORMATS
from iterreg.formats.headers import nifti_shape, shape_text
from iterreg.formats.types import TransformFormat
from iterreg.geometry import Grid
from iterreg.io import extension_of, grid_of_file

if TYPE_CHECKING:
    from iterreg.inverse import InverseStatus

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


def convert_transform(
    source: TransformFile,
    out: TransformFile,
    fixed: Path,
    moving: Path | None,
    *,
    is_inverse: bool = False,
) -> str:
    """Read a transform in one format and write it in another.

    The result maps fixed points to moving points, on the fixed image's grid.

    Args:
        source: the transform to read. Its format is recognised by the file if it is "auto".
        out: the file to write. Its format follows from the suffix if it is "auto".
        fixed, moving: the images. The moving image is not needed between formats in mm.
        is_inverse: the source maps moving points to fixed points; it is inverted.

    Returns:
        A report of what was read and written, with direction, units and space.

    Raises:
        TransformError: the source's format is not recognised, or the moving image is missing.
        OutputError: the output's format is unclear, or the file cannot be written.
        ImageReadError, ImageContentError, GeometryError: a file cannot be used.
    """
    to_write = _format_to_write(out)
    to_read: TransformFormat = TRANSFORM_FORMATS[
        recognise(source.path) if source.format == AUTO else source.format
    ]
    if moving is None and (is_inverse or to_read.needs_moving or to_write.needs_moving):
        raise TransformError(
            f"{out.path}: this conversion depends on both images: add the moving image (--moving)"
        )
    fixed_grid = grid_of_file(fixed)
    moving_grid = fixed_grid if moving is None else grid_of_file(moving)
    grids = (moving_grid, fixed_grid) if is_inverse else (fixed_grid, moving_grid)
    transform = to_read.read(source.path, *grids)
    direction = "moving to fixed" if is_inverse else "fixed to moving"
    report = [f"read: {to_read.meaning}, {direction}"]
    if is_inverse:
        transform, shares = _inverted(transform, fixed_grid)
        report.append(f"inverted; voxels: {shares}")
    transform = resample_transform(transform, fixed_grid)
    written = to_write.write(transform, out.path, moving_grid)
    report.append(f"wrote: {written}, fixed to moving, on the grid of {fixed.name}")
    return "\n".join(report)


def recognise(path: Path) -> str:
    """Return the name of the format of a file, by its suffix and, for NIfTI, its header.

    Raises:
        ImageReadError: a NIfTI file is missing or unreadable.
        TransformError: no format matches.
    """
    suffix = extension_of(path)
    for name, row in TRANSFORM_FORMATS.items():
        if suffix in row.read_suffixes and row.recognises(path):
            return name
    shape = nifti_shape(path)
    got = f"shape {shape_text(shape)}" if shape is not None else _suffix_text(suffix)
    raise TransformError(f"{path}: expected one of {_known('read_suffixes')}; got {got}")


def _format_to_write(out: TransformFile) -> TransformFormat:
    suffix = extension_of(out.path)
    names = list(TRANSFORM_FORMATS) if out.format == AUTO else [out.format]
    fitting = [name for name in names if suffix in TRANSFORM_FORMATS[name].write_suffixes]
    if not fitting:
        known = _known("write_suffixes", names)
        raise OutputError(f"{out.path}: expected one of {known}; got {_suffix_text(suffix)}")
    if len(fitting) > 1:
        raise OutputError(
            f"{out.path}: {suffix} can hold more than one format ({', '.join(fitting)}): "
            "choose one with --to"
        )
    chosen: TransformFormat = TRANSFORM_FORMATS[fitting[0]]
    return chosen


def _known(suffixes: str, names: list[str] | None = None) -> str:
    rows = {name: TRANSFORM_FORMATS[name] for name in names or TRANSFORM_FORMATS}
    return "; ".join(
        f"{name}: {row.meaning} ({' '.join(getattr(row, suffixes))})" for name, row in rows.items()
    )


def _suffix_text(suffix: str) -> str:
    return suffix or "no suffix"


def _inverted(transform: Transform, onto: Grid) -> tuple[Transform, str]:
    from iterreg.inverse import InverseStatus, invert_to_grid

    inverse, status = invert_to_grid(transform, onto)
    kinds: list[InverseStatus] = list(InverseStatus)
    shares = ((s.name.lower(), float((status == s.value).float().mean())) for s in kinds)
    return inverse, ", ".join(f"{100 * share:.1f} % {name}" for name, share in shares)
