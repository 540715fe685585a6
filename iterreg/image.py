"""Images, label maps, masks and ROI pairs: frozen values that know their grids."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

import torch

from iterreg.errors import GeometryError, ImageContentError
from iterreg.geometry import AxisOrder, Grid, canonical
from iterreg.neighbourhood import bounding_box


@dataclass(frozen=True)
class Image:
    """An image with intensities.

    Args:
        data: (C, *shape) float32; C is 1 for medical images, 3 for RGB pictures.
        grid: of the voxels.
        dtype: NumPy name of the file's number type; the image is saved in it again.
        slope, intercept: stored value * slope + intercept = intensity.
        name: the file or argument it came from, for messages.

    Raises:
        GeometryError: the data does not fill the grid.
        ImageContentError: the data is not float32.

    Example:
        >>> from iterreg import Grid
        >>> grid = Grid((2, 3), (0.5, 0.5), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> Image(torch.arange(6.0).view(1, 2, 3), grid, "uint8", name="ramp.png")
        Image(ramp.png: Grid(3 x 2 voxels (x first) of 0.5 x 0.5 mm, axes LP), uint8, 0 to 5)
    """

    data: torch.Tensor
    grid: Grid
    dtype: str = "float32"
    slope: float = 1.0
    intercept: float = 0.0
    name: str = "image"

    def __post_init__(self) -> None:
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

    def checked(self) -> Image:
        """Return this image after checking that it can be registered.

        Raises:
            ImageContentError: a voxel is NaN or infinite, or all voxels are equal.
        """
        if not bool(torch.isfinite(self.data).all()):
            count = int((~torch.isfinite(self.data)).sum())
            raise ImageContentError(
                f"{self.name}: expected finite intensities, got {count} NaN or infinite voxels"
            )
        if float(self.data.min()) == float(self.data.max()):
            raise ImageContentError(
                f"{self.name}: expected an image with contrast, but every voxel is "
                f"{float(self.data.flatten()[0]):g}"
            )
        return self

    def to_canonical(self) -> tuple[Image, AxisOrder]:
        """The image with its axes nearest to (S, P, L), and the axis order that was applied."""
        grid, order = canonical(self.grid)
        return replace(self, data=order.apply(self.data), grid=grid), order


@dataclass(frozen=True)
class LabelMap:
    """An integer label per voxel; 0 is background.

    Args:
        data: (*shape) int32.
        grid: of the voxels.
        names: name of each label that has one.
        name: the file or argument it came from, for messages.

    Raises:
        GeometryError: the data does not fill the grid.
        ImageContentError: the data is not int32.

    Example:
        >>> from iterreg import Grid
        >>> grid = Grid((2, 3), (0.5, 0.5), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> data = torch.tensor([[0, 1, 1], [0, 0, 7]], dtype=torch.int32)
        >>> labels = LabelMap(data, grid, {1: "lung"})
        >>> labels.values, labels.title(1), labels.title(7), int(labels.mask(1).sum())
        ([1, 7], 'lung', 'label 7', 2)
    """

    data: torch.Tensor
    grid: Grid
    names: dict[int, str] = field(default_factory=dict)
    name: str = "labels"

    def __post_init__(self) -> None:
        if tuple(self.data.shape) != self.grid.shape_zyx:
            raise GeometryError(
                f"{self.name}: labels of shape {tuple(self.data.shape)} do not fill a grid of "
                f"shape {self.grid.shape_zyx}"
            )
        if self.data.dtype != torch.int32:
            raise ImageContentError(f"{self.name}: expected int32 labels, got {self.data.dtype}")

    def __repr__(self) -> str:
        titles = ", ".join(f"{v} {self.title(v)}" for v in self.values[:8])
        more = ", ..." if len(self.values) > 8 else ""
        return f"LabelMap({self.name}: {self.grid!r}, labels {titles}{more})"

    @property
    def values(self) -> list[int]:
        """The labels that occur, ascending, without the background."""
        return [int(v) for v in torch.unique(self.data).tolist() if v != 0]

    def title(self, value: int) -> str:
        """The name of a label, or ``label N`` if it has none."""
        return self.names.get(value, f"label {value}")

    def mask(self, value: int) -> torch.Tensor:
        """(*shape) bool, one label's voxels."""
        return self.data == value

    def to_canonical(self) -> tuple[LabelMap, AxisOrder]:
        """The label map with its axes nearest to (S, P, L), and the axis order that was applied."""
        grid, order = canonical(self.grid)
        return replace(self, data=order.apply(self.data), grid=grid), order


@dataclass(frozen=True)
class Mask:
    """A region of interest, cropped to its bounding box so that hundreds of them fit into memory.

    Args:
        inside: (*box) bool.
        first_zyx: index of the box's first voxel.
        grid: of the whole image.
        name: the file or argument it came from, for messages.

    Example:
        >>> from iterreg import Grid
        >>> grid = Grid((2, 3), (0.5, 0.5), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> data = torch.tensor([[0, 1, 1], [0, 0, 0]], dtype=torch.int32)
        >>> mask = Mask.of(LabelMap(data, grid))
        >>> mask.first_zyx, mask.inside.tolist()
        ((0, 1), [[True, True]])
        >>> mask.data.shape
        torch.Size([2, 3])
    """

    inside: torch.Tensor
    first_zyx: tuple[int, ...]
    grid: Grid
    name: str = "mask"

    @classmethod
    def of(cls, labels: LabelMap) -> Mask:
        """The mask of a label map's non-zero voxels.

        Raises:
            ImageContentError: there are none.
        """
        box = bounding_box(labels.data != 0)
        if box is None:
            raise ImageContentError(f"{labels.name}: expected a ROI with voxels, got none")
        first_zyx = tuple(part.start for part in box)
        return cls(labels.data[box] != 0, first_zyx, labels.grid, labels.name)

    @property
    def data(self) -> torch.Tensor:
        """(*shape) bool on the whole grid; computed at every access."""
        whole = torch.zeros(self.grid.shape_zyx, dtype=torch.bool, device=self.inside.device)
        box = tuple(
            slice(first, first + n)
            for first, n in zip(self.first_zyx, self.inside.shape, strict=True)
        )
        whole[box] = self.inside
        return whole


@dataclass(frozen=True)
class RoiPair:
    """Two matched regions of interest. Regions of different pairs may overlap.

    Args:
        fixed, moving: each on its image's grid. A label map stands for its non-zero voxels, and is
            stored as a :class:`Mask`.
        similarity: 0 to 1; the pair's weight in the energy.

    Raises:
        ImageContentError: an empty ROI, or a similarity outside 0 to 1.

    Example:
        >>> from iterreg import Grid
        >>> grid = Grid((2, 3), (0.5, 0.5), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> left = LabelMap(torch.tensor([[1, 0, 0], [1, 0, 0]], dtype=torch.int32), grid)
        >>> right = LabelMap(torch.tensor([[0, 1, 1], [0, 1, 0]], dtype=torch.int32), grid)
        >>> RoiPair(left, right, 0.9)
        RoiPair(2 and 3 voxels, similarity 0.900)
    """

    fixed: Mask | LabelMap
    moving: Mask | LabelMap
    similarity: float = 1.0

    def __post_init__(self) -> None:
        for side in ("fixed", "moving"):
            mask = getattr(self, side)
            if isinstance(mask, LabelMap):
                object.__setattr__(self, side, Mask.of(mask))
        if not 0 <= self.similarity <= 1:
            raise ImageContentError(
                f"{self.fixed.name}: expected a similarity of 0 to 1, got {self.similarity}"
            )

    def __repr__(self) -> str:
        sizes = [int(mask.data.sum()) for mask in (self.fixed, self.moving)]
        return f"RoiPair({sizes[0]} and {sizes[1]} voxels, similarity {self.similarity:.3f})"


class OnGrid(Protocol):
    """Any value with a grid and a name."""

    @property
    def grid(self) -> Grid:
        """The grid of its voxels."""

    @property
    def name(self) -> str:
        """The file or argument it came from, for messages."""


def require_same_space(first: OnGrid, second: OnGrid) -> None:
    """Check that two values share a space.

    Args:
        first: the value to check, such as a label map or a mask.
        second: the value whose space it must have, such as its image.

    Raises:
        GeometryError: they do not; the message names both and the difference.
    """
    a, b = first.grid, second.grid
    if a.same_space(b):
        return
    if a.shape_zyx != b.shape_zyx:
        size_a, size_b = tuple(reversed(a.shape_zyx)), tuple(reversed(b.shape_zyx))
        what = f"size {size_b}, got {size_a}"
    elif not torch.allclose(torch.tensor(a.spacing_xyz_mm), torch.tensor(b.spacing_xyz_mm), 1e-3):
        what = f"spacing {_short(b.spacing_xyz_mm)} mm, got {_short(a.spacing_xyz_mm)} mm"
    elif not torch.allclose(torch.tensor(a.direction_lps), torch.tensor(b.direction_lps), 0, 1e-3):
        what = f"axes {b.orientation} {b.direction_lps}, got {a.orientation} {a.direction_lps}"
    else:
        what = f"origin {_short(b.origin_lps_mm)} mm, got {_short(a.origin_lps_mm)} mm"
    raise GeometryError(f"{first.name}: expected the space of {second.name}: {what}")


def _short(numbers: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{n:.6g}" for n in numbers) + ")"
