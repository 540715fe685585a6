"""Values that flow through iterreg: images and label maps on their grids. Plain and frozen."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

import torch

from iterreg.errors import GeometryError, ImageContentError
from iterreg.geometry import AxisOrder, Grid, canonical


@dataclass(frozen=True)
class Image:
    """An image with intensities.

    Args:
        data: (C, *shape) float32; C is 1 for medical images, 3 for RGB pictures.
        grid: where its voxels are.
        dtype: NumPy name of the type that the file stores, written back on saving.
        slope, intercept: stored value * slope + intercept = intensity.
        name: the file or argument it came from; used in messages.

    Example:
        >>> from iterreg.geometry import Grid
        >>> axes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
        >>> grid = Grid((2, 3, 4), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0), axes)
        >>> image = Image(torch.arange(24.0).view(1, 2, 3, 4), grid, dtype="int16")
        >>> image.dtype, tuple(image.data.shape)
        ('int16', (1, 2, 3, 4))
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
        """This image, once it is known to be registrable.

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
        """The image with its axes nearest to (S, P, L), and the order that takes it there."""
        grid, order = canonical(self.grid)
        return replace(self, data=order.apply(self.data), grid=grid), order


@dataclass(frozen=True)
class LabelMap:
    """Integers per voxel; 0 is background.

    Args:
        data: (*shape) int32.
        grid: where its voxels are.
        names: name of each label, where known.
        name: the file or argument it came from; used in messages.

    Example:
        >>> from iterreg.geometry import Grid
        >>> axes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
        >>> grid = Grid((2, 3, 4), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0), axes)
        >>> data = torch.zeros(2, 3, 4, dtype=torch.int32)
        >>> data[0], data[1] = 7, 3
        >>> labels = LabelMap(data, grid, {7: "lung"})
        >>> labels.values, labels.title(7), labels.title(3)
        ([3, 7], 'lung', 'label 3')
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
        known = ", ".join(f"{v} {self.title(v)}" for v in self.values[:8])
        more = ", ..." if len(self.values) > 8 else ""
        return f"LabelMap({self.name}: {self.grid!r}, labels {known}{more})"

    @property
    def values(self) -> list[int]:
        """The labels that occur, background left out, ascending."""
        return [int(v) for v in torch.unique(self.data).tolist() if v != 0]

    def title(self, value: int) -> str:
        """The name of a label, or ``label N`` where it has none."""
        return self.names.get(value, f"label {value}")

    def mask(self, value: int) -> torch.Tensor:
        """(*shape) bool, one label's voxels."""
        return self.data == value

    def to_canonical(self) -> tuple[LabelMap, AxisOrder]:
        """The label map with its axes nearest to (S, P, L), and the order that takes it there."""
        grid, order = canonical(self.grid)
        return replace(self, data=order.apply(self.data), grid=grid), order


@dataclass(frozen=True)
class Mask:
    """A region of interest, kept as the box that it fills: hundreds of them fit into memory.

    Args:
        inside: (*box) bool.
        first_zyx: index of the box's first voxel.
        grid: of the whole image.
        name: the file or argument it came from; used in messages.

    Example:
        >>> from iterreg.geometry import Grid
        >>> axes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
        >>> grid = Grid((2, 3, 4), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0), axes)
        >>> data = torch.zeros(2, 3, 4, dtype=torch.int32)
        >>> data[1, 1:, 2] = 1
        >>> mask = Mask.of(LabelMap(data, grid))
        >>> mask.first_zyx, tuple(mask.inside.shape)
        ((1, 1, 2), (1, 2, 1))
    """

    inside: torch.Tensor
    first_zyx: tuple[int, ...]
    grid: Grid
    name: str = "mask"

    @classmethod
    def of(cls, labels: LabelMap) -> Mask:
        """Where a label map is not zero.

        Raises:
            ImageContentError: nowhere.
        """
        where = (labels.data != 0).nonzero()
        if len(where) == 0:
            raise ImageContentError(f"{labels.name}: expected a ROI with voxels, got none")
        first, last = where.min(0).values.tolist(), where.max(0).values.tolist()
        box = tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))
        return cls(labels.data[box] != 0, tuple(first), labels.grid, labels.name)

    @property
    def data(self) -> torch.Tensor:
        """(*shape) bool, on the whole grid; made anew at every call."""
        whole = torch.zeros(self.grid.shape_zyx, dtype=torch.bool, device=self.inside.device)
        box = tuple(
            slice(first, first + n)
            for first, n in zip(self.first_zyx, self.inside.shape, strict=True)
        )
        whole[box] = self.inside
        return whole

    def as_labels(self) -> LabelMap:
        """The label map that is 1 inside and 0 outside."""
        return LabelMap(self.data.int(), self.grid, name=self.name)


@dataclass(frozen=True)
class RoiPair:
    """Two matched regions of interest; those of several pairs may overlap.

    Args:
        fixed, moving: each on its image's grid; a label map stands for where it is not zero, and
            is kept as a :class:`Mask`.
        similarity: how alike they are, 0 to 1; the pair's weight in the energy.

    Raises:
        ImageContentError: an empty ROI, or a similarity outside 0 to 1.

    Example:
        >>> from iterreg.geometry import Grid
        >>> axes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
        >>> grid = Grid((2, 3, 4), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0), axes)
        >>> data = torch.zeros(2, 3, 4, dtype=torch.int32)
        >>> data[1, 1:, 2] = 1
        >>> RoiPair(LabelMap(data, grid), LabelMap(data.flip(2), grid), similarity=0.9)
        RoiPair(2 and 2 voxels, similarity 0.900)
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
    """Anything that lies on a grid and knows its name."""

    @property
    def grid(self) -> Grid:
        """Where its voxels are."""

    @property
    def name(self) -> str:
        """The file or argument it came from."""


def require_same_space(first: OnGrid, second: OnGrid) -> None:
    """Refuse two values that should share a space and do not.

    Args:
        first: the value that is in doubt (a label map, a mask).
        second: the value whose space it should have (its image).

    Raises:
        GeometryError: naming both, and what differs.
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
