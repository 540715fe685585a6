"""Other programs' transforms in and out: ITK's and Learn2Reg's, direction and space stated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from iterreg.displacement import Transform
from iterreg.errors import ImageReadError, OutputError, TransformError
from iterreg.geometry import Grid
from iterreg.io import VOLUME_EXTENSIONS, extension_of, write_displacement_mm
from iterreg.learn2reg.fields import grid_of_file, l2r_to_transform, transform_to_l2r
from iterreg.learn2reg.files import read_field, write_field
from iterreg.transform import (
    COMPOSITE_EXTENSIONS,
    read_transform,
    resample_transform,
    write_transform,
)

if TYPE_CHECKING:
    from iterreg.inverse import InverseStatus


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
        source: ITK transform (.h5, .tfm), ITK displacement field (mm, LPS), or Learn2Reg's field.
        out: .h5 or .tfm for ITK's composite, a volume for its field, .nii.gz or .npz for Learn2Reg.
        fixed, moving: the images. Only an ITK to ITK conversion goes without the moving one.
        source_kind: itk, learn2reg, or auto, which looks into the file.
        out_kind: itk, learn2reg, or auto, which goes by the extension where that tells.
        is_inverse: the source maps moving points to fixed ones; it is inverted.

    Returns:
        What was read and written, for people: direction, units and space.

    Raises:
        TransformError: kinds that cannot be told, or a moving image that is needed.
        ImageReadError, ImageContentError, GeometryError, OutputError: a file cannot be used.
    """
    source_kind = kind_of(source) if source_kind == "auto" else source_kind
    out_kind = _kind_to_write(out) if out_kind == "auto" else out_kind
    if moving is None and (is_inverse or "learn2reg" in (source_kind, out_kind)):
        raise TransformError("convert: expected the moving image too, whose voxels are meant")
    fixed_grid = grid_of_file(fixed)
    moving_grid = fixed_grid if moving is None else grid_of_file(moving)
    start, end = (moving_grid, fixed_grid) if is_inverse else (fixed_grid, moving_grid)
    transform = _read(source, source_kind, start, end)
    direction = "moving to fixed" if is_inverse else "fixed to moving"
    told = [f"read: {_meaning(source_kind)}, {direction}"]
    if is_inverse:
        transform, shares = _inverted(transform, fixed_grid)
        told.append(f"inverted; voxels: {shares}")
    transform = resample_transform(transform, fixed_grid)
    what = _write(transform, out, out_kind, fixed, moving_grid)
    told.append(f"wrote: {what}, fixed to moving, on the grid of {fixed.name}")
    return "\n".join(told)


def kind_of(path: Path) -> str:
    """Whether a file is ITK's or Learn2Reg's, by its extension and the shape in its header.

    Raises:
        ImageReadError: missing or unreadable.
        TransformError: it is neither.
    """
    extension = extension_of(path)
    if extension == ".npz":
        return "learn2reg"
    if extension not in (".nii", ".nii.gz"):
        return "itk"
    import nibabel

    try:
        shape: tuple[int, ...] = getattr(nibabel.load(path), "shape", ())
    except (OSError, nibabel.filebasedimages.ImageFileError) as error:
        raise ImageReadError(f"{path}: cannot be read: {error}") from error
    if len(shape) == 5:
        return "itk"
    if len(shape) == 4 and shape[-1] == 3:
        return "learn2reg"
    raise TransformError(
        f"{path}: expected ITK's vector image (I x J x K x 1 x 3) or Learn2Reg's field "
        f"(I x J x K x 3), got {' x '.join(map(str, shape))}"
    )


def _kind_to_write(out: Path) -> str:
    extension = extension_of(out)
    if extension == ".npz":
        return "learn2reg"
    if extension == ".nii.gz":
        raise OutputError(f"{out}: both kinds are .nii.gz: say which one with --to")
    return "itk"


def _read(source: Path, kind: str, start: Grid, end: Grid) -> Transform:
    if kind == "itk":
        return read_transform(source, start)
    if start.rank != 3:
        raise TransformError(f"{source}: Learn2Reg's fields are 3-D, the images are 2-D")
    k, j, i = start.shape_zyx
    return l2r_to_transform(read_field(source, (i, j, k)), start, end)


def _inverted(transform: Transform, onto: Grid) -> tuple[Transform, str]:
    from iterreg.inverse import InverseStatus, invert_to_grid

    inverse, status = invert_to_grid(transform, onto)
    kinds: list[InverseStatus] = list(InverseStatus)
    shares = ((s.name.lower(), float((status == s.value).float().mean())) for s in kinds)
    return inverse, ", ".join(f"{100 * share:.1f} % {name}" for name, share in shares)


def _write(transform: Transform, out: Path, kind: str, fixed: Path, moving: Grid) -> str:
    extension = extension_of(out)
    if kind == "learn2reg":
        import nibabel

        affine_ras = getattr(nibabel.load(fixed), "affine")  # noqa: B009  its stub lacks it
        write_field(transform_to_l2r(transform, moving), out, affine_ras)
        return _meaning(kind)
    if extension in COMPOSITE_EXTENSIONS:
        write_transform(transform, out)
        return "ITK composite of affine and field (mm, LPS)"
    if extension not in VOLUME_EXTENSIONS:
        raise OutputError(
            f"{out}: expected one of {' '.join(COMPOSITE_EXTENSIONS + VOLUME_EXTENSIONS)} .npz"
        )
    write_displacement_mm(transform, out)
    return "ITK displacement field, total, x y z in mm, LPS"


def _meaning(kind: str) -> str:
    if kind == "learn2reg":
        return "Learn2Reg field, moving index minus fixed index in voxels, nibabel's order"
    return "ITK transform (mm, LPS)"
