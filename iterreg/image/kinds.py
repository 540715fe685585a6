"""What stands for an image, a label map, points or a grid, wherever a user gives one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from iterreg.geometry import Grid, Points
from iterreg.image.images import Image
from iterreg.image.label_maps import LabelMap

if TYPE_CHECKING:
    import SimpleITK as sitk


class WithAffine(Protocol):
    """An image of nibabel, MONAI or torchio."""

    @property
    def affine(self) -> Any:
        """From an index (i, j, k) to a point, mm."""


class WithOrigin(Protocol):
    """An image of ANTs."""

    @property
    def spacing(self) -> Any:
        """Along i, j and k, mm."""

    @property
    def origin(self) -> Any:
        """The first voxel, LPS mm."""

    @property
    def direction(self) -> Any:
        """Columns: the axes of i, j and k, LPS."""


if TYPE_CHECKING:
    ImageLike = str | Path | sitk.Image | Image | WithAffine | WithOrigin
    LabelsLike = str | Path | sitk.Image | LabelMap | WithAffine | WithOrigin
    GridLike = Grid | ImageLike | LabelMap
    PointsLike = str | Path | Points
