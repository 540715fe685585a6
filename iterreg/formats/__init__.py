"""Transforms of other programs: one file per convention, one row each in ``TRANSFORM_FORMATS``.

This module imports nothing heavy, because the command line reads the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from iterreg.errors import OutputError, TransformError
from iterreg.formats.common import COMPOSITE_EXTENSIONS, nifti_shape
from iterreg.tables import Table, load


@dataclass(frozen=True)
class TransformFormat:
    """A convention in which programs store transforms.

    Args:
        means: units, space and direction, in words.
        writes: the suffixes that can be written.
        needs_both_images: whether a file can be understood only with both images' grids.
        recogniser: reference of ``(path) -> bool``.
        reader: reference of ``(path, start: Grid, end: Grid) -> Transform``.
        writer: reference of ``(transform, path, moving: Grid) -> str``, which returns in words
            what it wrote.
    """

    means: str
    writes: tuple[str, ...]
    needs_both_images: bool
    recogniser: str
    reader: str
    writer: str


TRANSFORM_FORMATS = Table(
    "transform format",
    {
        "itk": TransformFormat(
            "ITK transform (mm, LPS)",
            (*COMPOSITE_EXTENSIONS, ".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr"),
            False,
            "iterreg.formats.itk:is_itk_file",
            "iterreg.formats.itk:read_for",
            "iterreg.formats.itk:write_for",
        ),
        "learn2reg": TransformFormat(
            "Learn2Reg field, moving index minus fixed index in voxels, nibabel's order",
            (".npz", ".nii.gz"),
            True,
            "iterreg.formats.learn2reg:is_learn2reg_file",
            "iterreg.formats.learn2reg:read_for",
            "iterreg.formats.learn2reg:write_for",
        ),
    },
)


def format_of_file(path: Path) -> str:
    """The name of the format that a file is in.

    Raises:
        ImageReadError: missing or unreadable.
        TransformError: no format, or more than one, recognises it.
    """
    from iterreg.io import extension_of

    found = [name for name, row in TRANSFORM_FORMATS.items() if load(row.recogniser)(path)]
    if len(found) == 1:
        return found[0]
    kinds = "; ".join(f"{name}: {row.means}" for name, row in TRANSFORM_FORMATS.items())
    got = " or ".join(found) or "another file"
    if extension_of(path).startswith(".nii") and not found:
        got = f"an image of {' x '.join(map(str, nifti_shape(path)))}"
    raise TransformError(
        f"{path}: expected a transform of one of these formats ({kinds}), got {got}"
    )


def format_to_write(out: Path) -> str:
    """The name of the format that a file's suffix stands for.

    Raises:
        OutputError: the suffix stands for no format, or for more than one.
    """
    from iterreg.io import extension_of

    suffix = extension_of(out)
    found = [name for name, row in TRANSFORM_FORMATS.items() if suffix in row.writes]
    if len(found) == 1:
        return found[0]
    if found:
        raise OutputError(f"{out}: {' and '.join(found)} both write {suffix}: say which with --to")
    every = sorted({s for row in TRANSFORM_FORMATS.values() for s in row.writes})
    got = suffix or "no extension"
    raise OutputError(f"{out}: cannot be written: expected one of {' '.join(every)}, got {got}")
