"""Images, label maps and masks on their grids: frozen values."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import torch

from iterreg.errors import GeometryError, ImageContentError
from iterreg.geometry import AxisOrder, Grid, canonical
from iterreg.labels import label_counts
from iterreg.neighbourhood import bounding_box


@dataclass(frozen=True)
class Image:
    """An image with intensities.

    Args:
        data: (C, *shape) float32; C is 1, or 3 for RGB pictures.
        grid: where its voxels are.
        dtype: NumPy name of the type in which files store it.
        slope, intercept: stored value * slope + intercept = intensity.
        name: the file or argument it came from; messages use it.
        notes: what the user should know about how the file was read.
        series: UID of its DICOM series, if it comes from one.

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
    name: str = "image"
    notes: tuple[str, ...] = ()
    series: str = ""

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
        """Return this image if it can be registered.

        Raises:
            ImageContentError: a voxel is NaN or infinite, or all voxels are equal.
        """
        # One sum tells in most cases; asking every voxel takes ten times as long.
        if not bool(self.data.sum().isfinite()) and not bool(torch.isfinite(self.data).all()):
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
        """Return the image with its axes nearest to (S, P, L), and the reordering applied."""
        grid, order = canonical(self.grid)
        return replace(self, data=order.apply(self.data), grid=grid), order


@dataclass(frozen=True)
class LabelMap:
    """One label per voxel, an integer; 0 is background.

    Args:
        data: (*shape) int32.
        grid: where its voxels are.
        names: names of labels; labels without a name are allowed.
        name: the file or argument it came from; messages use it.
        notes: what the user should know about how the file was read.
        whole: all voxels of each label that shares some with others; ``data`` give a shared voxel
            to the smallest.

    Raises:
        GeometryError: data and grid have different shapes.
        ImageContentError: data are not int32.

    Example:
        >>> import torch
        >>> from iterreg import Grid, LabelMap
        >>> grid = Grid((2, 3), (0.5, 2.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> data = torch.tensor([[0, 5, 5], [0, 7, 7]], dtype=torch.int32)
        >>> labels = LabelMap(data, grid, {5: "liver"})
        >>> labels.values, labels.title(5), labels.title(7)
        ([5, 7], 'liver', 'label 7')
    """

    data: torch.Tensor
    grid: Grid
    names: dict[int, str] = field(default_factory=dict)
    name: str = "labels"
    notes: tuple[str, ...] = ()
    whole: dict[int, Mask] = field(default_factory=dict)

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

    @cached_property
    def values(self) -> list[int]:
        """The labels that occur, without background, in ascending order."""
        return [value for value in label_counts(self.data) if value != 0]

    def title(self, value: int) -> str:
        """Return the name of a label, or ``label N`` if it has none."""
        return self.names.get(value, f"label {value}")

    def mask(self, value: int) -> torch.Tensor:
        """Return one label's voxels, (*shape) bool."""
        return self.data == value

    def to_canonical(self) -> tuple[LabelMap, AxisOrder]:
        """Return the label map with its axes nearest to (S, P, L), and the reordering applied.

        Labels that overlap keep only the voxels that are theirs alone.
        """
        grid, order = canonical(self.grid)
        return replace(self, data=order.apply(self.data), grid=grid, whole={}), order


@dataclass(frozen=True)
class Mask:
    """A region of interest. It stores only its bounding box: hundreds of masks fit into memory.

    Args:
        inside: (*box) bool.
        first_zyx: index of the box's first voxel.
        grid: of the whole image.
        name: the file or argument it came from; messages use it.

    Example:
        >>> import torch
        >>> from iterreg import Grid, LabelMap, Mask
        >>> grid = Grid((2, 3), (0.5, 2.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> data = torch.tensor([[0, 0, 1], [0, 1, 1]], dtype=torch.int32)
        >>> mask = Mask.of(LabelMap(data, grid))
        >>> mask.first_zyx, mask.inside.shape, mask.data.shape
        ((0, 1), torch.Size([2, 2]), torch.Size([2, 3]))
    """

    inside: torch.Tensor
    first_zyx: tuple[int, ...]
    grid: Grid
    name: str = "mask"

    @classmethod
    def of(cls, labels: LabelMap) -> Mask:
        """Make the mask of all voxels that are not 0 in a label map.

        Raises:
            ImageContentError: all voxels are 0.
        """
        inside = labels.data != 0
        box = bounding_box(inside)
        if box is None:
            raise ImageContentError(f"{labels.name}: expected a ROI with voxels, got none")
        # A clone, because a view would keep the whole image's voxels in memory.
        return cls(inside[box].clone(), tuple(s.start for s in box), labels.grid, labels.name)

    @property
    def data(self) -> torch.Tensor:
        """The mask on the whole grid, (*shape) bool; computed at every call."""
        whole = torch.zeros(self.grid.shape_zyx, dtype=torch.bool, device=self.inside.device)
        box = tuple(
            slice(first, first + n)
            for first, n in zip(self.first_zyx, self.inside.shape, strict=True)
        )
        whole[box] = self.inside
        return whole


@dataclass(frozen=True)
class RoiPair:
    """Two matching regions of interest. Regions of different pairs may overlap.

    Args:
        fixed, moving: each on its image's grid. A label map is converted to the :class:`Mask` of
            its voxels that are not 0.
        similarity: of the two regions, 0 to 1; the pair's weight in the energy.

    Raises:
        ImageContentError: a ROI is empty, or the similarity is outside 0 to 1.

    Example:
        >>> import torch
        >>> from iterreg import Grid, LabelMap, RoiPair
        >>> grid = Grid((2, 3), (0.5, 2.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> data = torch.tensor([[0, 0, 1], [0, 1, 1]], dtype=torch.int32)
        >>> RoiPair(LabelMap(data, grid), LabelMap(data.flip(1), grid), similarity=0.9)
        RoiPair(3 and 3 voxels, similarity 0.900)
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
    """Anything that has a grid and a name."""

    @property
    def grid(self) -> Grid:
        """Where its voxels are."""

    @property
    def name(self) -> str:
        """The file or argument it came from."""


def require_same_space(first: OnGrid, second: OnGrid) -> None:
    """Refuse two values that should be in the same space but are not.

    Args:
        first: the value to check (a label map, a mask).
        second: the value whose space it should share (its image).

    Raises:
        GeometryError: they differ; the message names both and the difference.
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
