"""Images with intensities."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from iterreg.arguments import require_tensor
from iterreg.errors import GeometryError, ImageContentError
from iterreg.geometry import AxisOrder, Grid, canonical
from iterreg.image.arrays import STORED_AS, as_numpy, ordered, place
from iterreg.image.handing_on import ForOtherPackages
from iterreg.image.space import OnGrid
from iterreg.scanner import ConeBeam

UNNAMED = "image"


@dataclass(frozen=True, eq=False)
class Image(ForOtherPackages):
    """An image with intensities.

    Args:
        data: (C, *shape) float32; C is 1, or 3 for RGB pictures.
        grid: where its voxels are.
        dtype: NumPy name of the type in which files store it.
        slope, intercept: stored value * slope + intercept = intensity.
        name: the file or argument it came from; messages use it. One without a name takes that of
            the argument it is given as.
        notes: what the user should know about how the file was read.
        series: UID of its DICOM series, if it comes from one.
        scanner: of a cone-beam scan, if its geometry is known; else its view is found in the
            voxels.

    Raises:
        GeometryError: data and grid have different shapes.
        ImageContentError: data are not float32.

    Example:
        >>> import torch
        >>> from iterreg import Grid, Image
        >>> grid = Grid((2, 3), (0.5, 2.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> image = Image(torch.arange(6.0).view(1, 2, 3), grid, dtype="int16", name="slice")
        >>> image.data.shape, image.grid.spacing_xyz_mm
        (torch.Size([1, 2, 3]), (0.5, 2.0))
    """

    data: torch.Tensor
    grid: Grid
    dtype: str = "float32"
    slope: float = 1.0
    intercept: float = 0.0
    name: str = UNNAMED
    notes: tuple[str, ...] = ()
    series: str = ""
    scanner: ConeBeam | None = None

    def __post_init__(self) -> None:
        require_tensor(self.data, self.name)
        if not isinstance(self.scanner, ConeBeam | None):
            raise TypeError(
                f"{self.name}: scanner: expected an iterreg.ConeBeam, got "
                f"{type(self.scanner).__name__}"
            )
        if tuple(self.data.shape[1:]) != self.grid.shape_zyx:
            raise GeometryError(
                f"{self.name}: data of shape {tuple(self.data.shape)} does not fill a grid of "
                f"shape {self.grid.shape_zyx}; expected (channels, *shape)"
            )
        if self.data.dtype != torch.float32:
            raise ImageContentError(f"{self.name}: expected float32 data, got {self.data.dtype}")

    def __repr__(self) -> str:
        low, high = float(self.data.min()), float(self.data.max())
        return f"Image({self.name}: {self.grid!r}, {self.dtype}, {low:.5g} to {high:.5g})"

    @classmethod
    def from_array(
        cls,
        array: Any,
        *,
        axes: str,
        spacing_xyz_mm: ArrayLike | None = None,
        affine_ras: Any = None,
        grid: Grid | OnGrid | None = None,
        name: str = UNNAMED,
    ) -> Image:
        """Make an image of a NumPy array or a torch tensor.

        Give exactly one of ``spacing_xyz_mm``, ``affine_ras`` and ``grid``.

        Args:
            array: real numbers, on any device.
            axes: a letter for each axis, in the array's order: ``zyx`` for arrays of SimpleITK,
                ``xyz`` for those of nibabel, torchio and ANTs, ``cxyz`` for MONAI's tensors with
                their channel, ``yx`` or ``yxc`` for pictures.
            spacing_xyz_mm: distance of voxel centres, x first. The first voxel is then at 0, and x,
                y and z grow to the patient's left, back and head (LPS).
            affine_ras: nibabel's matrix, (4, 4), or (3, 3) for a picture: from an index (i, j, k)
                along x, y, z to a point in RAS mm, whatever the order of ``axes``.
            grid: of another image that has the same voxels, or that image.
            name: what messages call it.

        Raises:
            GeometryError: the axes or the place do not fit the array.
            ImageContentError: no real numbers, or neither one nor three channels.

        Example:
            >>> import numpy as np
            >>> from iterreg import Image
            >>> image = Image.from_array(
            ...     np.zeros((2, 3, 4), np.int16), axes="zyx", spacing_xyz_mm=(0.5, 0.5, 3.0)
            ... )
            >>> image.grid
            Grid(4 x 3 x 2 voxels (x first) of 0.5 x 0.5 x 3 mm, axes LPS)
            >>> same = Image.from_array(
            ...     np.zeros((4, 3, 2)), axes="xyz", affine_ras=np.diag([-0.5, -0.5, 3.0, 1.0])
            ... )
            >>> same.grid.same_space(image.grid)
            True
        """
        stored = as_numpy(array, name)
        data, grid = place(
            stored, axes, name, spacing_xyz_mm=spacing_xyz_mm, affine_ras=affine_ras, grid=grid
        )
        if len(data) not in (1, 3):
            raise ImageContentError(f"{name}: expected 1 or 3 channels, got {len(data)}")
        with np.errstate(over="ignore"):  # Too large is infinite, which is refused by name later.
            values = torch.from_numpy(np.array(data, np.float32, order="C"))
        dtype = STORED_AS.get(stored.dtype.name, stored.dtype.name)
        return cls(values, grid, dtype, name=name)

    def named(self, name: str) -> Image:
        """Return the image, with this name if it has none."""
        return replace(self, name=name) if self.name == UNNAMED else self

    def to_array(self, axes: str) -> NDArray[np.float32]:
        """Return the intensities as a NumPy array.

        Args:
            axes: as in :meth:`from_array`. Without ``c`` the image must have one channel.

        Raises:
            GeometryError: other letters, or several channels and no ``c``.
        """
        return ordered(self.data.detach().cpu().numpy(), axes, self.name)

    def checked(self) -> Image:
        """Return this image if it can be registered.

        Raises:
            ImageContentError: a voxel is NaN or infinite, or all voxels are equal.
        """
        # One sum tells in most cases; asking every voxel takes ten times as long.
        if not bool(self.data.sum().isfinite()) and not bool(torch.isfinite(self.data).all()):
            count = int((~torch.isfinite(self.data)).sum())
            raise ImageContentError(
                f"{self.name}: expected finite intensities, got {count} NaN or infinite "
                "voxels; put one value in their place"
            )
        if float(self.data.min()) == float(self.data.max()):
            raise ImageContentError(
                f"{self.name}: expected an image with contrast, but every voxel is "
                f"{float(self.data.flatten()[0]):g}"
            )
        return self

    def to_canonical(self) -> tuple[Image, AxisOrder]:
        """Return the image with its axes nearest to (S, P, L), and the reordering applied."""
        grid, order = canonical(self.grid)
        return replace(self, data=order.apply(self.data), grid=grid), order
