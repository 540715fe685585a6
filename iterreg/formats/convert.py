"""Read a transform of one program and write it for another, with direction and space stated."""

from __future__ import annotations

from pathlib import Path

from iterreg.displacement import Transform, resample_transform
from iterreg.errors import OutputError, TransformError
from iterreg.formats import TRANSFORM_FORMATS, TransformFormat, format_of_file, format_to_write
from iterreg.geometry import Grid
from iterreg.io import extension_of, grid_of_file
from iterreg.tables import load


def convert_transform(
    source: Path,
    out: Path,
    fixed: Path,
    moving: Path | None,
    *,
    source_kind: str = "auto",
    out_kind: str = "auto",
    is_inverse: bool = False,
) -> str:
    """Read a transform, whichever program wrote it, and write it for another.

    Args:
        source: the transform.
        out: the file to write.
        fixed, moving: the images. The moving one may be left out if neither format needs it and the
            transform is not inverted.
        source_kind: a name of ``TRANSFORM_FORMATS``, or ``auto``, which looks into the file.
        out_kind: a name of ``TRANSFORM_FORMATS``, or ``auto``, which goes by the suffix.
        is_inverse: the source maps moving points to fixed ones; it is inverted.

    Returns:
        What was read and written, in words: direction, units and space.

    Raises:
        TransformError: the format cannot be told, or the moving image is needed.
        ImageReadError, ImageContentError, GeometryError, OutputError: a file cannot be used.
    """
    reads: TransformFormat = TRANSFORM_FORMATS[
        format_of_file(source) if source_kind == "auto" else source_kind
    ]
    writes: TransformFormat = TRANSFORM_FORMATS[
        format_to_write(out) if out_kind == "auto" else out_kind
    ]
    if extension_of(out) not in writes.writes:
        raise OutputError(f"{out}: expected one of {' '.join(writes.writes)} for {writes.means}")
    if moving is None and (is_inverse or reads.needs_both_images or writes.needs_both_images):
        raise TransformError("convert: expected the moving image too: its voxels are meant")
    fixed_grid = grid_of_file(fixed)
    moving_grid = fixed_grid if moving is None else grid_of_file(moving)
    start, end = (moving_grid, fixed_grid) if is_inverse else (fixed_grid, moving_grid)
    transform: Transform = load(reads.reader)(source, start, end)
    direction = "moving to fixed" if is_inverse else "fixed to moving"
    lines = [f"read: {reads.means}, {direction}"]
    if is_inverse:
        transform, shares = _inverted(transform, fixed_grid)
        lines.append(f"inverted; voxels: {shares}")
    transform = resample_transform(transform, fixed_grid)
    what = load(writes.writer)(transform, out, moving_grid)
    lines.append(f"wrote: {what}, fixed to moving, on the grid of {fixed.name}")
    return "\n".join(lines)


def _inverted(transform: Transform, onto: Grid) -> tuple[Transform, str]:
    from iterreg.inverse import InverseStatus, invert_to_grid

    inverse, status = invert_to_grid(transform, onto)
    kinds: list[InverseStatus] = list(InverseStatus)
    shares = ((s.name.lower(), float((status == s.value).float().mean())) for s in kinds)
    return inverse, ", ".join(f"{100 * share:.1f} % {name}" for name, share in shares)
