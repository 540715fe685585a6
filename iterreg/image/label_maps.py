"""Label maps: one integer per voxel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from iterreg.arguments import require_tensor
from iterreg.errors import GeometryError, ImageContentError
from iterreg.geometry import AxisOrder, Grid, canonical
from iterreg.image.arrays import as_numpy, ordered, place, require_whole_numbers
from iterreg.image.handing_on import ForOtherPackages
from iterreg.image.space import OnGrid
from iterreg.labels import label_counts

if TYPE_CHECKING:
    from iterreg.image.rois import Mask


UNNAMED = "labels"


@dataclass(frozen=True, eq=False)
class LabelMap(ForOtherPackages):
    """One label per voxel, an integer; 0 is background.

    Args:
        data: (*shape) int32.
        grid: where its voxels are.
        names: names of labels; labels without a name are allowed.
        name: the file or argument it came from; messages use it. One without a name takes that of
            the argument it is given as.
        notes: what the user should know about how the file was read.
        whole: all voxels of each label that shares some with others; ``data`` give a shared voxel
            to the smallest.

    Raises:
        GeometryError: data and grid have different shapes.
        ImageContentError: data are not int32, or names are not of numbers.

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
    name: str = UNNAMED
    notes: tuple[str, ...] = ()
    whole: dict[int, Mask] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_tensor(self.data, self.name)
        if tuple(self.data.shape) != self.grid.shape_zyx:
            raise GeometryError(
                f"{self.name}: labels of shape {tuple(self.data.shape)} do not fill a grid of "
                f"shape {self.grid.shape_zyx}"
            )
        if self.data.dtype != torch.int32:
            raise ImageContentError(f"{self.name}: expected int32 labels, got {self.data.dtype}")
        for number, name in self.names.items():
            if not (isinstance(number, Integral) and isinstance(name, str)):
                raise ImageContentError(
                    f"{self.name}: names: expected a dict of number: name, got {number!r}: {name!r}"
                )

    def __repr__(self) -> str:
        known = ", ".join(f"{v} {self.title(v)}" for v in self.values[:8])
        more = ", ..." if len(self.values) > 8 else ""
        return f"LabelMap({self.name}: {self.grid!r}, labels {known}{more})"

    @classmethod
    def from_array(
        cls,
        array: Any,
        *,
        axes: str,
        spacing_xyz_mm: ArrayLike | None = None,
        affine_ras: Any = None,
        grid: Grid | OnGrid | None = None,
        names: Mapping[int, str] | None = None,
        name: str = UNNAMED,
    ) -> LabelMap:
        """Make a label map of a NumPy array or a torch tensor, such as a network's answer.

        Args:
            array: whole numbers of any type, bool among them. A channel axis must have length 1.
            axes, spacing_xyz_mm, affine_ras, grid, name: as :meth:`iterreg.Image.from_array`.
            names: of the labels.

        Raises:
            GeometryError: the axes or the place do not fit the array.
            ImageContentError: not whole numbers, or several channels.

        Example:
            >>> import numpy as np
            >>> from iterreg import Grid, LabelMap
            >>> grid = Grid((2, 3), (0.5, 2.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
            >>> lung = np.array([[0, 0], [1, 1], [1, 1]], bool)
            >>> LabelMap.from_array(lung, axes="xy", grid=grid, names={1: "lung"}).data
            tensor([[0, 1, 1],
                    [0, 1, 1]], dtype=torch.int32)
        """
        data, grid = place(
            as_numpy(array, name),
            axes,
            name,
            spacing_xyz_mm=spacing_xyz_mm,
            affine_ras=affine_ras,
            grid=grid,
        )
        if len(data) != 1:
            raise ImageContentError(
                f"{name}: expected one label per voxel, got {len(data)} channels (for one-hot "
                "labels take the argmax of the channels)"
            )
        require_whole_numbers(data, name)
        values = torch.from_numpy(np.array(data[0], np.int32, order="C"))
        return cls(values, grid, dict(names or {}), name)

    def named(self, name: str) -> LabelMap:
        """Return the label map, with this name if it has none."""
        return replace(self, name=name) if self.name == UNNAMED else self

    def to_array(self, axes: str) -> NDArray[np.int32]:
        """Return the labels as a NumPy array.

        Args:
            axes: as in :meth:`from_array`.

        Raises:
            GeometryError: other letters.
        """
        return ordered(self.data.detach().cpu().numpy()[None], axes, self.name)

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
