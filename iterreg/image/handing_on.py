"""Handing a value on to another package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from iterreg.tables import load

if TYPE_CHECKING:
    import SimpleITK as sitk


class ForOtherPackages:
    """What has voxels on a grid, as an image of another package.

    The functions are named, not imported: other packages' images stand above this module.
    """

    def to_nibabel(self) -> Any:
        """Return a ``nibabel.Nifti1Image`` of the same voxels.

        Raises:
            GeometryError: a picture, or several channels.
        """
        return load("iterreg.io.foreign:to_nibabel")(self)

    def to_simpleitk(self) -> sitk.Image:
        """Return a ``SimpleITK.Image`` of the same voxels."""
        image: sitk.Image = load("iterreg.io.foreign:to_simpleitk")(self)
        return image
