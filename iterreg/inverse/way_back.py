"""The inverse as a value: solved when it is needed, on a grid or point by point."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor

from iterreg.displacement import Transform
from iterreg.errors import GeometryError
from iterreg.geometry import Grid
from iterreg.image import Image, LabelMap
from iterreg.inverse.branches import InverseStatus
from iterreg.inverse.residual import InverseResidual, inverse_residual
from iterreg.inverse.solve import InversePoints, invert_points, invert_to_grid
from iterreg.tables import load

if TYPE_CHECKING:
    from iterreg.image.kinds import ImageLike, LabelsLike, PointsLike


@dataclass(frozen=True, eq=False)
class Inverse:
    """The way back of a transform: from the moving image to the fixed one.

    It is solved region by region when its field is first asked for; points are solved one by one
    and need no grid. ``transform, status = inverse`` unpacks it.

    Args:
        forward: the transform, fixed to moving.
        grid: of the moving image, on which the inverse is solved.
        fixed_labels, moving_labels: the regions between which the field may jump, or None.

    Raises:
        GeometryError: a grid of another rank.

    Example:
        >>> import numpy as np, torch
        >>> from iterreg import DisplacementField, Points
        >>> grid = Grid((8, 8), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> shift = Transform(np.eye(3), DisplacementField(torch.full((2, 8, 8), 2.0), grid))
        >>> back = Inverse(shift, grid)
        >>> back.map_points(Points([[5.0, 4.0]])).points.lps.tolist()
        [[3.0, 2.0]]
        >>> back.transform.field.vox[:, 4, 4].tolist()
        [-2.0, -2.0]
    """

    forward: Transform
    grid: Grid
    fixed_labels: LabelMap | None = None
    moving_labels: LabelMap | None = None

    def __post_init__(self) -> None:
        if self.grid.rank != self.forward.grid.rank:
            raise GeometryError(
                f"moving_grid: expected rank {self.forward.grid.rank} as the transform, got "
                f"{self.grid.rank}"
            )

    @cached_property
    def _solved(self) -> tuple[Transform, Tensor]:
        return invert_to_grid(self.forward, self.grid, self.fixed_labels, self.moving_labels)

    @property
    def transform(self) -> Transform:
        """The inverse on the moving grid, from moving to fixed."""
        return self._solved[0]

    @property
    def status(self) -> Tensor:
        """(*moving shape) int8, the :class:`iterreg.inverse.InverseStatus` of each voxel."""
        return self._solved[1]

    @property
    def residual(self) -> InverseResidual:
        """How far the way back and the way there miss each other, mm."""
        return inverse_residual(self.forward, self.transform, self.status)

    @property
    def shares(self) -> dict[str, float]:
        """The share of the moving voxels with each status, 0 to 1."""
        return {
            s.name.lower(): float((self.status == s.value).float().mean()) for s in InverseStatus
        }

    @property
    def in_words(self) -> str:
        """The shares as a line."""
        return ", ".join(f"{100 * share:.1f} % {name}" for name, share in self.shares.items())

    def warp(self, image: ImageLike, *, fill: float | None = None) -> Image:
        """Warp an image of the FIXED space onto the moving grid, with linear interpolation.

        Args:
            image: any kind that :func:`iterreg.optimize_pair` takes.
            fill: intensity outside the image; None takes its minimum.

        Raises:
            IterregError: the image cannot be used.
        """
        warped: Image = load("iterreg.applying:warp")(self.transform, image, fill=fill)
        return warped

    def warp_labels(self, labels: LabelsLike) -> LabelMap:
        """Warp a label map of the FIXED space onto the moving grid: the nearest voxel's label.

        Args:
            labels: any kind that :func:`iterreg.optimize_pair` takes; names are kept. Contours
                (RTSTRUCT) are those of the fixed image.

        Raises:
            IterregError: the labels cannot be used.
        """
        given = load("iterreg.io:as_label_map")(labels, "labels", reference=self.forward.grid)
        warped: LabelMap = load("iterreg.applying:warp_label_map")(self.transform, given)
        return warped

    def map_points(self, points: PointsLike) -> InversePoints:
        """Find where in the fixed image points of the MOVING image come from.

        Args:
            points: a file, or :class:`iterreg.Points`, LPS mm.

        Returns:
            ``.points`` in fixed space, and for each its ``status`` and ``residual_mm``.

        Raises:
            IterregError: the points cannot be used.
        """
        given = load("iterreg.io:as_points")(points, "points")
        return invert_points(self.forward, given, self.fixed_labels, self.moving_labels)

    def __iter__(self) -> Iterator[Transform | Tensor]:
        return iter(self._solved)

    def __repr__(self) -> str:
        regions = "one region" if self.fixed_labels is None else "region by region"
        return f"Inverse(moving to fixed, {regions}, on {self.grid!r})"
