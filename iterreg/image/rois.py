"""Regions of interest: one as a mask, and two that match as a pair."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from iterreg.errors import ImageContentError
from iterreg.geometry import Grid
from iterreg.image.label_maps import LabelMap
from iterreg.neighbourhood import bounding_box


@dataclass(frozen=True, eq=False)
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


@dataclass(frozen=True, eq=False)
class RoiPair:
    """Two matching regions of interest. Regions of different pairs may overlap.

    Args:
        fixed, moving: each on its image's grid. A label map is converted to the :class:`Mask` of
            its voxels that are not 0.
        similarity: of the two regions, 0 to 1; the pair's weight in the energy.
        confidence: probability that both show the same structure; None if unknown. It changes no
            fit.

    Raises:
        ImageContentError: a ROI is empty, or the similarity or confidence is outside 0 to 1.

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
    confidence: float | None = None

    def __post_init__(self) -> None:
        for side in ("fixed", "moving"):
            mask = getattr(self, side)
            if isinstance(mask, LabelMap):
                object.__setattr__(self, side, Mask.of(mask))
        if not 0 <= self.similarity <= 1:
            raise ImageContentError(
                f"{self.fixed.name}: expected a similarity of 0 to 1, got {self.similarity}"
            )
        if self.confidence is not None and not 0 <= self.confidence <= 1:
            raise ImageContentError(
                f"{self.fixed.name}: expected a confidence of 0 to 1, got {self.confidence}"
            )

    def __repr__(self) -> str:
        sizes = [int(mask.data.sum()) for mask in (self.fixed, self.moving)]
        return f"RoiPair({sizes[0]} and {sizes[1]} voxels, similarity {self.similarity:.3f})"
