"""Any file that holds voxels, as SimpleITK's image and what it does not tell."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from iterreg.io.choices import warn_of
from iterreg.io.dicom import holds_dicom, load_dicom
from iterreg.io.image_formats import Stored, load_file
from iterreg.io.itk import require_exists

if TYPE_CHECKING:
    import SimpleITK as sitk


def load_stored(path: Path, series: str | None = None) -> tuple[sitk.Image, Stored]:
    """Read a file or a DICOM folder; a voxel may hold several numbers.

    Raises:
        ImageReadError, ImageContentError, GeometryError: it cannot be used.
    """
    require_exists(path)
    loaded, stored = load_dicom(path, series) if holds_dicom(path) else load_file(path)
    warn_of(stored.notes)
    return loaded, stored


def is_itk_image(value: object) -> TypeGuard[sitk.Image]:
    """Whether a value is an image of SimpleITK."""
    import SimpleITK as sitk

    return isinstance(value, sitk.Image)
