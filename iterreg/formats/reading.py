"""Reading a transform of any program: its format is found by what the file says of itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from iterreg.displacement import Transform
from iterreg.errors import PluginError, TransformError
from iterreg.formats import TRANSFORM_FORMATS
from iterreg.formats.foreign import explain
from iterreg.formats.fsl import is_matrix_file
from iterreg.formats.headers import nifti_shape, shape_text
from iterreg.formats.itk_objects import itk_to_loaded, kind_of
from iterreg.formats.loaded import Loaded
from iterreg.formats.types import Sides, TransformFormat
from iterreg.geometry import Grid
from iterreg.io import extension_of

if TYPE_CHECKING:
    import SimpleITK as sitk

    TransformLike = str | Path | sitk.Transform | Transform


OF_RESULT = "transform.h5"
"""The transform in the folder of a result."""


def read_transform(path: str | Path, reference: Grid | None = None) -> Transform:
    """Read a transform of any program that ``docs/formats.rst`` lists.

    Args:
        path: an ITK transform file (.h5, .tfm, .txt, .mat), the image file of a displacement field
            (components x, y, z, LPS mm), or another program's file that says whose it is; or the
            folder of a result, for its ``transform.h5``.
        reference: the fixed grid. Needed if the file has no grid (an affine alone) or holds a
            transform that has to be sampled (B-splines). A displacement field keeps its own grid:
            :func:`~iterreg.displacement.resample_transform` changes it.

    Returns:
        The transform; a file of :func:`write_transform` gives back the same transform.

    Raises:
        TransformError: the file is missing, unreadable or not finite, its rank differs from
            ``reference``, or ``reference`` is needed and None.
        ImageReadError, ImageContentError, GeometryError: a field's image file cannot be used.

    Example:
        >>> import numpy as np
        >>> from iterreg.displacement import DisplacementField
        >>> from iterreg.formats.itk import write_transform
        >>> grid = Grid((4, 5), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> write_transform(Transform(np.eye(3), DisplacementField.zero(grid)), "identity.h5")
        >>> read_transform("identity.h5").grid
        Grid(5 x 4 voxels (x first) of 1 x 1 mm, axes LP)
    """
    of_result = Path(path) / OF_RESULT
    path = of_result if os.path.isfile(of_result) else path
    return load_transform(path, Sides(reference)).on(reference)


def load_transform(path: str | Path, sides: Sides | None = None) -> Loaded:
    """Read what :func:`read_transform` reads, without putting it on a grid.

    Args:
        path: the file.
        sides: the grids of both images, where they are known. With both, a matrix without a word
            is FSL's.

    Raises:
        TransformError, ImageReadError, ImageContentError, GeometryError: as
            :func:`read_transform`, or the format depends on images that are not given.
    """
    path, sides = Path(path), sides or Sides()
    is_fsl = sides.moving is not None and os.path.isfile(path) and is_matrix_file(path)
    row: TransformFormat = TRANSFORM_FORMATS["fsl" if is_fsl else recognise(path, guess=False)]
    return row.load(path, sides)


def as_transform(value: TransformLike, name: str, reference: Grid | None = None) -> Transform:
    """Return a transform, given a path, a SimpleITK transform, or a :class:`Transform` (as it is).

    Args:
        value: the path or object.
        name: the argument's name, used in messages if there is no path.
        reference: the fixed grid, as in :func:`read_transform`.

    Raises:
        TypeError: the value has another type.
        TransformError: as :func:`read_transform`.
    """
    if isinstance(value, Transform):
        return value
    return as_loaded(value, name, Sides(reference)).on(reference)


def as_loaded(value: TransformLike | Loaded, name: str, sides: Sides | None = None) -> Loaded:
    """Return what :func:`as_transform` takes, without putting it on a grid.

    Raises:
        TypeError, TransformError: as :func:`as_transform`.
    """
    import SimpleITK as sitk

    if isinstance(value, Loaded):
        return value
    if isinstance(value, Transform):
        return Loaded(name, value.grid.rank, value.affine_lps, value.field)
    if isinstance(value, str | Path):
        return load_transform(value, sides)
    if not isinstance(value, sitk.Transform):
        raise TypeError(
            f"{name}: expected a path, a SimpleITK transform or a Transform, got {kind_of(value)}"
        )
    return itk_to_loaded(value, name)


def recognise(path: Path, guess: bool = True) -> str:
    """Return the name of the format of a file, by its suffix and what it says of itself.

    Args:
        path: the file.
        guess: take a 4-D NIfTI file of three volumes without a word for a Learn2Reg field.

    Raises:
        ImageReadError: the file is unreadable.
        TransformError: it is missing, or no format matches; if it is known whose it is, by name.
    """
    if not os.path.isfile(path):
        raise TransformError(f"{path}: no such file")
    suffix = extension_of(path)
    failed: PluginError | None = None
    for name in TRANSFORM_FORMATS:
        said = guess or name != "learn2reg" or suffix == ".npz"
        try:
            row: TransformFormat = TRANSFORM_FORMATS[name]
            if said and suffix in row.read_suffixes and row.recognises(path):
                return name
        except PluginError as error:
            failed = failed or error  # told if no other format has this file
    if failed is not None:
        raise failed
    whose = explain(path)
    if whose is not None:
        raise TransformError(f"{path}: this is {whose}")
    shape = nifti_shape(path)
    got = f"shape {shape_text(shape)}" if shape is not None else suffix or "no suffix"
    known = {s for row in TRANSFORM_FORMATS.values() for s in row.read_suffixes}
    reason = " with content of none of them" if suffix in known else ""
    raise TransformError(
        f"{path}: expected a transform of {', '.join(TRANSFORM_FORMATS)} "
        f"({' '.join(sorted(known))}), got {got}{reason}"
    )
